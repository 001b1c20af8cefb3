"""Error of a model that learns a function from examples in its context, by number of examples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.analysis.curves import COLOURS, new_figure, style_axes
from etude.api import Run
from etude.errors import Checks
from etude.escaping import figure_label
from etude.papers.claims import Reading
from etude.papers.readings import Metrics


class InContext(Metrics):
    """Measurement like `Metrics` that also draws each arm's error over the number of examples in
    the context.

    The figure corresponds to figure 2 of Garg et al. 2022 (arXiv:2208.01066), and also shows the
    error of least squares. An arm is a named group of runs with different seeds.

    Args:
        errors: first part of the metrics' names: the metric `<errors>/k` is the error after k
            examples.
        dimensions: d, the dimension of an input.
        values, controls, curves, log: see `Metrics`.
    """

    def __init__(
        self,
        *,
        errors: str,
        dimensions: int,
        values: dict[str, dict[str, Any]],
        controls: dict[str, dict[str, Any]],
        curves: list[str],
        log: str = "",
    ) -> None:
        checks = Checks()
        checks.positive(dimensions=dimensions)
        checks.done()
        super().__init__(values=values, controls=controls, curves=curves, log=log)
        self.errors, self.dimensions = errors, dimensions

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        readings = super().read(runs, figures)
        errors = {
            arm: arm_errors
            for arm, arm_runs in runs.items()
            if (arm_errors := [e for run in arm_runs if (e := last_errors(run, self.errors))])
        }
        if errors:
            plot(errors, self.dimensions, figures / "errors.png")
        return readings


def last_errors(run: Run, name: str) -> dict[int, float]:
    """Returns the last logged errors of a run, by the number of examples in the context.

    Args:
        run: the run.
        name: first part of the metrics' names: the metric `<name>/k` is the error after k examples.
    """
    frame = run.metrics
    matches = ((re.fullmatch(rf"{name}/(\d+)", column), column) for column in map(str, frame))
    columns = {int(match[1]): frame[column].dropna() for match, column in matches if match}
    return {
        number: float(columns[number].iloc[-1])
        for number in sorted(columns)
        if len(columns[number])
    }


def least_squares(examples: NDArray[np.int64], dimensions: int) -> NDArray[np.float64]:
    """Returns the expected error of least squares for each number of examples, relative to the
    error of always predicting 0.

    Inputs and weights are isotropic, and there is no noise. k random examples determine the weights
    in k of the d directions; in the other directions, the solution of minimum norm is 0.

    Args:
        examples: the numbers of examples.
        dimensions: d, the dimension of an input.
    """
    return np.maximum(0.0, 1 - examples / dimensions)


def plot(errors: Mapping[str, Sequence[Mapping[int, float]]], dimensions: int, path: Path) -> None:
    """Draws the error over the number of examples in the context.

    Thin lines are single runs, a thick line is the mean of an arm's runs, and the dotted line is
    least squares.

    Args:
        errors: dict from each arm (named group of runs) to a list of dicts, one for each run. Such
            a dict maps the number of examples to the error.
        dimensions: d, the dimension of an input.
        path: path of the PNG file.
    """
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    largest = 0
    for (arm, arm_errors), color in zip(errors.items(), COLOURS * 3, strict=False):
        for each in arm_errors:
            axes.plot([*each], [*each.values()], color=color, linewidth=0.7, alpha=0.45)
        shared = sorted(set.intersection(*(set(each) for each in arm_errors)))
        means = [np.mean([each[number] for each in arm_errors]) for number in shared]
        axes.plot(
            shared, means, "o-", color=color, markersize=4, linewidth=1.8, label=figure_label(arm)
        )
        largest = max(largest, *shared)
    numbers = np.arange(largest + 1)
    expected = least_squares(numbers, dimensions)
    axes.plot(numbers, expected, ":", color="black", linewidth=1.4, label="least squares, theory")
    axes.set_xticks(numbers)
    axes.set_xlabel("examples in context k")
    axes.set_ylabel("squared error / d")
    axes.set_ylim(bottom=0)
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
