"""Cells that are metrics of runs, at the end, at their best, or when they first reach a value; or
what a checkpoint of theirs scores on a split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from etude.analysis.curves import COLOURS, LOG, dress, new_figure
from etude.api import Run
from etude.errors import MISSING_VALUE, Checks, InvalidArguments, Problem, RequestError, nearest
from etude.escaping import figure_label
from etude.papers.claims import CLOSED, Number, Reading, problems_of

Numbered = dict[tuple[int, int], float]


@dataclass(frozen=True, config=CLOSED)
class Value:
    """A number of each run of an arm, or of each seed.

    Args:
        run: the arm.
        metric: as in `metrics.jsonl`, such as `val/accuracy`; with `split` as an evaluation names
            it, such as `bleu`.
        of: the `last` row that has it, its `max` or `min`; `step`, the first step at which it is at
            least `reaches` (infinite if it never is). Of a run that diverged all but that are no
            number.
        reaches: see `of`.
        over: another such value that it is divided by, of the same seed.
        swept: of an arm that sweeps, how the values of its runs become one a seed: for each swept
            key `max` or `min`, the innermost first.
        split: the split that a checkpoint is scored on, instead of what training measured.
        how: with `split`, how: `which` checkpoint (the best), `beams` and `length_penalty`, or
            `sequence_length` and `stride`.
    """

    run: str
    metric: str
    of: Literal["last", "max", "min", "step"] = "last"
    reaches: Number | None = None
    over: Value | Mean | None = None
    swept: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = Checks()
        stated = (self.of == "step") == (self.reaches is not None)
        checks.that(stated, "reaches", self.reaches, "a value for `of: step`, and for no other")
        for key, reduced in self.swept.items():
            checks.that(reduced in ENDS, f"swept.{key}", reduced, "max or min")
        scored = self.split is not None
        checks.that(not scored or self.of == "last", "of", self.of, "nothing beside a split")
        checks.that(scored or not self.how, "how", self.how, "nothing without a split")
        known = ("which", "beams", "length_penalty", "sequence_length", "stride")
        for key in self.how:
            checks.that(
                key in known, "how", key, f"some of {', '.join(known)}", nearest(key, known)
            )
        checks.done()

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        return {self.run} | (set() if self.over is None else self.over.arms)

    def read(self, runs: Mapping[str, Sequence[Run]]) -> list[float]:
        """A number a run, or with `swept` a seed; none where there is no run.

        Raises:
            RequestError: a run that has finished has no such metric.
        """
        return [*self.numbered(runs).values()]

    def numbered(self, runs: Mapping[str, Sequence[Run]]) -> Numbered:
        """The same by seed, and by the place of the run among those of its seed."""
        found = runs.get(self.run, ())
        own = self._reduced(found) if self.swept else _placed(found, map(self._of, found))
        if self.over is None:
            return own
        over = self.over.numbered(runs)
        return {key: own[key] / over[key] if over[key] else math.nan for key in own if key in over}

    def _reduced(self, runs: Sequence[Run]) -> Numbered:
        seeds: dict[int, dict[tuple[Any, ...], float]] = {}
        for run in runs:
            place = tuple(
                OmegaConf.select(run.config, key, default=MISSING_VALUE) for key in self.swept
            )
            for key, value in zip(self.swept, place, strict=True):
                if value is MISSING_VALUE:
                    where, expected = f"measure: swept of {self.run}", "a key of its config"
                    raise RequestError(Problem(where, expected, key))
            seeds.setdefault(run.summary["seed"], {})[place] = self._of(run)
        values: Numbered = {}
        for seed, table in seeds.items():
            for reduced in self.swept.values():
                groups: dict[tuple[Any, ...], list[float]] = {}
                for place, value in table.items():
                    groups.setdefault(place[1:], []).append(value)
                table = {place: _end(reduced, group) for place, group in groups.items()}
            values |= {(seed, place): value for place, value in enumerate(table.values())}
        return values

    def _of(self, run: Run) -> float:
        if self.split is not None:
            scores = _scores(run, self.split, self.how)
            self._look_up(scores)
            return float(scores[self.metric])
        frame = run.metrics
        if run.status == "finished":
            self._look_up([*map(str, frame)])
        elif self.metric not in frame:
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

    def _look_up(self, known: Collection[str]) -> None:
        if self.metric not in known:
            hint = nearest(self.metric, known)
            where, expected = f"measure: metric of {self.run}", "one that its runs have"
            raise RequestError(Problem(where, expected, self.metric, hint))


@dataclass(frozen=True, config=CLOSED)
class Mean:
    """The mean of several such values, of the same seed.

    Args:
        mean: the values.
    """

    mean: Annotated[list[Value | Mean], Field(min_length=1)]

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        return {arm for each in self.mean for arm in each.arms}

    def read(self, runs: Mapping[str, Sequence[Run]]) -> list[float]:
        """A number a seed; none unless there are all of them."""
        return [*self.numbered(runs).values()]

    def numbered(self, runs: Mapping[str, Sequence[Run]]) -> Numbered:
        """The same by seed; see `Value.numbered`."""
        first, *others = (each.numbered(runs) for each in self.mean)
        shared = [key for key in first if all(key in other for other in others)]
        return {key: fmean(each[key] for each in (first, *others)) for key in shared}


def _placed(runs: Sequence[Run], values: Iterable[float]) -> Numbered:
    counts: Counter[int] = Counter()
    found: Numbered = {}
    for run, value in zip(runs, values, strict=True):
        seed = run.summary["seed"]
        found[seed, counts[seed]] = value
        counts[seed] += 1
    return found


ENDS = {"max": max, "min": min}


def _end(name: str, values: Sequence[float]) -> float:
    """Of those that are numbers: what diverged is not the best."""
    numbers = [value for value in values if not math.isnan(value)]
    return ENDS[name](numbers) if numbers else math.nan


def _scores(run: Run, split: str, how: Mapping[str, Any]) -> Mapping[str, float]:
    """What an evaluation says; one that the record keeps is not made again."""
    from etude.analysis.scoring import kept, scored

    found = kept(run, split, how)
    return scored(run, split, **how)["metrics"] if found is None else found


class Metrics:
    """Reads cells from runs, and draws a metric's curves, arm by arm.

    Args:
        values: what each cell is.
        controls: its negative control; both as `Value`'s arguments, or `Mean`'s.
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
        checks.that(log in LOG, "log", log, f"one of {', '.join(filter(None, LOG))}, or nothing")
        self.values = _values(checks, "values", values)
        self.controls = _values(checks, "controls", controls)
        checks.done()
        self.curves, self.log = curves, log

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        found = [*self.values.values(), *self.controls.values()]
        return {arm for value in found for arm in value.arms}

    @property
    def cells(self) -> set[str]:
        """The keys of its readings."""
        return set(self.values)

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """The readings by cell key; PNG files go to the folder `figures`, which exists."""
        if runs and self.curves:
            draw(runs, self.curves, self.log, figures / "curves.png")
        found = {
            key: Reading(value.read(runs), self.controls[key].read(runs))
            for key, value in self.values.items()
        }
        return {key: reading for key, reading in found.items() if reading.values}


def value_of(stated: Mapping[str, Any]) -> Value | Mean:
    """A value, or a mean of some, from plain data.

    Raises:
        InvalidArguments: keys that neither has, or values that do not fit.
    """
    kind = Mean if "mean" in stated else Value
    try:
        return TypeAdapter[Value | Mean](kind).validate_python(stated)
    except ValidationError as error:
        raise InvalidArguments(problems_of(error, (Value, Mean))) from error


def _values(
    checks: Checks, name: str, stated: Mapping[str, Mapping[str, Any]]
) -> dict[str, Value | Mean]:
    found = {}
    for key, one in stated.items():
        try:
            found[key] = value_of(one)
        except InvalidArguments as error:
            checks.problems += [problem.under(f"{name}.{key}") for problem in error.problems]
    return found


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
                axes.plot(steps, means, color=colour, linewidth=1.8, label=figure_label(name))
        axes.set_title(figure_label(metric), fontsize=10)
        axes.set_xlabel("step")
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        dress(axes)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
