"""Tables for papers and pages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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


def latex(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """A `tabular` for booktabs; the last three columns are numbers.

    Args:
        bold: cells, by row and column, in bold.
    """
    columns = "l" * max(0, len(head) - 3) + "r" * min(3, len(head))
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _line(map(_escaped, head))]
    lines.append("\\midrule")
    for number, row in enumerate(rows):
        cells = [
            f"\\textbf{{{_escaped(cell)}}}" if (number, index) in bold else _escaped(cell)
            for index, cell in enumerate(row)
        ]
        lines.append(_line(cells))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: object) -> str:
    return " & ".join(cells) + r" \\"  # type: ignore[arg-type]


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """A table of GitHub's Markdown.

    Args:
        bold: cells, by row and column, in bold.
    """
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    for number, index in bold:
        lines[number + 1][index] = f"**{lines[number + 1][index]}**"
    rules = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (lines[0], rules, *lines[1:]))
