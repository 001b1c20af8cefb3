"""Tables for papers and pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from etude import escaping
from etude.records.tables import markdown_table


def latex(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """A `tabular` for booktabs; the last three columns are numbers.

    Args:
        bold: cells, by row and column, in bold.
    """
    columns = "l" * max(0, len(head) - 3) + "r" * min(3, len(head))
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _line(map(escaping.latex, head))]
    lines.append("\\midrule")
    for number, row in enumerate(rows):
        cells = [
            f"\\textbf{{{escaping.latex(cell)}}}"
            if (number, index) in bold
            else escaping.latex(cell)
            for index, cell in enumerate(row)
        ]
        lines.append(_line(cells))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Iterable[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # what ends the row before takes `[...]` or `*` after it as its own
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """A table of GitHub's Markdown.

    Args:
        bold: cells, by row and column, in bold.
    """
    cells = [[escaping.markdown(cell) for cell in row] for row in rows]
    for number, index in bold:
        cells[number][index] = f"**{cells[number][index]}**"
    return markdown_table([escaping.markdown(cell) for cell in head], cells) + "\n"
