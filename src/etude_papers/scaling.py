"""Loss as a power of a model's size, and how sure that is (Kaplan et al. 2020, 2001.08361)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.analysis.curves import dress, new_figure
from etude.api import Run
from etude.errors import Checks
from etude.papers.claims import Reading

Floats = NDArray[np.float64]

BLUE, ORANGE = "#1d4ed8", "#c2410c"


@dataclass(frozen=True)
class Fit:
    """L(N) = floor + scale N^-exponent, by least squares.

    Attributes:
        r2: the part of the variance of L over the sizes that it explains.
    """

    floor: float
    scale: float
    exponent: float
    r2: float

    def __call__(self, sizes: Floats) -> Floats:
        return self.floor + self.scale * sizes**-self.exponent


@dataclass(frozen=True)
class Curves:
    """What was measured.

    Attributes:
        sizes: (M,), parameters, in order.
        tokens: (P,), seen at each validation.
        losses: (seeds, M, P).
    """

    sizes: Floats
    tokens: Floats
    losses: Floats

    @property
    def last(self) -> Floats:
        """At the end, (seeds, M)."""
        return self.losses[:, :, -1]


class Scaling:
    """Fits the loss of models of several sizes that were trained on equally many tokens.

    Readings, a seed each: `rise`, the largest rise of the last loss from one size to the next,
    nats; `r2`, of a power law above a floor; `pure_r2`, of one without a floor. The control of each
    is the same with every loss moved on by half the list of sizes.

    The figure has the fit with the interval of a bootstrap over the seeds, and the loss over the
    size at equal compute C = 6 N D (Hoffmann et al. 2022, 2203.15556, figure 3), from the
    validations on the way: the runs must have a rate that does not depend on their length.

    Args:
        sizes: the arm with the models.
        metric: the loss.
        resamples: of the bootstrap.
    """

    def __init__(self, *, sizes: str, metric: str = "val/loss", resamples: int = 400) -> None:
        checks = Checks()
        checks.positive(resamples=resamples)
        checks.done()
        self.sizes, self.metric, self.resamples = sizes, metric, resamples

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        return {self.sizes}

    @property
    def cells(self) -> set[str]:
        """The keys of its readings."""
        return {"rise", "r2", "pure_r2"}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """The readings, and the figure `scaling.png`; none of fewer than four sizes."""
        curves = curves_of(runs.get(self.sizes, ()), self.metric)
        if curves is None or len(curves.sizes) < 4:  # a floor, a scale, an exponent fit any three
            return {}
        plot(curves, bootstrap(curves.sizes, curves.last, self.resamples), figures / "scaling.png")
        moved = np.roll(curves.last, len(curves.sizes) // 2, axis=1)
        both = (curves.last, moved)
        return {
            "rise": Reading(*([float(np.diff(row).max()) for row in each] for each in both)),
            "r2": Reading(*([fit(curves.sizes, row).r2 for row in each] for each in both)),
            "pure_r2": Reading(
                *([fit(curves.sizes, row, floor=False).r2 for row in each] for each in both)
            ),
        }


def curves_of(runs: Sequence[Run], metric: str) -> Curves | None:
    """Seeds that have each size, and validations that all have; None where there is none."""
    rows: dict[int, dict[int, dict[int, float]]] = {}
    for run in runs:
        frame = run.metrics
        if metric in frame:
            there = frame[["tokens", metric]].dropna()
            found = dict(zip(there["tokens"].astype(int), there[metric], strict=True))
            rows.setdefault(run.summary["seed"], {})[run.summary["parameters"]] = found
    sizes = sorted({size for of_seed in rows.values() for size in of_seed})
    seeds = [seed for seed, of_seed in sorted(rows.items()) if len(of_seed) == len(sizes)]
    if not seeds:
        return None
    shared = set.intersection(*(set(rows[seed][size]) for seed in seeds for size in sizes))
    tokens = sorted(shared)
    if not tokens:
        return None
    losses = [[[rows[seed][size][t] for t in tokens] for size in sizes] for seed in seeds]
    return Curves(np.array(sizes, float), np.array(tokens, float), np.array(losses, float))


def fit(sizes: Floats, losses: Floats, *, floor: bool = True) -> Fit:
    """The best floor, scale and exponent: of each exponent the other two by linear least squares.

    Args:
        sizes, losses: (M,).
        floor: whether there is one, 0 or more.
    """
    exponents = np.geomspace(0.005, 3, 800)
    powers = sizes ** -exponents[:, None]  # (exponents, M)
    lowest = np.zeros(len(exponents))
    if floor:
        apart = powers - powers.mean(axis=1, keepdims=True)
        slopes = apart @ (losses - losses.mean()) / (apart**2).sum(axis=1)
        lowest = np.maximum(0.0, losses.mean() - slopes * powers.mean(axis=1))
    above = losses - lowest[:, None]
    scales = (powers * above).sum(axis=1) / (powers**2).sum(axis=1)
    left = ((above - scales[:, None] * powers) ** 2).sum(axis=1)
    least = int(np.argmin(left))
    around = float(((losses - losses.mean()) ** 2).sum())
    r2 = 1 - float(left[least]) / around if around else 0.0
    return Fit(float(lowest[least]), float(scales[least]), float(exponents[least]), r2)


def bootstrap(sizes: Floats, losses: Floats, resamples: int) -> list[Fit]:
    """Fits of the means of seeds that are drawn with replacement, for each size by itself.

    Args:
        sizes: (M,).
        losses: (seeds, M).
    """
    random = np.random.default_rng(0)
    seeds, count = losses.shape
    drawn = random.integers(seeds, size=(resamples, seeds, count))
    means = np.take_along_axis(losses[None], drawn, axis=1).mean(axis=1)  # (resamples, M)
    return [fit(sizes, row) for row in means]


def at_compute(curves: Curves, flops: float) -> tuple[Floats, Floats]:
    """The sizes that were trained with so much compute, and their losses: between two validations
    by a straight line over the logarithm of the tokens.
    """
    wanted = np.log(flops / (6 * curves.sizes))
    places = np.log(curves.tokens)
    there = (wanted >= places[0]) & (wanted <= places[-1])
    mean = curves.losses.mean(axis=0)
    losses = [np.interp(w, places, row) for w, row in zip(wanted[there], mean[there], strict=True)]
    return curves.sizes[there], np.array(losses)


def plot(curves: Curves, fits: Sequence[Fit], path: Path) -> None:
    """Left loss over size, right loss over size at equal compute."""
    figure = new_figure(9.6, 3.9)
    over_size, at_equal = figure.subplots(1, 2)
    grid = np.geomspace(curves.sizes[0], curves.sizes[-1], 80)
    for row in curves.last:
        over_size.plot(curves.sizes, row, "o", color=BLUE, markersize=3, alpha=0.5)
    mean = curves.last.mean(axis=0)
    found, plain = fit(curves.sizes, mean), fit(curves.sizes, mean, floor=False)
    every = np.array([one(grid) for one in fits])
    low, high = np.quantile(every, [0.05, 0.95], axis=0)
    exponents = np.quantile([one.exponent for one in fits], [0.05, 0.95])
    label = (
        f"{found.floor:.2f} + {found.scale:.3g} $N^{{-{found.exponent:.2f}}}$, R² {found.r2:.4f}"
    )
    over_size.plot(grid, found(grid), color=BLUE, label=label)
    between = f"90 %: exponent {exponents[0]:.2f} to {exponents[1]:.2f}"
    over_size.fill_between(grid, low, high, color=BLUE, alpha=0.15, label=between)
    label = f"{plain.scale:.3g} $N^{{-{plain.exponent:.3f}}}$, R² {plain.r2:.4f}"
    over_size.plot(grid, plain(grid), ":", color=ORANGE, label=label)
    over_size.set_title("equally many tokens", fontsize=10)

    least, most = curves.sizes[1] * curves.tokens[0], curves.sizes[-2] * curves.tokens[-1]
    levels: Any = np.geomspace(6 * least * 4, 6 * most / 4, 5)
    for flops, shade in zip(levels, np.linspace(0.3, 1.0, len(levels)), strict=True):
        sizes, losses = at_compute(curves, flops)
        if len(sizes) > 2:
            colour = (0.11, 0.31, 0.85, shade)
            at_equal.plot(sizes, losses, "o-", color=colour, markersize=3, label=f"{flops:.1e}")
            lowest = int(np.argmin(losses))
            if 0 < lowest < len(sizes) - 1:  # at an end it may lie outside of what was trained
                at_equal.plot(sizes[lowest], losses[lowest], "*", color=ORANGE, markersize=9)
    at_equal.set_title("equal compute 6 N D, FLOPs", fontsize=10)
    for axes in (over_size, at_equal):
        axes.set_xscale("log")
        axes.set_xticks(curves.sizes, labels=[f"{size / 1000:.0f} k" for size in curves.sizes])
        axes.minorticks_off()
        axes.set_xlabel("parameters N")
        axes.set_ylabel("validation loss (nats)")
        dress(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Software": None})
