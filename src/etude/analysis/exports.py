"""Tables in LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from etude import escaping
from etude.records.text_tables import markdown_table


def latex(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """Returns a `tabular` for booktabs, whose last three columns are right-aligned numbers.

    Args:
        head: headings.
        rows: cells.
        bold: cells in bold, as (row, column).
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
    # the `\\` before the line would parse a following `[...]` or `*` as its argument
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()
) -> str:
    """Returns a table in GitHub's Markdown.

    Args:
        head: headings.
        rows: cells.
        bold: cells in bold, as (row, column).
    """
    cells = [[escaping.markdown(cell) for cell in row] for row in rows]
    for number, index in bold:
        cells[number][index] = f"**{cells[number][index]}**"
    return markdown_table([escaping.markdown(cell) for cell in head], cells) + "\n"
