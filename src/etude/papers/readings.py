"""Reads the values of a paper's table from finished runs. A value is the last or best value of a
metric, the first step at which a metric reaches a threshold, or the score of a checkpoint on a
split.
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

from etude.analysis.curves import COLOURS, LOG_AXES, new_figure, style_axes
from etude.api import Run
from etude.errors import (
    MISSING_VALUE,
    Checks,
    InvalidArguments,
    Problem,
    RequestError,
    nearest,
    nearest_of,
)
from etude.escaping import figure_label
from etude.papers.claims import CLOSED, Number, Reading, problems_of

SeedValues = dict[tuple[int, int], float]
"""Values by pairs of a seed and the index of a run among the runs with this seed."""


@dataclass(frozen=True, config=CLOSED)
class Value:
    """Rule that reads one number from each run of an arm, or one number for each seed.

    An arm is a named group of a paper's runs. Its runs have the same overrides and different seeds.

    Args:
        run: name of the arm.
        metric: name of the metric as in `metrics.jsonl`, such as `val/accuracy`. If `split` is set:
            its name in an evaluation, such as `bleu`.
        of: what to read of the metric: its `last`, `max` or `min` value, or `step`, the first step
            at which the metric is at least `reaches` (infinite if there is no such step). For a run
            that diverged, `last`, `max` and `min` are NaN.
        reaches: threshold of the metric; set only if `of` is `step`.
        over: rule for another number, by which this number is divided, separately for each seed.
            Seeds without the other number are omitted. Division by 0 gives NaN.
        swept: for an arm whose overrides contain a sweep: a mapping from each swept key to `max` or
            `min`. For each key in turn, the numbers of runs that differ only in this key are
            replaced by their maximum or minimum, so that one number remains for each seed.
        split: split of the data on which to score a checkpoint. None reads a metric of training.
        how: options of this scoring: `which` checkpoint (default: the best), `beams` and
            `length_penalty`, or `sequence_length` and `stride`.
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
        consistent = (self.of == "step") == (self.reaches is not None)
        expected = "a number if `of` is `step`, otherwise null"
        checks.that(consistent, "reaches", self.reaches, expected)
        for key, reduced in self.swept.items():
            checks.that(reduced in REDUCTIONS, f"swept.{key}", reduced, "max or min")
        scored = self.split is not None
        hint = "`split` is set, and a checkpoint has only one score on a split"
        checks.that(not scored or self.of == "last", "of", self.of, "no value", hint)
        hint = "these options are used only if `split` is set"
        checks.that(scored or not self.how, "how", self.how, "no options", hint)
        known = ("which", "beams", "length_penalty", "sequence_length", "stride")
        for key in self.how:
            checks.that(
                key in known, "how", key, f"one of {', '.join(known)}", nearest_of(key, known)
            )
        checks.done()

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of a paper's runs) that are read."""
        return {self.run} | (set() if self.over is None else self.over.arms)

    def read(self, runs: Mapping[str, Sequence[Run]]) -> list[float]:
        """Returns a list with one number for each run of the arm or, with `swept`, for each seed.

        The numbers have the order of the runs.

        Args:
            runs: finished runs of each arm, by the arm's name.

        Raises:
            RequestError: If a finished run does not have the metric.
        """
        return [*self.by_seed(runs).values()]

    def by_seed(self, runs: Mapping[str, Sequence[Run]]) -> SeedValues:
        """Returns the same numbers as `read`, as a dict whose keys are pairs (seed, index).

        The index counts the arm's runs with this seed, from 0. If `swept` is set, it is always 0.

        Args:
            runs: finished runs of each arm, by the arm's name.
        """
        several = runs.get(self.run, ())
        own = self._reduced(several) if self.swept else _keyed(several, map(self._value, several))
        if self.over is None:
            return own
        over = self.over.by_seed(runs)
        return {key: own[key] / over[key] if over[key] else math.nan for key in own if key in over}

    def _reduced(self, runs: Sequence[Run]) -> SeedValues:
        seeds: dict[int, dict[tuple[Any, ...], float]] = {}
        for run in runs:
            point = tuple(
                OmegaConf.select(run.config, key, default=MISSING_VALUE) for key in self.swept
            )
            for key, value in zip(self.swept, point, strict=True):
                if value is MISSING_VALUE:
                    where = f"measure: a key of `swept` for the run {self.run}"
                    expected = "a key of this run's config"
                    raise RequestError(Problem(where, expected, key))
            seeds.setdefault(run.summary["seed"], {})[point] = self._value(run)
        values: SeedValues = {}
        for seed, table in seeds.items():
            for reduced in self.swept.values():
                groups: dict[tuple[Any, ...], list[float]] = {}
                for point, value in table.items():
                    groups.setdefault(point[1:], []).append(value)
                table = {point: _extremum(reduced, group) for point, group in groups.items()}
            values |= {(seed, index): value for index, value in enumerate(table.values())}
        return values

    def _value(self, run: Run) -> float:
        if self.split is not None:
            scores = _scores(run, self.split, self.how)
            self._check_metric(scores)
            return float(scores[self.metric])
        frame = run.metrics
        if run.status == "finished":
            self._check_metric([*map(str, frame)])
        elif self.metric not in frame:
            return math.nan
        rows = frame[["step", self.metric]].dropna()
        if self.of == "step":
            reached = rows[rows[self.metric] >= self.reaches]
            return float(reached["step"].iloc[0]) if len(reached) else math.inf
        values = rows[self.metric]
        if not len(values) or run.status == "diverged":
            return math.nan
        choices = {"last": values.iloc[-1], "max": values.max(), "min": values.min()}
        return float(choices[self.of])

    def _check_metric(self, known: Collection[str]) -> None:
        if self.metric not in known:
            hint = nearest(self.metric, known)
            where, expected = f"measure: metric of the run {self.run}", "a metric of this run"
            raise RequestError(Problem(where, expected, self.metric, hint))


@dataclass(frozen=True, config=CLOSED)
class Mean:
    """Rule that computes the mean of several numbers, separately for each seed.

    Args:
        mean: rules for the numbers to average.
    """

    mean: Annotated[list[Value | Mean], Field(min_length=1)]

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of a paper's runs) that are read."""
        return {arm for each in self.mean for arm in each.arms}

    def read(self, runs: Mapping[str, Sequence[Run]]) -> list[float]:
        """Returns a list of means, one for each seed for which all numbers can be read.

        The means have the order of the runs that the first rule reads.

        Args:
            runs: finished runs of each arm, by the arm's name. An arm is a named group of a paper's
                runs.
        """
        return [*self.by_seed(runs).values()]

    def by_seed(self, runs: Mapping[str, Sequence[Run]]) -> SeedValues:
        """Returns the same means as `read`, as a dict whose keys are pairs (seed, index).

        The index counts an arm's runs with this seed, from 0.

        Args:
            runs: finished runs of each arm, by the arm's name.
        """
        first, *others = (each.by_seed(runs) for each in self.mean)
        shared = [key for key in first if all(key in other for other in others)]
        return {key: fmean(each[key] for each in (first, *others)) for key in shared}


def _keyed(runs: Sequence[Run], values: Iterable[float]) -> SeedValues:
    """Returns a dict from a pair (seed, index) for each run to the run's value.

    The index counts the runs with this seed, from 0.

    Args:
        runs: the runs.
        values: one value for each run.
    """
    counts: Counter[int] = Counter()
    keyed: SeedValues = {}
    for run, value in zip(runs, values, strict=True):
        seed = run.summary["seed"]
        keyed[seed, counts[seed]] = value
        counts[seed] += 1
    return keyed


REDUCTIONS = {"max": max, "min": min}


def _extremum(name: str, values: Sequence[float]) -> float:
    """Returns the largest value (if `name` is `max`) or the smallest (`min`), ignoring NaN.

    NaN is the value of a run that diverged. If all values are NaN, returns NaN.
    """
    numbers = [value for value in values if not math.isnan(value)]
    return REDUCTIONS[name](numbers) if numbers else math.nan


def _scores(run: Run, split: str, how: Mapping[str, Any]) -> Mapping[str, float]:
    """Returns the metrics of a run's checkpoint on a split, as a dict from names to values.

    The values are read from the run's folder if they are stored there. Otherwise, the checkpoint is
    evaluated.

    Args:
        run: the run.
        split: the split, such as `test`.
        how: options of the evaluation, such as the checkpoint; see `Value`.
    """
    from etude.analysis.scoring import evaluate_run, stored_metrics

    stored = stored_metrics(run, split, how)
    return evaluate_run(run, split, **how)["metrics"] if stored is None else stored


class Metrics:
    """Reads the values of a paper's table from runs, and draws curves of metrics.

    Implements `etude.papers.claims.Readings`.

    Args:
        values: dict from the key of each value in the paper's table to the arguments of the rule
            (`Value` or `Mean`) that reads it.
        controls: rules in the same form and with the same keys. They read each value in the
            negative control, a case in which the paper's claim must not hold.
        curves: metrics to draw, each in its own panel; empty for no figure.
        log: axes with logarithmic scale: `x`, `y`, `xy`, or an empty string.
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
        expected = f"a negative control for each key of `values`: {', '.join(values)}"
        checks.that(set(values) == set(controls), "controls", ", ".join(controls), expected)
        checks.that(
            log in LOG_AXES,
            "log",
            log,
            f"one of {', '.join(filter(None, LOG_AXES))}, or an empty string",
        )
        self.values = _values(checks, "values", values)
        self.controls = _values(checks, "controls", controls)
        checks.done()
        self.curves, self.log = curves, log

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of a paper's runs) that are read."""
        values = [*self.values.values(), *self.controls.values()]
        return {arm for value in values for arm in value.arms}

    @property
    def cells(self) -> set[str]:
        """Keys of the values in the paper's table that are read."""
        return set(self.values)

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """Reads the values; returns a dict from the key of each value to its `Reading`.

        Values for which no number can be read from `runs` are omitted from the dict. Also draws
        the curves and saves them as `curves.png`, unless there are no runs or no curves.

        Args:
            runs: finished runs of each arm, by the arm's name. An arm is a named group of a paper's
                runs.
            figures: folder for the figure.
        """
        if runs and self.curves:
            draw(runs, self.curves, self.log, figures / "curves.png")
        readings = {
            key: Reading(value.read(runs), self.controls[key].read(runs))
            for key, value in self.values.items()
        }
        return {key: reading for key, reading in readings.items() if reading.values}


def value_of(stated: Mapping[str, Any]) -> Value | Mean:
    """Builds a `Value`, or a `Mean` if `stated` has the key `mean`.

    Args:
        stated: dict with the arguments of the constructor of `Value` or `Mean`.

    Raises:
        InvalidArguments: If a key is unknown or a value is invalid.
    """
    kind = Mean if "mean" in stated else Value
    try:
        return TypeAdapter[Value | Mean](kind).validate_python(stated)
    except ValidationError as error:
        raise InvalidArguments(problems_of(error, (Value, Mean))) from error


def _values(
    checks: Checks, name: str, stated: Mapping[str, Mapping[str, Any]]
) -> dict[str, Value | Mean]:
    values = {}
    for key, arguments in stated.items():
        try:
            values[key] = value_of(arguments)
        except InvalidArguments as error:
            checks.problems += [problem.under(f"{name}.{key}") for problem in error.problems]
    return values


def draw(runs: Mapping[str, Sequence[Run]], metrics: Sequence[str], log: str, path: Path) -> None:
    """Draws the curves of each metric in its own panel, and saves the figure at `path`.

    The x axis is the step. A thin line is a single run. A thick line is the mean over the runs of
    an arm, which is a named group of runs, at the steps that these runs have in common. Runs
    without the metric are omitted.

    Args:
        runs: finished runs of each arm, by the arm's name.
        metrics: names of the metrics.
        log: axes with logarithmic scale; see `Metrics`.
        path: path of the PNG file.
    """
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
        style_axes(axes)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
