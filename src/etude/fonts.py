"""Fonts of figures: fallback fonts for characters that matplotlib's default font lacks.

matplotlib contains no font with Chinese, Japanese or Korean characters. Chinese and Japanese are
drawn with Noto Sans SC, which the package `zhplot` contains; other characters are drawn with a font
of the system. Characters that no font contains are replaced by their Unicode code.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger("etude")

BUNDLED = "Noto Sans SC"
FALLBACKS = (
    BUNDLED,
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the first, and for matplotlib the only, font of `NotoSansCJK-Regular.ttc`
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "PingFang HK",
    "Hiragino Sans GB",
    "STHeiti",
    "Microsoft YaHei",
    "SimHei",
    "Noto Sans TC",
    "Microsoft JhengHei",
    "Noto Sans JP",
    "IPAexGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "Noto Sans KR",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "NanumGothic",
    "Arial Unicode MS",
    "Unifont",
)
"""Font families with Chinese, Japanese or Korean characters, in the order of preference."""
_FILES = re.compile(
    r"cjk|noto ?sans(sc|tc|jp|kr)|sourcehan|wqy|droidsansfallback|pingfang|hiragino|heiti|msyh"
    r"|simhei|msjh|ipaexg|yugoth|gothicneo|malgun|nanumgothic|arialunicode|unifont",
    re.IGNORECASE,
)
_said: set[str] = set()


def add_fallbacks() -> None:
    """Appends the installed fonts of `FALLBACKS` to matplotlib's font list, `font.family`.

    Then figures of your own show Chinese and Japanese text. Étude's figures don't need it.
    """
    from matplotlib import rcParams

    rcParams["font.family"] = font_families()


def font_families() -> list[str]:
    """Returns matplotlib's `font.family`, followed by the installed fonts of `FALLBACKS`.

    matplotlib uses the later fonts only for characters that the earlier fonts lack.
    """
    from matplotlib import rcParams

    families = list(rcParams["font.family"])
    return [*families, *(family for family in _installed() if family not in families)]


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Returns the font families of `FALLBACKS` that are installed, in the order of `FALLBACKS`."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    paths = [path for path in findSystemFonts() if _FILES.search(path)]
    for path in [*_bundled_files(), *paths]:  # matplotlib's own list lacks fonts installed later
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError) as error:
            log.debug("could not read the font %s: %s", path, error)
    names = {entry.name for entry in fontManager.ttflist}
    return tuple(family for family in FALLBACKS if family in names)


def _bundled_files() -> list[str]:
    """Returns the paths of the font files in the package `zhplot`.

    The package is not imported, because its import changes matplotlib's `rcParams`.
    """
    spec = find_spec("zhplot")
    folders = (spec and spec.submodule_search_locations) or []
    return sorted(str(path) for folder in folders for path in Path(folder).glob("fonts/*.ttf"))


def drawable(text: str) -> str:
    r"""Returns the text with characters that no font contains replaced by codes such as `\u4e2d`.

    When a character is replaced for the first time, a warning names the missing characters.
    """
    if text.isascii():
        return text
    charmaps = list(_charmaps())
    missing = {
        character
        for character in text
        if ord(character) > 0x7E and not any(ord(character) in charmap for charmap in charmaps)
    }
    if missing and not _said:
        log.warning(
            "figures: no installed font contains %s; these characters are replaced by their codes "
            "(to draw them, install a font such as Noto Sans CJK, Debian package fonts-noto-cjk)",
            "".join(sorted(missing)[:10]),
        )
    _said.update(missing)
    return "".join(_code(c) if c in missing else c for c in text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _charmaps() -> Iterator[Collection[int]]:
    """Yields, for each of `font_families`, the code points of its characters."""
    from matplotlib.font_manager import FontProperties, findfont

    for family in font_families():
        yield _charmap(findfont(FontProperties(family=[family])))


@lru_cache(maxsize=16)
def _charmap(path: str) -> Collection[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())
