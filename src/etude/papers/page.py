"""A report as one page that needs nothing beside it."""

from __future__ import annotations

import base64
import html as escaping
import re
from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1c1c }
table { border-collapse: collapse; font-size: 14px; margin: 1rem 0 }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top }
code { font-size: 13px; overflow-wrap: anywhere }
img { max-width: 100% }
"""


def html(title: str, markdown: str, folder: Path) -> str:
    """A whole page in HTML, its figures in it.

    Args:
        title: of the page.
        markdown: its text.
        folder: where the figures lie that it names.
    """
    body = MarkdownIt("commonmark").enable("table").render(markdown)

    def embedded(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="(figures/[^"]+\.png)"', embedded, body)
    head = f"<meta charset='utf-8'><title>{escaping.escape(title)}</title>"
    return f"<!doctype html><html lang='en'>{head}<style>{_STYLE}</style>\n{body}</html>\n"
