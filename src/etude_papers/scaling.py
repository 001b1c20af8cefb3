"""Loss as a power of the model size, with confidence intervals.

See Kaplan et al. 2020, arXiv:2001.08361.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.analysis.curves import new_figure, style_axes
from etude.api import Run
from etude.errors import Checks
from etude.papers.claims import Reading

Floats = NDArray[np.float64]

BLUE, ORANGE = "#1d4ed8", "#c2410c"


@dataclass(frozen=True)
class Fit:
    """Least-squares fit of the loss L as a function of the model size N.

    The function is L(N) = floor + scale N^-exponent.

    Attributes:
        floor, scale, exponent: parameters of the function.
        r2: R²: the fraction of the variance of L over the sizes that the fit explains.
    """

    floor: float
    scale: float
    exponent: float
    r2: float

    def __call__(self, sizes: Floats) -> Floats:
        return self.floor + self.scale * sizes**-self.exponent


@dataclass(frozen=True)
class Curves:
    """Losses of M model sizes at P validations during training.

    Attributes:
        sizes: numbers of parameters, in ascending order; shape (M,).
        tokens: number of training tokens before each validation; shape (P,).
        losses: losses; shape (number of seeds, M, P).
    """

    sizes: Floats
    tokens: Floats
    losses: Floats

    @property
    def last(self) -> Floats:
        """The losses at the last validation, of shape (number of seeds, number of model sizes)."""
        return self.losses[:, :, -1]


class Scaling:
    """Measurement that fits the loss of models of several sizes as a function of the size.

    All models are trained on the same number of tokens. Measured values, one per seed: `rise`, the
    largest rise of the last loss from one size to the next, in nats; `r2`, R² of a power law with a
    floor (see `Fit`); `pure_r2`, R² of a power law without a floor. For the negative control (a
    case in which the claim must not hold) of each value, the losses are assigned to other sizes:
    the list of losses is rotated by half its length.

    The figure shows the fit with a bootstrap interval over the seeds, and the loss over the size N
    at equal compute C = 6 N D, D being the number of training tokens (Hoffmann et al. 2022,
    arXiv:2203.15556, figure 3). The figure uses validations during training, so the learning rate
    must not depend on the length of the run.

    Args:
        sizes: name of the arm (a key of the paper's `runs`) whose runs are the models of all sizes.
        metric: name of the metric that is the loss.
        resamples: number of bootstrap resamples.
    """

    def __init__(self, *, sizes: str, metric: str = "val/loss", resamples: int = 400) -> None:
        checks = Checks()
        checks.positive(resamples=resamples)
        checks.done()
        self.sizes, self.metric, self.resamples = sizes, metric, resamples

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of the paper's runs) that `read` needs."""
        return {self.sizes}

    @property
    def cells(self) -> set[str]:
        """Keys of the measured values: `rise`, `r2` and `pure_r2`."""
        return {"rise", "r2", "pure_r2"}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """Returns a dict from each key in `cells` to the measured values, and draws `scaling.png`.

        If there are fewer than four model sizes, returns an empty dict and draws nothing.

        Args:
            runs: finished runs by the name of their arm.
            figures: existing folder for the figure.
        """
        curves = load_curves(runs.get(self.sizes, ()), self.metric)
        if curves is None or len(curves.sizes) < 4:  # three parameters fit any three sizes
            return {}
        plot(curves, bootstrap(curves.sizes, curves.last, self.resamples), figures / "scaling.png")
        shifted = np.roll(curves.last, len(curves.sizes) // 2, axis=1)
        both = (curves.last, shifted)
        return {
            "rise": Reading(*([float(np.diff(row).max()) for row in each] for each in both)),
            "r2": Reading(*([fit(curves.sizes, row).r2 for row in each] for each in both)),
            "pure_r2": Reading(
                *([fit(curves.sizes, row, floor=False).r2 for row in each] for each in both)
            ),
        }


def load_curves(runs: Sequence[Run], metric: str) -> Curves | None:
    """Returns the losses of runs as arrays over seeds, model sizes and validations.

    A seed is used if a model of each size was trained with it. A validation is used if all of these
    runs have it. Returns None if no seed or no validation is left.

    Args:
        runs: runs of all sizes and seeds.
        metric: name of the metric that is the loss.
    """
    rows: dict[int, dict[int, dict[int, float]]] = {}
    for run in runs:
        frame = run.metrics
        if metric in frame:
            measured = frame[["tokens", metric]].dropna()
            losses_by_tokens = dict(
                zip(measured["tokens"].astype(int), measured[metric], strict=True)
            )
            rows.setdefault(run.summary["seed"], {})[run.summary["parameters"]] = losses_by_tokens
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
    """Returns the least-squares fit of the losses as a function of the model size; see `Fit`.

    The exponent is the best of a grid; for each exponent, floor and scale are fitted by linear
    least squares.

    Args:
        sizes, losses: the M model sizes and their losses, arrays of shape (M,).
        floor: whether to fit a floor of at least 0.
    """
    exponents = np.geomspace(0.005, 3, 800)
    powers = sizes ** -exponents[:, None]  # (exponents, M)
    floors = np.zeros(len(exponents))
    if floor:
        centered = powers - powers.mean(axis=1, keepdims=True)
        slopes = centered @ (losses - losses.mean()) / (centered**2).sum(axis=1)
        floors = np.maximum(0.0, losses.mean() - slopes * powers.mean(axis=1))
    above = losses - floors[:, None]
    scales = (powers * above).sum(axis=1) / (powers**2).sum(axis=1)
    residuals = ((above - scales[:, None] * powers) ** 2).sum(axis=1)
    best = int(np.argmin(residuals))
    total = float(((losses - losses.mean()) ** 2).sum())
    r2 = 1 - float(residuals[best]) / total if total else 0.0
    return Fit(float(floors[best]), float(scales[best]), float(exponents[best]), r2)


def bootstrap(sizes: Floats, losses: Floats, resamples: int) -> list[Fit]:
    """Returns fits of the loss as a function of the model size, for resampled seeds (bootstrap).

    For each fit and each size, the seeds are resampled with replacement, and their losses are
    averaged.

    Args:
        sizes: the M model sizes; shape (M,).
        losses: losses; shape (number of seeds, M).
        resamples: number of fits.
    """
    random = np.random.default_rng(0)
    seeds, count = losses.shape
    indices = random.integers(seeds, size=(resamples, seeds, count))
    means = np.take_along_axis(losses[None], indices, axis=1).mean(axis=1)  # (resamples, M)
    return [fit(sizes, row) for row in means]


def at_compute(curves: Curves, flops: float) -> tuple[Floats, Floats]:
    """Returns the model sizes that reached the training compute `flops`, and their losses there.

    The losses are averaged over the seeds, and interpolated between validations, linearly in the
    logarithm of the tokens.

    Args:
        curves: the losses.
        flops: training compute, 6 times the model size times the number of training tokens.
    """
    wanted = np.log(flops / (6 * curves.sizes))
    log_tokens = np.log(curves.tokens)
    available = (wanted >= log_tokens[0]) & (wanted <= log_tokens[-1])
    mean = curves.losses.mean(axis=0)
    losses = [
        np.interp(w, log_tokens, row)
        for w, row in zip(wanted[available], mean[available], strict=True)
    ]
    return curves.sizes[available], np.array(losses)


def plot(curves: Curves, fits: Sequence[Fit], path: Path) -> None:
    """Draws the loss over the model size: at equally many tokens (left), at equal compute (right).

    Args:
        curves: the losses.
        fits: bootstrap fits, from `bootstrap`; they define the interval around the fit.
        path: path of the PNG file.
    """
    figure = new_figure(9.6, 3.9)
    over_size, at_equal = figure.subplots(1, 2)
    grid = np.geomspace(curves.sizes[0], curves.sizes[-1], 80)
    for row in curves.last:
        over_size.plot(curves.sizes, row, "o", color=BLUE, markersize=3, alpha=0.5)
    mean = curves.last.mean(axis=0)
    fitted, pure = fit(curves.sizes, mean), fit(curves.sizes, mean, floor=False)
    predictions = np.array([each(grid) for each in fits])
    low, high = np.quantile(predictions, [0.05, 0.95], axis=0)
    exponents = np.quantile([each.exponent for each in fits], [0.05, 0.95])
    power = f"{fitted.scale:.3g} $N^{{-{fitted.exponent:.2f}}}$"
    label = f"{fitted.floor:.2f} + {power}, R² {fitted.r2:.4f}"
    over_size.plot(grid, fitted(grid), color=BLUE, label=label)
    between = f"90 % interval (exponent {exponents[0]:.2f} to {exponents[1]:.2f})"
    over_size.fill_between(grid, low, high, color=BLUE, alpha=0.15, label=between)
    label = f"{pure.scale:.3g} $N^{{-{pure.exponent:.3f}}}$, R² {pure.r2:.4f}"
    over_size.plot(grid, pure(grid), ":", color=ORANGE, label=label)
    over_size.set_title("equally many tokens", fontsize=10)

    least, most = curves.sizes[1] * curves.tokens[0], curves.sizes[-2] * curves.tokens[-1]
    levels: Any = np.geomspace(6 * least * 4, 6 * most / 4, 5)
    for flops, shade in zip(levels, np.linspace(0.3, 1.0, len(levels)), strict=True):
        sizes, losses = at_compute(curves, flops)
        if len(sizes) > 2:
            color = (0.11, 0.31, 0.85, shade)
            at_equal.plot(sizes, losses, "o-", color=color, markersize=3, label=f"{flops:.1e}")
            lowest = int(np.argmin(losses))
            if (
                0 < lowest < len(sizes) - 1
            ):  # at an end the minimum may be outside of the trained sizes
                at_equal.plot(sizes[lowest], losses[lowest], "*", color=ORANGE, markersize=9)
    at_equal.set_title("equal compute 6 N D, FLOPs", fontsize=10)
    for axes in (over_size, at_equal):
        axes.set_xscale("log")
        axes.set_xticks(curves.sizes, labels=[f"{size / 1000:.0f} k" for size in curves.sizes])
        axes.minorticks_off()
        axes.set_xlabel("parameters N")
        axes.set_ylabel("validation loss (nats)")
        style_axes(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Software": None})
