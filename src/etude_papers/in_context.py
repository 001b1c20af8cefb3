"""The error of a function that is learnt in context, over the examples of it that were seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.analysis.curves import COLOURS, dress, new_figure
from etude.api import Run
from etude.errors import Checks
from etude.escaping import figure_label
from etude.papers.claims import Reading
from etude.papers.readings import Metrics


class InContext(Metrics):
    """Reads cells as `Metrics`, and draws errors over the number of examples, arm by arm, as figure
    2 of Garg et al. 2022 (arXiv:2208.01066): beside them that of least squares.

    Args:
        errors: the metrics' name, before the number of examples.
        dimensions: d, the numbers of an input.
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
        found = super().read(runs, figures)
        errors = {
            arm: several
            for arm, each in runs.items()
            if (several := [e for run in each if (e := errors_of(run, self.errors))])
        }
        if errors:
            plot(errors, self.dimensions, figures / "errors.png")
        return found


def errors_of(run: Run, name: str) -> dict[int, float]:
    """The last error of a run by the number of examples."""
    frame = run.metrics
    numbered = ((re.fullmatch(rf"{name}/(\d+)", column), column) for column in map(str, frame))
    found = {int(match[1]): frame[column].dropna() for match, column in numbered if match}
    return {number: float(found[number].iloc[-1]) for number in sorted(found) if len(found[number])}


def least_squares(examples: NDArray[np.int64], dimensions: int) -> NDArray[np.float64]:
    """The expected error of least squares, of minimum norm where the examples do not suffice, with
    isotropic inputs and weights and without noise; in units of that of always saying 0.

    k examples span k of the d directions at random; what w has in the others is not known.
    """
    return np.maximum(0.0, 1 - examples / dimensions)


def plot(errors: Mapping[str, Sequence[Mapping[int, float]]], dimensions: int, path: Path) -> None:
    """Each seed thin, the mean thick, and least squares dotted."""
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    most = 0
    for (arm, several), colour in zip(errors.items(), COLOURS * 3, strict=False):
        for each in several:
            axes.plot([*each], [*each.values()], color=colour, linewidth=0.7, alpha=0.45)
        shared = sorted(set.intersection(*(set(each) for each in several)))
        means = [np.mean([each[number] for each in several]) for number in shared]
        axes.plot(
            shared, means, "o-", color=colour, markersize=4, linewidth=1.8, label=figure_label(arm)
        )
        most = max(most, *shared)
    numbers = np.arange(most + 1)
    expected = least_squares(numbers, dimensions)
    axes.plot(numbers, expected, ":", color="black", linewidth=1.4, label="least squares, theory")
    axes.set_xticks(numbers)
    axes.set_xlabel("examples in context k")
    axes.set_ylabel("squared error / d")
    axes.set_ylim(bottom=0)
    dress(axes)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
