"""Which learning rate a range test speaks for, its table and its figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import COLOURS, dress, new_figure, save
from etude.records.files import write_json
from etude.records.opening import RANGE_TEST, folder_in

if TYPE_CHECKING:
    from etude.training.range_test import Sweep

WIDTH = 0.03
"""Of the kernel that smooths the losses, its standard deviation as a part of the steps."""


@dataclass(frozen=True)
class LearningRates:
    """What a range test found.

    Attributes:
        rates, losses: of each step.
        smoothed: the losses by a Gaussian of `WIDTH` of the steps, on both sides alike, so that
            nothing is seen later than it was.
        steepest: the rate at which the smoothed loss falls most from step to step, on the way to
            its minimum; None where it falls by no more than its noise.
        tenth_of_minimum: a tenth of the rate at its minimum; None likewise.
        notes: what to know of them.
        base: the rate that the config states.
        folder: with `lr.json` and `lr.png`.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    tenth_of_minimum: float | None
    notes: list[str]
    base: float
    folder: Path

    @property
    def suggestion(self) -> float | None:
        """The steepest descent's; `notes` say why there is none."""
        return self.steepest


def read_sweep(sweep: Sweep, steps: int) -> LearningRates:
    """What the losses of a range test speak for.

    Args:
        sweep: of ten steps at least.
        steps: how many there were to be.
    """
    losses = np.array(sweep.losses)
    reach = max(1.0, WIDTH * steps)
    smoothed = smooth(losses, reach)
    least = int(smoothed.argmin())
    slope = np.gradient(smoothed)
    steepest = int(slope[: least + 1].argmin())
    fall = float(smoothed[: least + 1].max() - smoothed[least])
    noise = float((losses - smoothed)[: least + 1].std())
    notes = [f"ended after {len(losses)} of {steps} steps: {sweep.ended}"] if sweep.ended else []
    clear = fall > noise and bool(slope[steepest] < 0)
    if not clear:
        notes.append(
            f"no suggestion: the loss falls by {fall:.3g}, which is not above its noise"
            f" ({noise:.3g}); another range (--from, --to) or more --steps may show more"
        )
    elif least == len(losses) - 1:
        notes.append("the loss still falls at the last step: a higher --to may show more")
    elif steepest <= 2 * reach:
        notes.append("the loss falls most at the first steps: a lower --from may show more")
    return LearningRates(
        rates=sweep.rates,
        losses=sweep.losses,
        smoothed=[float(value) for value in smoothed],
        steepest=sweep.rates[steepest] if clear else None,
        tenth_of_minimum=sweep.rates[least] / 10 if clear else None,
        notes=notes,
        base=sweep.base,
        folder=sweep.folder,
    )


def smooth(values: Any, deviation: float) -> Any:
    """Means weighted by a Gaussian of so many steps; (N,) to (N,), with weights that sum to 1 at
    the ends too.
    """
    places = np.arange(len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / deviation) ** 2)
    return (weights @ values) / weights.sum(axis=1)


def write(found: LearningRates, about: dict[str, Any]) -> list[Path]:
    """Writes `lr.json` and `lr.png` into the folder, in the place of older ones; returns both.

    Args:
        about: what else the file shall say.
    """
    folder_in(found.folder.parents[1], *found.folder.parts[-2:])
    file = found.folder / "lr.json"
    write_json(
        file,
        {
            **about,
            "suggestion": found.suggestion,
            "steepest": found.steepest,
            "tenth_of_minimum": found.tenth_of_minimum,
            "notes": found.notes,
            "stated": found.base,
            "rates": found.rates,
            "losses": found.losses,
            "smoothed": found.smoothed,
        },
        RANGE_TEST,
    )
    return [file, save(_figure(found), found.folder / "lr.png", RANGE_TEST)]


def _figure(found: LearningRates) -> Any:
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, ".", color="#9aa5b1", markersize=4, label="loss")
    axes.plot(found.rates, found.smoothed, color=COLOURS[0], linewidth=1.7, label="smoothed")
    marked = {"steepest descent": found.steepest, "minimum / 10": found.tenth_of_minimum}
    for (name, rate), colour in zip(marked.items(), COLOURS[1:], strict=False):
        if rate is not None:
            told = f"{name}: {rate:.2g}"
            axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=told)
    low, first = min(found.smoothed), found.smoothed[0]
    axes.set_ylim(low - 0.1 * abs(first - low) - 1e-12, first + 0.2 * abs(first - low) + 1e-12)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    dress(axes)
    axes.legend(frameon=False, fontsize=8.5)
    return figure
