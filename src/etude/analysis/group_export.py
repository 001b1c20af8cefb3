"""Tables of groups of runs for papers and other programs: CSV, LaTeX and Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from etude.analysis.exports import heading, headings, latex, markdown, reference_label
from etude.analysis.group_keys import format_value
from etude.errors import Problem, RequestError, nearest
from etude.escaping import csv_cell

if TYPE_CHECKING:
    from etude.analysis.run_groups import Group, Groups

FORMATS = ("csv", "latex", "markdown")


def export(groups: Groups, form: str, *, caption: str | None, label: str | None) -> str:
    """Returns the table of the groups of runs as CSV, LaTeX or Markdown; see `Groups.export`.

    Raises:
        RequestError: the format is unknown or does not support a caption or label, or the label
            contains a character that LaTeX does not accept.
    """
    if form not in FORMATS:
        raise RequestError(
            Problem("form", "one of " + ", ".join(FORMATS), form, nearest(form, FORMATS))
        )
    for option, value, forms in (
        ("caption", caption, ("latex", "markdown")),
        ("label", label, ("latex",)),
    ):
        if value and form not in forms:
            expected = f"no value with form={form}"
            hint = f"set form={' or '.join(forms)}"
            raise RequestError(Problem(option, expected, value, hint))
    if label and label != (valid := reference_label(label)):
        expected = "a LaTeX label of letters, digits and `:-._/`"
        raise RequestError(Problem("label", expected, label, f"for example {valid!r}"))
    if form == "csv":
        frame = groups.frame()
        whole = frame.rename(columns=csv_cell).map(csv_cell)
        return str(whole.to_csv(index=False, lineterminator="\n"))
    metric = heading(groups.metric)
    head = [*headings(list(groups.groups[0].keys)), heading("n"), metric, "95 % CI"]
    rows = [
        [
            *(format_value(k, v) for k, v in g.keys.items()),
            str(len(g.values)),
            *_format_statistics(g),
        ]
        for g in groups.groups
    ]
    bold = [(groups.groups.index(groups.best), len(head) - 2)] if _best_is_separate(groups) else []
    name = str(groups.groups[0].records[0].info.get("name", ""))
    if caption is None:
        caption = f"{metric} of {name}: mean ± standard deviation over runs, and 95 % confidence"
        caption += " interval of the mean."
    if form == "markdown":
        return markdown(head, rows, bold, caption=caption)
    if label is None:
        label = reference_label(f"tab:{name}-{groups.metric.replace('/', '-')}")
    return latex(head, rows, bold, caption=caption, label=label)


def _best_is_separate(groups: Groups) -> bool:
    """Returns whether the best group's confidence interval overlaps no other group's interval.

    False if a group has no interval, which needs at least three runs, or if there is only one
    group.
    """
    best = groups.best
    others = [group.interval for group in groups.groups if group is not best]
    if best.interval is None or not others:
        return False
    low, high = best.interval
    return all(each is not None and (high < each[0] or each[1] < low) for each in others)


def _format_statistics(group: Group) -> list[str]:
    """Returns two texts for the table: `mean ± standard deviation`, and the confidence interval.

    Both are rounded. A group of one run has no standard deviation, so the first text is only the
    mean. Without an interval, the second text is `-`.
    """
    deviation = group.deviation
    digits = _digits(deviation)
    mean = f"{group.mean:.{digits}f}"
    if deviation is not None:
        mean += f" ± {deviation:.{digits}f}"
    if group.interval is None:
        return [mean, "-"]
    low, high = group.interval
    return [mean, f"[{low:.{digits}f}, {high:.{digits}f}]"]


def _digits(deviation: float | None) -> int:
    """Returns the number of decimals with which a standard deviation has two significant digits.

    The result is at most 8. It is 4 if the deviation is None or 0.
    """
    if not deviation:
        return 4
    return min(8, max(0, 1 - math.floor(math.log10(deviation))))
