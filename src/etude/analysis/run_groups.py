"""Groups of runs that differ only in their seed, with means, spread, figures and tables."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import (
    X_AXES,
    Curve,
    check_axes,
    default_path,
    draw_curves,
)
from etude.analysis.frame_table import frame_table
from etude.analysis.group_export import export
from etude.analysis.group_keys import (
    distinguishing_keys,
    format_value,
    group_key,
    short_key,
    table_value,
    warn_repeated_seeds,
    without_duplicates,
)
from etude.analysis.group_tests import check_reference, comparison_table
from etude.analysis.heat import heat_map
from etude.analysis.mean_curves import mean_curve, mean_of
from etude.analysis.statistics import interval
from etude.arguments import check_arguments
from etude.console import NOTICES
from etude.counts import counted
from etude.errors import Problem, RequestError, nearest
from etude.markup.fragments import display, title
from etude.records.metrics_file import is_higher_better, read_frame
from etude.records.record import Record
from etude.records.record_fields import MISSING, best_validation, check_keys_exist, field_value
from etude.records.record_fields import available_keys as known_keys

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

log = logging.getLogger(NOTICES)


@dataclass(frozen=True)
class Group:
    """Group of runs that have the same config and different seeds.

    Attributes:
        keys: config keys and values by which the group differs from the other groups.
        records: the group's runs.
        values: values of the metric, one per run.
    """

    keys: dict[str, Any]
    records: list[Record]
    values: list[float]

    def __repr__(self) -> str:
        values = f"{counted(len(self.values), 'run')}, mean {self.mean:.6g}"
        return f"Group({self.name!r}, {values})"

    @property
    def name(self) -> str:
        """Name of the group, such as `position=rotary lr=0.001`.

        If the group has no distinguishing keys, this is the name of its first run.
        """
        parts = [f"{short_key(key)}={format_value(key, value)}" for key, value in self.keys.items()]
        return " ".join(parts) or str(self.records[0].info.get("name", ""))

    @property
    def cells(self) -> dict[str, Any]:
        """The keys and values in `keys`, with the values converted for a data frame."""
        return {key: table_value(value) for key, value in self.keys.items()}

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation (n - 1 degrees of freedom); None for a single run."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean, as (lower end, upper end).

        None for fewer than three runs; see `statistics.interval`.
        """
        return interval(self.values)


class Groups:
    """Runs grouped by their config without the seed; in a notebook, they are shown as a table.

    Args:
        records: finished runs; of several runs with the same config and seed, only the last is
            used.
        metric: metric such as `val/loss` (its last value) or `best/val/loss`; None for the best
            value of the metric by which the runs selected their best checkpoint. If this metric
            differs between the runs, that of the first run is used.
        by: config keys; runs with the same values of these keys form a group, even if they differ
            in other keys. A warning names these keys if runs of a group have the same seed. If
            empty, runs form a group if their configs differ only in the seed.

    Raises:
        RequestError: there are no runs, no run has the metric, or all runs lack one of the keys.

    Attributes:
        metric: metric of the values.
        groups: groups in ascending order of their mean.
        first: group of the first run.
        without: list of the records of the runs that have no finite value of the metric.
    """

    @check_arguments(RequestError)
    def __init__(
        self, records: Sequence[Record], *, metric: str | None = None, by: Sequence[str] = ()
    ) -> None:
        if not records:
            raise RequestError(Problem("runs", "at least one finished run"))
        check_keys_exist([(key, "by") for key in by], records)
        records = without_duplicates(records)
        self.metric = metric or _default_metric(records)
        parts: dict[str, list[tuple[Record, float]]] = {}
        self.without: list[Record] = []
        for record in records:
            value = _number(field_value(record, self.metric))
            if value is None:
                self.without.append(record)
            else:
                parts.setdefault(group_key(record, by), []).append((record, value))
        if not parts:
            choices = {key for record in records for key in known_keys(record) if "/" in key}
            hint = nearest(self.metric, choices)
            expected = "a metric that a run has logged"
            raise RequestError(Problem("metric", expected, self.metric, hint))
        if by:
            warn_repeated_seeds([record for record, _ in members] for members in parts.values())
        keys = distinguishing_keys([members[0][0] for members in parts.values()], by)
        groups = [
            Group(
                distinguishing, [record for record, _ in members], [value for _, value in members]
            )
            for distinguishing, members in zip(keys, parts.values(), strict=True)
        ]
        self.first = groups[0]
        self.groups = sorted(groups, key=lambda group: group.mean)

    def frame(self) -> pd.DataFrame:
        """Returns a data frame with one row per group.

        The columns are the config keys by which the groups differ, `n` (number of runs), `mean`,
        `median`, `std` (standard deviation), and the ends `low` and `high` of the 95 % confidence
        interval of the mean. `std` is missing (None or NaN) for a single run, and `low` and `high`
        for fewer than three runs.
        """
        import pandas as pd

        return pd.DataFrame([_row(group) for group in self.groups])

    @property
    def best(self) -> Group:
        """Group with the best mean of the metric.

        The best is the highest for metrics such as accuracy, and otherwise the lowest.
        """
        return self.groups[-1 if is_higher_better(self.metric) else 0]

    @check_arguments(RequestError)
    def comparison(self, against: str = "best", *, paired: bool = False) -> pd.DataFrame:
        """Tests whether the mean of each other group differs from the mean of a reference group.

        The test is a permutation test of the difference of means. The permutations are all
        assignments of the runs to the two groups or, if `paired` is true, all swaps of two runs
        with the same seed. If they are too many, random permutations are sampled. The p-values
        against the best of several groups are too small, as this group may be the best by chance.
        The group `first` can be a baseline that was chosen in advance.

        Args:
            against: reference group: `best`, or `first` (the group of the first run).
            paired: whether to pair runs by seed. Pairing makes the test more sensitive only if a
                seed has the same effect in all groups. It needs six seeds for p < 0.05; without
                pairing, four seeds suffice.

        Returns:
            A data frame with one row per other group: its keys, `n` (number of runs), `mean`,
            `difference` (its mean minus the reference's), `exact` (whether all permutations
            were computed), `p` (p-value), `smallest_p` (the smallest p-value that this number
            of runs permits) and `holm` (`p` corrected for the number of groups).

        Raises:
            RequestError: `against` is neither `best` nor `first`, or groups to pair have different
                seeds.
        """
        check_reference(against)
        return comparison_table(
            self.groups,
            self.reference(against),
            [group.cells for group in self.groups],
            paired=paired,
        )

    def reference(self, against: str) -> Group:
        """Returns the group `best` (best mean) or `first` (the group of the first run)."""
        return self.best if against == "best" else self.first

    @check_arguments(RequestError)
    def plot(self, metric: str | None = None, *, x: str = "step", log: str = "") -> Figure:
        """Plots the mean curve of each group, with a band of one standard deviation over the seeds.

        Args:
            metric: metric to plot; None for the metric of the groups. Over steps, tokens or time,
                `best/` is then removed from its name. Over a config key, a point shows the best
                value for `best/val/loss`, and the last value for `val/loss`.
            x: quantity on the x axis: `step`, `tokens` or `time`; or a config key such as
                `optimizer.lr`. With a key, each curve has one point for each value of the key.
                There is one curve for each combination of values of the other keys by which the
                groups differ.
            log: axes with logarithmic scale: `x`, `y`, `xy` or an empty string.

        Raises:
            RequestError: no curve can be drawn, or the axes are invalid. Over steps, tokens or
                time, a group has no curve if one of its runs has not logged the metric.
        """
        check_axes(x if x in X_AXES else X_AXES[0], log)
        if x in X_AXES:
            key = metric or self.metric.removeprefix("best/")
            curves = [curve for group in self.groups if (curve := _mean(group, key, x))]
            drawn = self.groups
        else:
            key = metric or self.metric
            curves, drawn = self._curves_over(x, key)
        if not curves:
            raise RequestError(Problem("metric", "a metric that a run has logged", key))
        if "x" in log and x not in X_AXES and min(curve.x.min() for curve in curves) <= 0:
            hint = f"some values of {x} are not positive"
            raise RequestError(Problem("log", "a linear x axis", log, hint))
        title = str(self.groups[0].records[0].info.get("name", ""))
        note = mean_of([group.records for group in drawn])
        return draw_curves({key: curves}, x=x, log=log, title=title, noun="group", note=note)

    def _curves_over(self, x: str, metric: str) -> tuple[list[Curve], list[Group]]:
        """Returns curves of a metric over a config key, and a list of the groups that the points
        represent, in ascending order of their mean.

        A point is the mean of a group of runs with the same value of the key. There is one curve
        for each combination of values of the other keys by which the groups differ.

        Args:
            x: the config key.
            metric: the metric.

        Raises:
            RequestError: a run does not have the key, or a value is not a number.
        """
        records = [record for group in self.groups for record in group.records]
        expected = f"one of {', '.join(X_AXES)}, or a key with numeric values"
        if all(field_value(record, x) is MISSING for record in records):
            choices = {*X_AXES, *(key for record in records for key in known_keys(record))}
            raise RequestError(Problem("x", expected, x, nearest(x, choices)))
        lacking = [record for record in records if field_value(record, x) is MISSING]
        if lacking:
            count = f"{len(lacking)} of {len(records)} runs"
            hint = f"the key is missing in {count}, for example in {lacking[0].path}"
            raise RequestError(Problem("x", "a key that all selected runs have", x, hint))
        others = sorted({key for group in self.groups for key in group.keys} - {x})
        cells = Groups(records, metric=metric, by=[*others, x])
        lines: dict[str, list[tuple[float, Group]]] = {}
        for cell_group in cells.groups:
            x_value = _number(cell_group.keys[x])
            if x_value is None:
                raise RequestError(
                    Problem("x", expected, f"{x}={format_value(x, cell_group.keys[x])}")
                )
            other_values = {key: value for key, value in cell_group.keys.items() if key != x}
            name = replace(cell_group, keys=other_values).name
            lines.setdefault(name, []).append((x_value, cell_group))
        curves = [_line(name, sorted(points, key=itemgetter(0))) for name, points in lines.items()]
        return curves, cells.groups

    @check_arguments(RequestError)
    def heat(self, x: str, y: str) -> Figure:
        """Plots a heat map of the metric over two config keys.

        Each field of the map shows the mean of all runs with one pair of values of the two keys.
        The runs may differ in other keys.

        Args:
            x: config key on the x axis.
            y: config key on the y axis.

        Raises:
            RequestError: all runs lack one of the keys.
        """
        records = [record for group in self.groups for record in group.records]
        check_keys_exist([(x, "x"), (y, "y")], records)
        cells = Groups(records, metric=self.metric, by=[x, y])
        return heat_map(
            {(table_value(g.keys[x]), table_value(g.keys[y])): g.mean for g in cells.groups},
            x=x,
            y=y,
            metric=self.metric,
        )

    @check_arguments(RequestError)
    def export(self, form: str, *, caption: str | None = None, label: str | None = None) -> str:
        """Returns the table of the groups as text.

        Args:
            form: `csv` with full precision; `latex` (a `table` for booktabs) or `markdown` with
                rounded numbers. In the latter two, the best mean is in bold if the interval of its
                group overlaps no other group's interval.
            caption: caption for `latex` and `markdown`. If None, the caption describes the metric
                and the intervals. If empty, there is no caption.
            label: label for `latex`. If None, the label is `tab:` with the config's `name` and the
                metric. If empty, there is no label.

        Raises:
            RequestError: the format is unknown, or does not support a caption or label.
        """
        return export(self, form, caption=caption, label=label)

    def default_path(self, root: Path, *what: object) -> Path:
        """Returns the path at which a figure is saved if the user chose none.

        Args:
            root: root folder of the runs; the path is inside it.
            what: values that distinguish the figure from other figures of the same runs.
        """
        runs = sorted(str(field_value(r, "run")) for group in self.groups for r in group.records)
        identity = {"groups": runs, "metric": self.metric, "what": [str(item) for item in what]}
        return default_path(root, identity)

    def _repr_html_(self) -> str:
        return display(title(self.metric), frame_table(self.frame()))

    def __repr__(self) -> str:
        counts = f"{counted(len(self.groups), 'group')}, {self.metric}"
        return f"Groups({counts})\n{self.frame().to_string(index=False, max_rows=20)}"


def _default_metric(records: Sequence[Record]) -> str:
    metric = next(
        (best_validation(record)["metric"] for record in records if best_validation(record)),
        "val/loss",
    )
    return f"best/{metric}"


def _row(group: Group) -> dict[str, Any]:
    low, high = group.interval or (None, None)
    return {
        **group.cells,
        "n": len(group.values),
        "mean": group.mean,
        "median": group.median,
        "std": group.deviation,
        "low": low,
        "high": high,
    }


def _mean(group: Group, metric: str, x: str) -> Curve | None:
    frames = [read_frame(record.path / "metrics.jsonl") for record in group.records]
    if any(metric not in frame or x not in frame for frame in frames):
        return None
    return mean_curve(group.name, frames, metric, x)


def _line(name: str, points: Sequence[tuple[float, Group]]) -> Curve:
    """Returns a curve through the means of several groups, with a band of one standard deviation.

    There is no band if each group has a single run.

    Args:
        name: name of the curve.
        points: pairs of the group's x value and the group, in ascending order of the x value.
    """
    spread = np.array([group.deviation for _, group in points], dtype=np.float64)  # None is NaN
    return Curve(
        name,
        np.array([x_value for x_value, _ in points]),
        np.array([group.mean for _, group in points]),
        None if np.isnan(spread).all() else spread,
    )


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
