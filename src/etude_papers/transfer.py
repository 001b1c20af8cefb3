"""Whether the best learning rate stays where it is as a model becomes wider (Yang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from etude.analysis.curves import dress, new_figure
from etude.api import Run
from etude.errors import Checks
from etude.papers.claims import Reading
from etude.papers.readings import Value

Losses = dict[int, dict[float, dict[int, float]]]
"""By width, learning rate and seed."""


class Transfer:
    """Reads from which learning rate a width has its least loss.

    Readings: `shift/mup` and `shift/standard`, octaves by which the best rate of the widest model
    is below that of the narrowest, a seed each; each is the other's control.

    Args:
        base: the arm of the narrowest models, at which both parametrisations are the same.
        mup, standard: the arms of the wider ones.
        metric: what is least at the best rate.
    """

    def __init__(self, *, base: str, mup: str, standard: str, metric: str) -> None:
        checks = Checks()
        names = [base, mup, standard]
        checks.that(len(set(names)) == 3, "base", ", ".join(names), "three different runs")
        checks.done()
        self.base, self.wider, self.metric = base, {"mup": mup, "standard": standard}, metric

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        return {self.base, *self.wider.values()}

    @property
    def cells(self) -> set[str]:
        """The keys of its readings."""
        return {f"shift/{name}" for name in self.wider}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """The readings, and the figure `transfer.png`."""
        losses = {name: self.losses(runs, arm) for name, arm in self.wider.items()}
        shifts = {name: shifts_of(found) for name, found in losses.items()}
        if any(losses.values()):
            plot(losses, self.metric, figures / "transfer.png")
        others = {"mup": "standard", "standard": "mup"}
        return {
            f"shift/{name}": Reading(found, shifts[others[name]])
            for name, found in shifts.items()
            if found
        }

    def losses(self, runs: Mapping[str, Sequence[Run]], arm: str) -> Losses:
        """Of the narrowest models and one arm of wider ones; what is no number is infinite."""
        found: Losses = {}
        for run in (*runs.get(self.base, ()), *runs.get(arm, ())):
            width, rate = int(run.config.model.dim), float(run.config.optimizer.lr)
            (loss,) = Value(arm, self.metric).read({arm: [run]})
            by_rate = found.setdefault(width, {}).setdefault(rate, {})
            by_rate[run.summary["seed"]] = loss if math.isfinite(loss) else math.inf
        return {width: dict(sorted(found[width].items())) for width in sorted(found)}


def shifts_of(losses: Losses) -> list[float]:
    """log2 of the narrowest width's best rate over that of the widest, by seed; only seeds that
    have a loss at each width and rate. Not a number where a width diverged at every rate.
    """
    if len(losses) < 2:
        return []
    narrow, wide = losses[min(losses)], losses[max(losses)]
    everywhere = [set(seeds) for rates in losses.values() for seeds in rates.values()]
    seeds = sorted(set.intersection(*everywhere))
    return [math.log2(best_rate(narrow, seed) / best_rate(wide, seed)) for seed in seeds]


def best_rate(rates: Mapping[float, Mapping[int, float]], seed: int) -> float:
    """The rate with the least loss of a seed; not a number where none is finite."""
    if not any(math.isfinite(seeds[seed]) for seeds in rates.values()):
        return math.nan
    return min(rates, key=lambda rate: rates[rate][seed])


def plot(losses: Mapping[str, Losses], metric: str, path: Path) -> None:
    """A panel a parametrisation, a line a width, as the paper's figure 1; a dot at each minimum."""
    figure = new_figure(9.2, 3.8)
    panels: Any = figure.subplots(1, len(losses), sharey=True)
    titles = {"mup": "maximal update parametrisation", "standard": "standard parametrisation"}
    every = [x for found in losses.values() for rates in found.values() for x in means(rates)]
    finite = [x for x in every if math.isfinite(x)]
    shades = np.linspace(0.25, 1.0, max(len(found) for found in losses.values()))
    for axes, (name, found) in zip(panels, losses.items(), strict=True):
        for (width, rates), shade in zip(found.items(), shades, strict=False):
            points = means(rates)
            colour = (0.11, 0.31, 0.85, shade)
            axes.plot(list(rates), points, "-", color=colour, label=f"width {width}")
            least = int(np.argmin(points))
            axes.plot([list(rates)[least]], [points[least]], "o", color=colour)
        axes.set_xscale("log", base=2)
        axes.set_title(titles[name], fontsize=10)
        axes.set_xlabel("learning rate")
        dress(axes)
    if finite:  # what has left the figure above has diverged
        low, high = min(finite), float(np.median(finite))
        panels[0].set_ylim(low - 0.1 * (high - low), low + 4 * (high - low))
    panels[0].set_ylabel(metric)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def means(rates: Mapping[float, Mapping[int, float]]) -> list[float]:
    """Over the seeds, a rate each."""
    return [fmean(seeds.values()) for seeds in rates.values()]
