"""A view: an interactive HTML page and a figure with the same content."""

from __future__ import annotations

import base64
import hashlib
import html as escaping
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.arguments import check_arguments
from etude.errors import Problem, RequestError
from etude.records.files import write_text
from etude.views.colour_scale import colour_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 640
"""Height of a page in a notebook, in CSS pixels."""
_SUFFIXES = (".html", ".htm")


class View:
    """An interactive HTML page, and a figure with the same content; a notebook shows the page.

    The page is one file, which requests nothing from the network. The functions of `etude.views`
    return views.

    Args:
        title: heading of the page.
        summary: sizes of the content, in a few words.
        html: text of the page.
        draw: function that returns the figure.

    Attributes:
        html: text of the page.
    """

    @check_arguments(RequestError)
    def __init__(self, title: str, summary: str, html: str, draw: Callable[[], Any]) -> None:
        self.title, self.summary, self.html, self._draw = title, summary, html, draw

    @check_arguments(RequestError)
    def save(self, path: str | Path) -> Path:
        """Writes the page to a file, and returns the path of the file.

        Without a suffix, the path gets the suffix `.html`. Missing folders are created, and an
        existing file is replaced.

        Args:
            path: path of the file.

        Raises:
            RequestError: the path is a folder, has another suffix, or cannot be written.
        """
        file = Path(path)
        if file.is_dir():
            hint = f"for example {file / 'view.html'}"
            raise RequestError(Problem("path", "a path of a file", str(path), hint))
        file = file if file.suffix else file.with_name(f"{file.name}.html")
        if file.suffix.lower() not in _SUFFIXES:
            hint = "`view.figure().savefig(path)` writes a figure"
            raise RequestError(Problem("path", "a file with the suffix .html", str(path), hint))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, self.html)
        except OSError as error:
            expected = "a path that can be written"
            raise RequestError(Problem("path", expected, str(path), error.strerror)) from error
        return file

    def figure(self) -> Figure:
        """Returns the matplotlib figure, for example for a paper."""
        figure: Figure = self._draw()
        return figure

    def _repr_html_(self) -> str:
        # The frame separates styles and scripts from those of the notebook.
        return (
            f'<iframe srcdoc="{escaping.escape(self.html)}" sandbox="allow-scripts allow-modals" '
            f'title="{escaping.escape(self.title)}" width="100%" height="{HEIGHT}" '
            'style="border: 1px solid #ccc; background: #fff"></iframe>'
        )

    def __repr__(self) -> str:
        return f"View: {self.title}, {self.summary}; .save(path) writes the page, .figure() draws"


def html_page(title: str, script: str, data: Mapping[str, Any], *, note: str = "") -> str:
    """Returns a self-contained HTML page.

    The data may contain any text: `<`, `>` and `&` are escaped in the JSON, and the scripts insert
    texts only as text nodes. As a second safeguard, the page's Content-Security-Policy allows only
    the page's own script, and no requests.

    Args:
        title: heading of the page.
        script: name of the script that draws the data, next to this module.
        data: data of the script, as JSON values.
        note: sentence below the heading; empty for none.
    """
    style = _read("page.css")
    code = f"{_read('page.js')}\n{_read(script)}"
    policy = (
        f"default-src 'none'; script-src 'sha256-{_sha256(code)}'; "
        f"style-src 'sha256-{_sha256(style)}'; base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(dict(data) | {"colours": colour_table()}, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    heading = escaping.escape(title)
    about = f'<p class="note" role="note">{escaping.escape(note)}</p>' if note else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{style}</style></head>\n"
        f"<body><h1>{heading}</h1>{about}<noscript>This page needs JavaScript.</noscript>"
        '<main id="main"></main><div id="tip" role="status" hidden></div>\n'
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>{code}</script></body></html>\n"
    )


def rounded(value: float) -> float | None:
    """Returns a number with 3 significant digits; None if it is not finite."""
    number = float(f"{value:.3g}")
    return number if abs(number) < float("inf") else None


def _read(name: str) -> str:
    return files("etude.views").joinpath(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
