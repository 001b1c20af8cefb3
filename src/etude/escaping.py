"""Text from anybody's files, harmless where it is shown: terminal, Markdown, CSV, LaTeX, figure.

A record, a config, a tokenizer or a data set may come from a stranger. Each function here takes a
text as it is and returns what shows it, in one kind of place, and does nothing else there.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[^\n\t -~\w]")
"""What has to be looked at: neither a newline, a tab, printable ASCII nor a letter or digit."""

_JOINERS = "\u200c\u200d"
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, *, line: bool = False) -> str:
    r"""The text without what a terminal obeys or hides: `\x1b`, `\u202e` and the like are spelled.

    Accepted are newlines, tabs and every character that has a width or marks a letter, also those
    that Unicode does not know yet (new emoji), and the two joiners that Persian, Indic scripts and
    emoji need. Spelled are control characters (C0, C1), line and paragraph separators, characters
    that change the direction of writing, all others without a width (two names that look alike
    must not differ by one), and halves of surrogate pairs, as in file names that are no UTF-8.
    A backslash stays one backslash.

    Args:
        line: spell newlines and tabs too, for one cell, name or line.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _PLAIN.sub(_spelled, text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if line else text


def _spelled(found: re.Match[str]) -> str:
    character = found[0]
    if character in _JOINERS or unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    if code < 0x7F:
        return repr(character)[1:-1]
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # valid in JSON, too


_MARKED = re.compile(
    r"[\\`*~$]"
    r"|<(?=[A-Za-z/!?])"  # of a tag or a link; `< 5` is none
    r"|\](?=[\[(:])"  # of a link or an image; `[1, 2]` is none
    r"|(?<!\w)_|_(?!\w)"  # within a word it is no emphasis
    r"|&(?=#?\w+;)"  # an entity
)


def markdown(text: str) -> str:
    """The text as inline Markdown that shows it as it is: no markup, link, image, HTML or formula.

    It is for the middle of a line: what is markup only where a line begins stays (`>`, `#`, `-`).
    A `|` stays, too: `etude.records.tables.markdown_table` escapes those of its cells.
    """
    return _MARKED.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown_code(text: str) -> str:
    """The text as Markdown's code, between as many backticks as it takes."""
    text = printable(" ".join(text.split()))
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: object) -> object:
    """The value as it goes into a CSV file: a text that a spreadsheet would run as a formula
    (`=cmd|...`, `+`, `-`, `@`) gets a `'` before it. Numbers stay, also those written as text.
    """
    if not isinstance(value, str) or not value.lstrip(" \n").startswith(_FORMULA):
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
    """The text for LaTeX, as one cell of a table: no command in it is carried out."""
    text = printable(" ".join(text.split()))
    return "".join(_LATEX.get(character, character) for character in text)


def figure_label(text: str) -> str:
    r"""The text as matplotlib shows it: no formula between two `$`, and in legends also what begins
    with `_`, which matplotlib leaves out of them.
    """
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
