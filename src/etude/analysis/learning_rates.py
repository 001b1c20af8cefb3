"""Suggestion of a learning rate from a range test, with a JSON file and a figure.

In a range test, a model is trained with a rising learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.axis_ranges import set_value_range
from etude.analysis.curves import COLOURS, new_figure, save_figure, style_axes
from etude.markup.charts import line_chart
from etude.markup.fragments import display, fields, note, title
from etude.records.files import write_json
from etude.records.opening import RANGE_TEST, make_subfolder

if TYPE_CHECKING:
    from etude.training.range_test import RangeTestResult

WIDTH = 0.03
"""Standard deviation of the kernel that smooths the losses, as a fraction of the steps."""


@dataclass(frozen=True)
class LearningRates:
    """Result of a range test, in which a model is trained with a rising learning rate.

    Attributes:
        rates: learning rate of each step.
        losses: training loss of each step.
        smoothed: losses smoothed by a Gaussian whose standard deviation is `WIDTH` times the number
            of steps. The Gaussian is symmetric, so it does not delay the curve.
        steepest: learning rate at which the smoothed loss falls most per step, before its minimum;
            None if the fall does not exceed the noise.
        tenth_of_minimum: a tenth of the learning rate at the minimum of the smoothed loss; None if
            the fall does not exceed the noise.
        notes: remarks on the result.
        base: learning rate of the config.
        folder: folder of `lr.json` and `lr.png`.
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
        """Learning rate of the steepest descent; if None, `notes` state the reason."""
        return self.steepest

    def __repr__(self) -> str:
        return f"LearningRates({', '.join(f'{name} {value}' for name, value in self._shown())})"

    def _repr_html_(self) -> str:
        chart = line_chart(self.rates, self.smoothed, title="loss", label="lr", log=True)
        return display(
            title("Learning rates"), fields(self._shown()), chart, *map(note, self.notes)
        )

    def _shown(self) -> list[tuple[str, str]]:
        """Returns names and values for displays."""
        rates = {"steepest": self.steepest, "tenth of minimum": self.tenth_of_minimum}
        shown = [(k, "none" if v is None else f"{v:.3g}") for k, v in rates.items()]
        return [*shown, ("steps", f"{len(self.rates):,}"), ("folder", str(self.folder))]


def suggest_rates(sweep: RangeTestResult, steps: int) -> LearningRates:
    """Derives suggested learning rates from the losses of a range test.

    In a range test, a model is trained with a rising learning rate.

    Args:
        sweep: result of the test: losses and learning rates of at least ten steps.
        steps: number of steps that the test was configured for; it may have ended earlier. The
            losses are smoothed over a fraction (`WIDTH`) of this number.
    """
    losses = np.array(sweep.losses)
    reach = max(1.0, WIDTH * steps)
    smoothed = smooth(losses, reach)
    least = int(smoothed.argmin())
    slope = np.gradient(smoothed)
    steepest = int(slope[: least + 1].argmin())
    fall = float(smoothed[: least + 1].max() - smoothed[least])
    noise = float((losses - smoothed)[: least + 1].std())
    notes = [f"stopped after {len(losses)} of {steps} steps: {sweep.ended}"] if sweep.ended else []
    clear = fall > noise and bool(slope[steepest] < 0)
    if not clear:
        notes.append(
            f"no suggestion: the loss falls by {fall:.3g}, which does not exceed the noise"
            f" ({noise:.3g}); try another range (--from, --to) or more --steps"
        )
    elif least == len(losses) - 1:
        notes.append("the loss is still falling at the last step: try a higher --to")
    elif steepest <= 2 * reach:
        notes.append("the loss falls most in the first steps: try a lower --from")
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
    """Returns values smoothed by a Gaussian over the steps.

    At both ends, the weights of the remaining values are normalised to a sum of 1.

    Args:
        values: array of shape (N,), one value for each of N steps.
        deviation: standard deviation of the Gaussian, in steps.
    """
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / deviation) ** 2)
    return (weights @ values) / weights.sum(axis=1)


def write_range_test(result: LearningRates, about: dict[str, Any]) -> list[Path]:
    """Writes `lr.json` and `lr.png` to the result's folder, and returns the paths of both files.

    Existing files are replaced.

    Args:
        result: result of the range test.
        about: dict of further entries of `lr.json`.
    """
    make_subfolder(result.folder.parents[1], *result.folder.parts[-2:])
    file = result.folder / "lr.json"
    write_json(
        file,
        {
            **about,
            "suggestion": result.suggestion,
            "steepest": result.steepest,
            "tenth_of_minimum": result.tenth_of_minimum,
            "notes": result.notes,
            "stated": result.base,
            "rates": result.rates,
            "losses": result.losses,
            "smoothed": result.smoothed,
        },
        RANGE_TEST,
    )
    return [file, save_figure(_figure(result), result.folder / "lr.png", RANGE_TEST)]


def _figure(result: LearningRates) -> Any:
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, ".", color="#9aa5b1", markersize=4, label="loss")
    axes.plot(result.rates, result.smoothed, color=COLOURS[0], linewidth=1.7, label="smoothed")
    marked = {"steepest descent": result.steepest, "minimum / 10": result.tenth_of_minimum}
    for (name, rate), colour in zip(marked.items(), COLOURS[1:], strict=False):
        if rate is not None:
            label = f"{name}: {rate:.2g}"
            axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=label)
    losses, smoothed = np.array(result.losses), np.array(result.smoothed)
    before = losses[: int(smoothed.argmin()) + 1]  # without the steps that diverge
    set_value_range(axes, [before, losses, smoothed])
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8.5)
    return figure
