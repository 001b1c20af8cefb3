"""Runs that differ by their seed alone, as one: means, their spread, their figure, their table."""

from __future__ import annotations

import html
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

from etude.analysis.curves import Curve, X, check_axes, draw, numbers, usual_file
from etude.analysis.heat import heat_map
from etude.analysis.statistics import interval
from etude.console import NOTICES
from etude.errors import Problem, RequestError, nearest
from etude.escaping import csv_cell
from etude.records.comparing import config_differences
from etude.records.facts import MISSING, best, fact, must_exist
from etude.records.facts import keys as known_keys
from etude.records.metrics import read_frame
from etude.records.record import Record
from etude.records.signature import sha256_of
from etude.records.tables import cell

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

log = logging.getLogger(NOTICES)

FORMATS = ("csv", "latex", "markdown")


@dataclass(frozen=True)
class Group:
    """Runs with one config and several seeds.

    Attributes:
        keys: what tells it from the other groups.
        records: its runs.
        values: their metric.
    """

    keys: dict[str, Any]
    records: list[Record]
    values: list[float]

    @property
    def name(self) -> str:
        """`position=rotary lr=0.001`, or the runs' name where nothing differs."""
        parts = [f"{_short(key)}={_said(key, value)}" for key, value in self.keys.items()]
        return " ".join(parts) or str(self.records[0].info.get("name", ""))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation, with n - 1; None of a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean, at 95 %; see `statistics.interval`."""
        return interval(self.values)


class Groups:
    """Runs by their config, seeds aside; in a notebook it shows its table.

    Args:
        records: finished runs; of those with one config and seed the last counts.
        metric: such as `val/loss` (the last) or `best/val/loss`; None is the best of that by
            which the runs chose their best.
        by: keys that make a group instead of the whole config.

    Raises:
        RequestError: no runs, none with the metric, or a key that no run has.

    Attributes:
        metric: that of the values.
        groups: by their mean, the smallest first.
        without: runs that never wrote the metric.
    """

    def __init__(
        self, records: Sequence[Record], *, metric: str | None = None, by: Sequence[str] = ()
    ) -> None:
        if not records:
            raise RequestError(Problem("RUN", "at least one finished run"))
        must_exist([(key, "--by") for key in by], records)
        records = _counted_once(records)
        self.metric = metric or _usual(records)
        parts: dict[str, list[tuple[Record, float]]] = {}
        self.without: list[Record] = []
        for record in records:
            value = _number(fact(record, self.metric))
            if value is None:
                self.without.append(record)
            else:
                parts.setdefault(_key(record, by), []).append((record, value))
        if not parts:
            choices = {key for record in records for key in known_keys(record) if "/" in key}
            hint = nearest(self.metric, choices)
            raise RequestError(Problem("--metric", "a metric of these runs", self.metric, hint))
        keys = _keys([members[0][0] for members in parts.values()], by)
        found = [
            Group(told, [record for record, _ in members], [value for _, value in members])
            for told, members in zip(keys, parts.values(), strict=True)
        ]
        self.groups = sorted(found, key=lambda group: group.mean)

    def frame(self) -> pd.DataFrame:
        """A row a group: its keys, n, mean, median, standard deviation, and the interval's ends."""
        import pandas as pd

        return pd.DataFrame([_row(group) for group in self.groups])

    def plot(self, metric: str | None = None, *, x: str = "step", log: str = "") -> Figure:
        """Mean curves; the bands are one standard deviation over the seeds to both sides.

        Args:
            metric: of the rows; None is that of the groups.
            x: `step`, `tokens` or `time`; or a key such as `optimizer.lr`: then a curve has a
                point for each of its values, and there is one for all else that differs.
            log: axes with logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: no run has written the metric, or axes that cannot be drawn.
        """
        check_axes(x if x in X else X[0], log)
        if x in X:
            key = metric or self.metric.removeprefix("best/")
            curves = [curve for group in self.groups if (curve := _band(group, key, x))]
            drawn = self.groups
        else:
            key = metric or self.metric
            curves, drawn = self._over(x, key)
        if not curves:
            raise RequestError(Problem("--metric", "a metric that was logged", key))
        if "x" in log and x not in X and min(curve.x.min() for curve in curves) <= 0:
            expected = f"a linear axis for x: values of {x} are not above 0"
            raise RequestError(Problem("--log", expected, log))
        title = str(self.groups[0].records[0].info.get("name", "")) + _means(drawn)
        return draw({key: curves}, x=x, log=log, title=title, noun="group")

    def _over(self, x: str, metric: str) -> tuple[list[Curve], list[Group]]:
        """A metric over the values of a key, a curve for all else that tells groups apart; and the
        groups whose means the points are.
        """
        records = [record for group in self.groups for record in group.records]
        expected = f"one of {', '.join(X)}, or a key with numbers"
        if all(fact(record, x) is MISSING for record in records):
            choices = {*X, *(key for record in records for key in known_keys(record))}
            raise RequestError(Problem("--x", expected, x, nearest(x, choices)))
        lacking = [record for record in records if fact(record, x) is MISSING]
        if lacking:
            hint = f"{len(lacking)} of {len(records)} have none, such as {lacking[0].path}"
            raise RequestError(Problem("--x", "a key that all of these runs have", x, hint))
        others = sorted({key for group in self.groups for key in group.keys} - {x})
        cells = Groups(records, metric=metric, by=[*others, x])
        lines: dict[str, list[tuple[float, Group]]] = {}
        for each in cells.groups:
            place = _number(each.keys[x])
            if place is None:
                raise RequestError(Problem("--x", expected, f"{x}={_said(x, each.keys[x])}"))
            told = {key: value for key, value in each.keys.items() if key != x}
            name = replace(each, keys=told).name
            lines.setdefault(name, []).append((place, each))
        curves = [_line(name, sorted(points, key=itemgetter(0))) for name, points in lines.items()]
        return curves, cells.groups

    def heat(self, x: str, y: str) -> Figure:
        """The metric's mean over two keys, whatever else the runs differ in.

        Raises:
            RequestError: a key that no run has.
        """
        records = [record for group in self.groups for record in group.records]
        must_exist([(key, "--heat") for key in (x, y)], records)
        cells = Groups(records, metric=self.metric, by=[x, y])
        return heat_map(
            {(_plain(g.keys[x]), _plain(g.keys[y])): g.mean for g in cells.groups},
            x=x,
            y=y,
            metric=self.metric,
        )

    def export(self, form: str) -> str:
        """The table as text.

        Args:
            form: `csv` with whole numbers; `latex` (for booktabs) or `markdown` with numbers for
                readers, the best in bold.

        Raises:
            RequestError: another format.
        """
        if form == "csv":
            frame = self.frame()
            whole = frame.rename(columns=csv_cell).map(csv_cell)
            return str(whole.to_csv(index=False, lineterminator="\n"))
        if form not in FORMATS:
            raise RequestError(
                Problem("--format", "one of " + ", ".join(FORMATS), form, nearest(form, FORMATS))
            )
        from etude.analysis.exports import latex, markdown

        head = [*self.groups[0].keys, "n", self.metric, "95 % interval"]
        rows = [
            [*(_said(k, v) for k, v in g.keys.items()), str(len(g.values)), *_told(g)]
            for g in self.groups
        ]
        metric = len(head) - 2
        return (latex if form == "latex" else markdown)(head, rows, bold=[(0, metric)])

    def usual_file(self, root: Path, *what: object) -> Path:
        """Where a figure of just these runs lies below a folder of runs."""
        runs = sorted(str(fact(r, "run")) for group in self.groups for r in group.records)
        told = {"groups": runs, "metric": self.metric, "what": [str(item) for item in what]}
        return usual_file(root, told)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.metric)}</p>{self.frame().to_html(index=False)}"


def _usual(records: Sequence[Record]) -> str:
    found = next((best(record)["metric"] for record in records if best(record)), "val/loss")
    return f"best/{found}"


def _key(record: Record, by: Sequence[str]) -> str:
    if by:
        return sha256_of([str(fact(record, key)) for key in by])
    return str(record.info.get("group") or record.path)


def _keys(heads: Sequence[Record], by: Sequence[str]) -> list[dict[str, Any]]:
    """What tells each group from the others."""
    if by:
        return [{key: fact(record, key) for key in by} for record in heads]
    differing = config_differences(heads)
    differing.pop("seed", None)
    # A part that differs differs in all its arguments too: its name says it, but for arguments that
    # differ also between two groups that share the part.
    parts = [key for key in differing if any(other.startswith(f"{key}.") for other in differing)]
    told = [
        key
        for key in differing
        if all(
            _tells_apart(differing[key], differing[part])
            for part in parts
            if key.startswith(f"{part}.")
        )
    ]
    return [{key: differing[key][index] for key in told} for index in range(len(heads))]


def _tells_apart(values: Sequence[Any], parts: Sequence[Any]) -> bool:
    """Whether two groups with the same part have different values."""
    seen: dict[str, set[str]] = {}
    for value, part in zip(values, parts, strict=True):
        seen.setdefault(str(part), set()).add(str(value))
    return any(len(several) > 1 for several in seen.values())


def _row(group: Group) -> dict[str, Any]:
    low, high = group.interval or (None, None)
    return {
        **{key: _plain(value) for key, value in group.keys.items()},
        "n": len(group.values),
        "mean": group.mean,
        "median": group.median,
        "std": group.deviation,
        "low": low,
        "high": high,
    }


def _told(group: Group) -> list[str]:
    """The mean with its deviation, and the interval, to the digits that mean something."""
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
    """Places after the point: two digits of the deviation."""
    if not deviation:
        return 4
    return min(8, max(0, 1 - math.floor(math.log10(deviation))))


def _band(group: Group, metric: str, x: str) -> Curve | None:
    """The mean over the seeds at the points that all have, one deviation around it."""
    columns = []
    for record in group.records:
        frame = read_frame(record.path / "metrics.jsonl")
        if metric not in frame or x not in frame:
            return None
        rows = frame[["step", *([x] if x != "step" else []), metric]]
        rows = rows.apply(numbers).dropna()
        columns.append(rows.drop_duplicates("step", keep="last").set_index("step"))
    shared = columns[0].index
    for column in columns[1:]:
        shared = shared.intersection(column.index)
    if not len(shared):
        return None
    values = np.stack([column.loc[shared, metric].to_numpy(np.float64) for column in columns])
    places = (
        shared.to_numpy(np.float64)
        if x == "step"
        else np.mean([column.loc[shared, x].to_numpy(np.float64) for column in columns], axis=0)
    )
    spread = values.std(axis=0, ddof=1) if len(columns) > 1 else None
    return Curve(group.name, places, values.mean(axis=0), spread)


def _line(name: str, points: Sequence[tuple[float, Group]]) -> Curve:
    """Means at the places, one deviation around them where all have one."""
    spread = np.array([group.deviation for _, group in points], dtype=np.float64)  # None is NaN
    return Curve(
        name,
        np.array([place for place, _ in points]),
        np.array([group.mean for _, group in points]),
        None if np.isnan(spread).all() else spread,
    )


def _means(groups: Sequence[Group]) -> str:
    """What the points of a figure are means of, as the end of its title."""
    sizes = sorted({len(group.records) for group in groups})
    if sizes[-1] == 1:
        return ""
    alike = all(len({r.info.get("group") for r in group.records}) == 1 for group in groups)
    count = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f": mean of {count} {'seeds' if alike else 'runs'}, ± one standard deviation"


def _counted_once(records: Sequence[Record]) -> list[Record]:
    """The last of those with one signature: a run trained again, linked or copied has no seed of
    its own, and would make an interval too narrow."""
    kept: dict[str, Record] = {}
    replaced: list[Path] = []
    for record in records:
        one = str(record.info.get("signature") or record.path.resolve())
        if one in kept:
            replaced.append(kept.pop(one).path)
        kept[one] = record
    if replaced:
        others = ", ".join(map(str, replaced[:5])) + (", ..." if len(replaced) > 5 else "")
        log.warning(f"not counted: {others}: another of these runs has the same config and seed")
    return list(kept.values())


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _plain(value: Any) -> Any:
    if value is MISSING:
        return None
    return str(value) if isinstance(value, list | dict | str) else value


def _said(key: str, value: Any) -> str:
    return "-" if value is MISSING else cell(key, value) or "null"


def _short(key: str) -> str:
    return key.rpartition(".")[2] or key
