"""Formatting of tables as LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from etude import escaping
from etude.records.text_tables import markdown_table

_HEADINGS = {
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "f1": "F1",
    "f1_macro": "macro F1",
    "lr": "learning rate",
    "mcc": "MCC",
    "n": "runs",
}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def heading(key: str) -> str:
    """Returns a readable heading for a config key or a metric.

    Example:
        >>> heading("vars.position"), heading("best/val/loss"), heading("optimizer.lr")
        ('Position', 'Best validation loss', 'Learning rate')
    """
    parts = key.split("/") if "/" in key else [key.rpartition(".")[2] or key]
    words = [_SPLITS.get(part) or _HEADINGS.get(part) or part.replace("_", " ") for part in parts]
    text = " ".join(words).strip()
    return (text[:1].upper() + text[1:]) or key


def headings(keys: Sequence[str]) -> list[str]:
    """Returns readable headings for config keys or metrics, one for each key.

    The heading of a config key is its last component. If another key has the same last component,
    the heading is the whole key.

    Example:
        >>> headings(["model.dim", "head.dim"])
        ['Model dim', 'Head dim']
    """
    short = [heading(key) for key in keys]
    return [
        text if short.count(text) == 1 else heading(key.replace(".", "_"))
        for key, text in zip(keys, short, strict=True)
    ]


def latex(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Collection[tuple[int, int]] = (),
    *,
    caption: str = "",
    label: str = "",
) -> str:
    """Returns a LaTeX table for the package booktabs; its last three columns are right-aligned.

    All texts except the label are escaped.

    Args:
        head: headings of the columns.
        rows: rows of the table, each with one text per column.
        bold: table cells in bold, as pairs (index in `rows`, index of the column), from 0.
        caption: caption of the floating `table`. If caption and label are empty, the result is a
            `tabular`.
        label: label for references; see `reference_label`.
    """
    tabular = _tabular(head, rows, bold)
    if not caption and not label:
        return tabular
    lines = ["\\begin{table}", "\\centering"]
    lines += [f"\\caption{{{escaping.latex(caption)}}}"] if caption else []
    lines += [f"\\label{{{label}}}"] if label else []
    return "\n".join([*lines, tabular.rstrip("\n"), "\\end{table}", ""])


def reference_label(text: str) -> str:
    """Returns a text as a LaTeX label for references.

    A label consists of letters (of any script), digits and `:-._/`; other characters become `-`.
    """
    return re.sub(r"[^\w:./-]+", "-", text)


def _tabular(
    head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]]
) -> str:
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
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Collection[tuple[int, int]] = (),
    *,
    caption: str = "",
) -> str:
    """Returns a table in GitHub's Markdown, with its caption in a line before the table.

    All texts are escaped.

    Args:
        head: headings of the columns.
        rows: rows of the table, each with one text per column.
        bold: table cells in bold, as pairs (index in `rows`, index of the column), from 0.
        caption: caption; empty for none.
    """
    cells = [[escaping.markdown(cell) for cell in row] for row in rows]
    for number, index in bold:
        cells[number][index] = f"**{cells[number][index]}**"
    table = markdown_table([escaping.markdown(cell) for cell in head], cells) + "\n"
    return f"Table: {escaping.markdown(caption)}\n\n{table}" if caption else table
