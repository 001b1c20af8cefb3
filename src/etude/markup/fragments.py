"""HTML fragments: elements, tables, collapsible trees and badges, with a style of their own.

A fragment is an `Html`. The functions escape every argument that is not an `Html`, so text from
files or users is shown literally. The style applies only inside of the element that `display`
returns. It uses the text colour of the page and transparent backgrounds, so that it fits light and
dark themes. Fragments need no JavaScript and load nothing.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from etude.escaping import printable

STYLE = """\
.etude-display{font-size:13px;line-height:1.45;text-align:left;color:inherit;max-width:100%}
.etude-display.etude-display table{border-collapse:collapse;border:0;margin:4px 0;\
width:max-content;max-width:none;table-layout:auto;font-size:13px;color:inherit}
.etude-display.etude-display tbody tr{background:none;border:0}
.etude-display.etude-display tbody tr:hover{background:rgba(128,128,128,.12)}
.etude-display.etude-display th,.etude-display.etude-display td{padding:2px 10px 2px 0;border:0;\
border-bottom:1px solid rgba(128,128,128,.3);text-align:left;vertical-align:top;\
white-space:normal;max-width:44em;overflow-wrap:break-word;background:none;color:inherit}
.etude-display.etude-display th{font-weight:600;white-space:nowrap}
.etude-display.etude-display .etude-number{text-align:right;white-space:nowrap;\
font-variant-numeric:tabular-nums}
.etude-display.etude-display .etude-fields th{font-weight:400;opacity:.75}
.etude-display.etude-display .etude-heat td{min-width:2.8em;padding:2px 6px;text-align:right;\
font-variant-numeric:tabular-nums;border:1px solid rgba(128,128,128,.15)}
.etude-display.etude-display .etude-heat th{padding:2px 8px 2px 0}
.etude-display.etude-display .etude-heat thead th{text-align:right;padding:2px 6px}
.etude-display .etude-wide{overflow-x:auto;max-width:100%}
.etude-display .etude-title{font-size:14px;margin:2px 0 4px;overflow-wrap:anywhere}
.etude-display .etude-title strong{margin-right:6px}
.etude-display .etude-note{opacity:.75}
.etude-display.etude-display code,.etude-display .etude-code{font-family:var(--jp-code-font-family,\
var(--vscode-editor-font-family,ui-monospace,Menlo,Consolas,monospace));font-size:12px;\
color:inherit;background:none;padding:0;overflow-wrap:anywhere}
.etude-display details{margin:0;padding:0;border:0;background:none}
.etude-display summary{cursor:pointer;padding:1px 0;color:inherit;display:list-item}
.etude-display .etude-children{margin:0 0 0 5px;padding:0 0 0 13px;\
border-left:1px solid rgba(128,128,128,.35)}
.etude-display .etude-leaf{padding:1px 0 1px 13px;overflow-wrap:anywhere}
.etude-display .etude-badge{display:inline-block;padding:0 7px;border-radius:9px;font-size:12px;\
line-height:18px;color:#fff;background:#666}
.etude-display .etude-good{background:#00725a}
.etude-display .etude-bad{background:#b84700}
.etude-display .etude-active{background:#0067a3}
.etude-display .etude-changed{background:rgba(230,159,0,.28);border-radius:3px;padding:0 3px;\
font-weight:600}
.etude-display .etude-removed{text-decoration:line-through;opacity:.75}
.etude-display .etude-error{border-left:3px solid #d55e00;padding:2px 8px;margin:4px 0;\
white-space:pre-wrap;overflow-wrap:anywhere;max-height:16em;overflow-y:auto}
.etude-display .etude-item{margin-top:4px}
.etude-display .etude-text{white-space:pre-wrap;overflow-wrap:anywhere}
.etude-display .etude-faint{opacity:.5}
.etude-display .etude-token{border:1px solid rgba(128,128,128,.6);border-radius:3px;padding:0 3px;\
margin:0 1px;font-size:11px}
.etude-display .etude-target{background:rgba(86,180,233,.3);border-radius:3px}
.etude-display svg{display:block;margin:4px 0;color:inherit;max-width:100%}
"""


class Html(str):
    """HTML that is inserted as it is; any other text is escaped."""

    __slots__ = ()


def escaped(value: Any) -> Html:
    """Returns a value as HTML text: an `Html` unchanged, and the text of any other value escaped.

    Characters that are invisible or change the direction of writing become visible escapes.
    """
    return value if isinstance(value, Html) else Html(html.escape(printable(str(value))))


def join(parts: Iterable[Any], separator: str = "") -> Html:
    """Returns the concatenation of fragments or texts.

    Args:
        parts: fragments, or other values, whose text is escaped.
        separator: text between them.
    """
    return Html(escaped(separator).join(escaped(part) for part in parts))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """Returns an element.

    Args:
        tag: name of the element.
        children: fragments or values in the element.
        attributes: attributes; an underscore at the end of a name is removed (`class_`), None and
            False omit an attribute, and True sets it without a value.
    """
    listed = ""
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        listed += f" {name}" if value is True else f' {name}="{escaped(value)}"'
    return Html(f"<{tag}{listed}>{join(children)}</{tag}>")


def display(*parts: Any) -> str:
    """Returns the complete display of an object: an element with the style and the parts."""
    return element("div", Html(f"<style>{STYLE}</style>"), *parts, class_="etude-display")


def title(name: Any, *more: Any) -> Html:
    """Returns a heading: a bold name, and further fragments or texts after it."""
    spaced = join([Html(" "), join(more, " ")])
    return element("div", element("strong", name), spaced, class_="etude-title")


def note(*parts: Any) -> Html:
    """Returns a line in a less prominent colour."""
    return element("div", *parts, class_="etude-note")


def code(text: Any) -> Html:
    """Returns a text in a monospaced font."""
    return element("code", text)


def error(text: Any) -> Html:
    """Returns an error message, which keeps its line breaks."""
    return element("div", text, class_="etude-error etude-code")


def badge(text: Any, tone: str = "") -> Html:
    """Returns a short text on a coloured background.

    Args:
        text: the text, which names the state by itself; colours only repeat it.
        tone: `good`, `bad`, `active`, or empty for grey.
    """
    return element("span", text, class_=f"etude-badge etude-{tone}" if tone else "etude-badge")


def table(
    columns: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Collection[int] = ()
) -> Html:
    """Returns a table.

    Args:
        columns: headings.
        rows: cells.
        numeric: indices of the columns whose cells are aligned to the right.
    """

    def line(tag: str, cells: Sequence[Any]) -> Html:
        return element(
            "tr",
            *(
                element(tag, cell, class_="etude-number" if i in numeric else None)
                for i, cell in enumerate(cells)
            ),
        )

    head = element("thead", line("th", columns))
    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", head, body), class_="etude-wide")


def fields(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """Returns a table of names and values, one pair per row."""
    rows = (element("tr", element("th", name), element("td", value)) for name, value in pairs)
    body = element("table", element("tbody", *rows), class_="etude-fields")
    return element("div", body, class_="etude-wide")


def folded(summary: Any, *children: Any, is_open: bool = False) -> Html:
    """Returns a node of a tree, whose children a click on its line shows or hides.

    Args:
        summary: the node's line.
        children: content below it.
        is_open: whether the children are shown at first.
    """
    inner = element("div", *children, class_="etude-children")
    return element("details", element("summary", summary), inner, open=is_open)


def leaf(*parts: Any) -> Html:
    """Returns a node of a tree without children."""
    return element("div", *parts, class_="etude-leaf")
