"""Renders the Markdown report of a paper as one self-contained HTML page without scripts.

HTML in the report is escaped. PNG and JPEG files in the report's `figures` folder are embedded;
other images are replaced by their alt text. As a second safeguard, the page's
Content-Security-Policy blocks all scripts and requests.
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
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
)
_MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
LARGEST = 16 * 2**20
"""Maximum size of an embedded figure, in bytes."""


def html(title: str, markdown: str, folder: Path) -> str:
    """Converts a report in Markdown to a complete HTML page with embedded figures.

    Args:
        title: title of the page.
        markdown: text of the report.
        folder: the report's folder, which contains `figures`.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        renderer: Any = reader.renderer
        alt = escaping.escape(renderer.renderInlineAsText(token.children, options, env))
        source = _data_url(folder, unquote(str(token.attrs.get("src", ""))))
        return alt if source is None else f'<img src="{source}" alt="{alt}">'

    reader.add_render_rule("image", lambda _, *arguments: image(*arguments))
    body = reader.render(markdown)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="referrer" content="no-referrer"><title>{escaping.escape(title)}</title>'
    )
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def _data_url(folder: Path, source: str) -> str | None:
    """Returns an image file as a `data:` URL; None if the file cannot be embedded.

    Only PNG and JPEG files in `figures`, of at most `LARGEST` bytes, can be embedded.

    Args:
        source: path relative to the report's folder `folder`, such as `figures/curves.png`.
    """
    parent, _, name = source.rpartition("/")
    if parent != "figures" or name in ("", ".", "..") or "\0" in name:
        return None
    try:
        content = read_bytes(folder / source, FIGURE)
    except (OSError, RequestError):
        return None
    types = (name for magic, name in _MEDIA_TYPES.items() if content.startswith(magic))
    media_type = next(types, None)
    if media_type is None or len(content) > LARGEST:
        return None
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
