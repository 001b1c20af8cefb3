"""Cells that are metrics of runs, at the end, at their best, or when they first reach a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from etude.analysis.curves import COLOURS, new_figure
from etude.api import Run
from etude.errors import Checks
from etude.papers.claims import Reading


@dataclass(frozen=True)
class Value:
    """A number of each run of an arm.

    Args:
        run: the arm.
        metric: as in `metrics.jsonl`, such as `val/accuracy`.
        of: the `last` row that has it, its `max` or `min`; `step`, the first step at which it is at
            least `reaches` (infinite if it never is). Of a run that diverged all but that are no
            number.
        reaches: see `of`.
        over: another such value that it is divided by, of the same seed.
    """

    run: str
    metric: str
    of: Literal["last", "max", "min", "step"] = "last"
    reaches: float | None = None
    over: Value | None = None

    def __post_init__(self) -> None:
        checks = Checks()
        stated = (self.of == "step") == (self.reaches is not None)
        checks.that(stated, "reaches", self.reaches, "a value for `of: step`, and for no other")
        checks.done()

    def read(self, runs: Mapping[str, Sequence[Run]]) -> list[float]:
        """A number a run; none where there is no run."""
        own = [self._of(run) for run in runs.get(self.run, ())]
        if self.over is None:
            return own
        return [a / b for a, b in zip(own, self.over.read(runs), strict=False)]

    def _of(self, run: Run) -> float:
        frame = run.metrics
        if self.metric not in frame:
            return math.nan
        rows = frame[["step", self.metric]].dropna()
        if self.of == "step":
            there = rows[rows[self.metric] >= self.reaches]
            return float(there["step"].iloc[0]) if len(there) else math.inf
        values = rows[self.metric]
        if not len(values) or run.status == "diverged":
            return math.nan
        ends = {"last": values.iloc[-1], "max": values.max(), "min": values.min()}
        return float(ends[self.of])


class Metrics:
    """Reads cells from runs, and draws a metric's curves, arm by arm.

    Args:
        values: what each cell is.
        controls: its negative control; both as `Value`'s arguments.
        curves: the metrics to draw, a panel each.
        log: the axes with logarithmic scale: `x`, `y`, `xy` or none.
    """

    def __init__(
        self,
        *,
        values: dict[str, dict[str, Any]],
        controls: dict[str, dict[str, Any]],
        curves: list[str],
        log: str = "",
    ) -> None:
        checks = Checks()
        expected = f"a control for each of {', '.join(values)}"
        checks.that(set(values) == set(controls), "controls", ", ".join(controls), expected)
        checks.done()
        self.values = {key: value_of(stated) for key, stated in values.items()}
        self.controls = {key: value_of(stated) for key, stated in controls.items()}
        self.curves, self.log = curves, log

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        found = [*self.values.values(), *self.controls.values()]
        return {v.run for v in found} | {v.over.run for v in found if v.over is not None}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """The readings by cell key; PNG files go to the folder `figures`, which exists."""
        if runs and self.curves:
            draw(runs, self.curves, self.log, figures / "curves.png")
        found = {
            key: Reading(value.read(runs), self.controls[key].read(runs))
            for key, value in self.values.items()
        }
        return {key: reading for key, reading in found.items() if reading.values}


def value_of(stated: Mapping[str, Any]) -> Value:
    """A `Value` from plain data."""
    over = stated.get("over")
    return Value(**{**stated, "over": None if over is None else value_of(over)})


def draw(runs: Mapping[str, Sequence[Run]], metrics: Sequence[str], log: str, path: Path) -> None:
    """A panel a metric; thin lines are seeds, thick ones their mean where all have the step."""
    figure = new_figure(4.6 * len(metrics), 3.6)
    panels: Any = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for (name, several), colour in zip(runs.items(), COLOURS * 3, strict=False):
            series = []
            for run in several:
                if metric in run.metrics:
                    rows = run.metrics[["step", metric]].dropna().set_index("step")[metric]
                    series.append(rows)
                    axes.plot(rows.index, rows, color=colour, linewidth=0.7, alpha=0.45)
            if series:
                steps = sorted(set.intersection(*(set(each.index) for each in series)))
                means = [fmean(float(each.loc[step]) for each in series) for step in steps]
                axes.plot(steps, means, color=colour, linewidth=1.8, label=name)
        axes.set_title(metric, fontsize=10, parse_math=False)
        axes.set_xlabel("step")
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
