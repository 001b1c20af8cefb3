"""A report as one page that needs nothing beside it and runs nothing.

HTML in the text is shown as text. Figures are embedded if they are PNG or JPEG files in the folder
of the report; other images leave their words. Whatever got into the page all the same, its
Content-Security-Policy lets no script run and nothing be requested.
"""

from __future__ import annotations

import base64
import hashlib
import html as escaping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from etude.errors import RequestError
from etude.records.opening import FIGURE, read_bytes

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1c1c }
table { border-collapse: collapse; font-size: 14px; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top }
code { font-size: 13px; overflow-wrap: anywhere }
img { max-width: 100% }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
LARGEST = 16 * 2**20
"""Bytes of a figure that is embedded."""


def html(title: str, markdown: str, folder: Path) -> str:
    """A whole page in HTML, its figures in it.

    Args:
        title: of the page.
        markdown: its text.
        folder: where the figures lie that it names.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        renderer: Any = reader.renderer
        alt = escaping.escape(renderer.renderInlineAsText(token.children, options, env))
        found = _embedded(folder, unquote(str(token.attrs.get("src", ""))))
        return alt if found is None else f'<img src="{found}" alt="{alt}">'

    reader.add_render_rule("image", lambda _, *given: image(*given))
    body = reader.render(markdown)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="referrer" content="no-referrer"><title>{escaping.escape(title)}</title>'
    )
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def _embedded(folder: Path, source: str) -> str | None:
    """The file as a `data:` address; None of what is no figure of this folder."""
    above, _, name = source.rpartition("/")
    if above != "figures" or name in ("", ".", "..") or "\0" in name:
        return None
    try:
        content = read_bytes(folder / source, FIGURE)
    except (OSError, RequestError):
        return None
    kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)
    if kind is None or len(content) > LARGEST:
        return None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
