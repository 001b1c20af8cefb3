"""Escapes untrusted text for terminals, Markdown, CSV, LaTeX and figures.

Runs, configs, tokenizers and data sets may come from untrusted sources. Each function returns the
text escaped for one output format, so that it is shown literally and has no other effect.
"""

from __future__ import annotations

import re
import unicodedata

_UNUSUAL = re.compile(r"[^\n\t -~\w]")
"""Characters to check: all but newline, tab, printable ASCII, letters and digits."""

_JOINERS = "\u200c\u200d"
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, *, line: bool = False) -> str:
    r"""Escapes characters that control a terminal or are invisible, such as `\x1b` and `\u202e`.

    Unchanged are newlines, tabs, backslashes, every character with a width, combining marks,
    unassigned characters (such as new emoji), and the two joiners that Persian, Indic scripts and
    emoji need. Escaped are control characters (C0, C1), line and paragraph separators, characters
    that change the direction of writing, all other characters without a width (otherwise two
    different names could look the same), and unpaired surrogates, as in file names that are not
    UTF-8.

    Args:
        line: whether to escape newlines and tabs too, for a text that must stay on one line.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _UNUSUAL.sub(_escape, text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if line else text


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _JOINERS or unicodedata.category(character) not in _INVISIBLE_CATEGORIES:
        return character
    code = ord(character)
    if code < 0x7F:
        return repr(character)[1:-1]
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # \u is also valid in JSON


_MARKUP = re.compile(
    r"[\\`*~$]"
    r"|<(?=[A-Za-z/!?])"  # tag or link, but not `< 5`
    r"|\](?=[\[(:])"  # link or image, but not `[1, 2]`
    r"|(?<!\w)_|_(?!\w)"  # inside a word, `_` is not emphasis
    r"|&(?=#?\w+;)"  # entity
)


def markdown(text: str) -> str:
    """Escapes a text for inline Markdown: markup, links, images, HTML and formulas are inactive.

    The result is for the middle of a line: characters that are markup only at the start of a line
    (`>`, `#`, `-`) are unchanged. `|` is unchanged too; in table cells,
    `etude.records.text_tables.markdown_table` escapes it.
    """
    return _MARKUP.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown_code(text: str) -> str:
    """Formats a text as inline Markdown code, with enough backticks to enclose it."""
    text = printable(" ".join(text.split()))
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: object) -> object:
    """Returns a value for a CSV file in a form that a spreadsheet does not execute.

    A text that a spreadsheet reads as a formula gets a `'` at its start. Formulas start with `=`,
    `+`, `-` or `@`, for example `=cmd|...`. Numbers are unchanged, even if they are given as text.
    """
    if not isinstance(value, str) or not value.lstrip(" \n").startswith(_FORMULA_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex(text: str) -> str:
    """Escapes a text for one cell of a LaTeX table, so that it contains no commands."""
    text = printable(" ".join(text.split()))
    return "".join(_LATEX.get(character, character) for character in text)


def figure_label(text: str) -> str:
    r"""Escapes a text for a label or a title of a matplotlib figure.

    `$` is escaped, so that it starts no formula. A leading `_` gets a space before it, because
    matplotlib omits labels that start with `_` from legends. Characters that no installed font
    contains are replaced by their code.
    """
    text = printable(text).replace("$", r"\$")
    if not text.isascii():
        from etude.fonts import drawable

        text = drawable(text)
    return f" {text}" if text.startswith("_") else text
