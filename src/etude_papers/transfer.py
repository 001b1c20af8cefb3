"""Transfer of the best learning rate to wider models (Yang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from etude.analysis.curves import new_figure, style_axes
from etude.api import Run
from etude.errors import Checks
from etude.papers.claims import Reading
from etude.papers.readings import Value

Losses = dict[int, dict[float, dict[int, float]]]
"""Losses by width, learning rate and seed."""


class Transfer:
    """Measurement of the learning rate with the smallest loss for models of several widths, with
    muP and with the standard parametrisation.

    Measured values, one per seed: `shift/mup` and `shift/standard`, log2 of the best learning rate
    of the narrowest model divided by that of the widest. Each of the two is the negative control of
    the other, a case in which the claim must not hold.

    Args:
        base: name of the arm (a key of the paper's `runs`) of the narrowest models, for which the
            two parametrisations are the same.
        mup, standard: names of the arms of the wider models, one arm for each parametrisation.
        metric: metric whose smallest value defines the best learning rate, such as a loss.
    """

    def __init__(self, *, base: str, mup: str, standard: str, metric: str) -> None:
        checks = Checks()
        names = [base, mup, standard]
        expected = "three different runs for base, mup and standard"
        checks.that(len(set(names)) == 3, "base", ", ".join(names), expected)
        checks.done()
        self.base, self.wider, self.metric = base, {"mup": mup, "standard": standard}, metric

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of the paper's runs) that `read` needs."""
        return {self.base, *self.wider.values()}

    @property
    def cells(self) -> set[str]:
        """Keys of the measured values, `shift/mup` and `shift/standard`."""
        return {f"shift/{name}" for name in self.wider}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """Returns a dict from each key in `cells` to the measured values, and draws `transfer.png`.

        Args:
            runs: finished runs by the name of their arm.
            figures: existing folder for the figure.
        """
        losses = {name: self.losses(runs, arm) for name, arm in self.wider.items()}
        shifts = {name: rate_shifts(values) for name, values in losses.items()}
        if any(losses.values()):
            plot(losses, self.metric, figures / "transfer.png")
        others = {"mup": "standard", "standard": "mup"}
        return {
            f"shift/{name}": Reading(values, shifts[others[name]])
            for name, values in shifts.items()
            if values
        }

    def losses(self, runs: Mapping[str, Sequence[Run]], arm: str) -> Losses:
        """Returns the final losses of the narrowest models, and of the wider models of one arm.

        The result is a dict: `losses[width][learning rate][seed]`. A loss that is not finite is
        infinity. An arm is a named group of the paper's runs.

        Args:
            runs: finished runs by the name of their arm.
            arm: name of the arm of the wider models.
        """
        losses: Losses = {}
        for run in (*runs.get(self.base, ()), *runs.get(arm, ())):
            width, rate = int(run.config.model.dim), float(run.config.optimizer.lr)
            (loss,) = Value(arm, self.metric).read({arm: [run]})
            by_rate = losses.setdefault(width, {}).setdefault(rate, {})
            by_rate[run.summary["seed"]] = loss if math.isfinite(loss) else math.inf
        return {width: dict(sorted(losses[width].items())) for width in sorted(losses)}


def rate_shifts(losses: Losses) -> list[float]:
    """Returns, for each seed, how the best learning rate shifts from the narrowest to the widest
    model.

    The shift is log2 of the best learning rate of the narrowest model divided by that of the
    widest. Seeds without a loss at each width and learning rate are omitted. If, for a seed, all
    learning rates of the narrowest or of the widest model diverged, the shift is NaN.

    Args:
        losses: losses by width, learning rate and seed.
    """
    if len(losses) < 2:
        return []
    narrow, wide = losses[min(losses)], losses[max(losses)]
    everywhere = [set(seeds) for rates in losses.values() for seeds in rates.values()]
    seeds = sorted(set.intersection(*everywhere))
    return [math.log2(best_rate(narrow, seed) / best_rate(wide, seed)) for seed in seeds]


def best_rate(rates: Mapping[float, Mapping[int, float]], seed: int) -> float:
    """Returns the learning rate at which a seed has the smallest loss; NaN if no loss is finite.

    Args:
        rates: losses by learning rate and seed.
        seed: the seed.
    """
    if not any(math.isfinite(seeds[seed]) for seeds in rates.values()):
        return math.nan
    return min(rates, key=lambda rate: rates[rate][seed])


def plot(losses: Mapping[str, Losses], metric: str, path: Path) -> None:
    """Draws the loss over the learning rate as in the paper's figure 1: one panel for each
    parametrisation, one line for each width, and a dot at each minimum.

    Args:
        losses: losses by name of the parametrisation (`mup`, `standard`).
        metric: name of the loss, the label of the y-axis.
        path: path of the PNG file.
    """
    figure = new_figure(9.2, 3.8)
    panels: Any = figure.subplots(1, len(losses), sharey=True)
    titles = {"mup": "maximal update parametrisation", "standard": "standard parametrisation"}
    values = [
        x for by_width in losses.values() for rates in by_width.values() for x in seed_means(rates)
    ]
    finite = [x for x in values if math.isfinite(x)]
    shades = np.linspace(0.25, 1.0, max(len(by_width) for by_width in losses.values()))
    for axes, (name, by_width) in zip(panels, losses.items(), strict=True):
        for (width, rates), shade in zip(by_width.items(), shades, strict=False):
            points = seed_means(rates)
            color = (0.11, 0.31, 0.85, shade)
            axes.plot(list(rates), points, "-", color=color, label=f"width {width}")
            best = int(np.argmin(points))
            axes.plot([list(rates)[best]], [points[best]], "o", color=color)
        axes.set_xscale("log", base=2)
        axes.set_title(titles[name], fontsize=10)
        axes.set_xlabel("learning rate")
        style_axes(axes)
    if finite:  # points above the figure have diverged
        low, high = min(finite), float(np.median(finite))
        panels[0].set_ylim(low - 0.1 * (high - low), low + 4 * (high - low))
    panels[0].set_ylabel(metric)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def seed_means(rates: Mapping[float, Mapping[int, float]]) -> list[float]:
    """Returns the mean loss over the seeds, one number for each learning rate in `rates`.

    Args:
        rates: losses by learning rate and seed.
    """
    return [fmean(seeds.values()) for seeds in rates.values()]
