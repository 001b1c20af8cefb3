"""Loss on sequences longer than those of training (Press et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from etude.analysis.curves import COLOURS, new_figure, style_axes
from etude.api import Run
from etude.errors import Checks
from etude.generation.model_modes import evaluation_mode
from etude.papers.claims import Reading

log = logging.getLogger("etude")

Floats = NDArray[np.float64]


class Lengths:
    """Measurement of the loss of runs on the validation text, in windows of several lengths.

    Measured values: `gap/<arm>`, the loss at the longest length minus the loss at the training
    length, in nats per token. An arm is a named group of runs with different seeds.

    Args:
        times: lengths, as multiples of the training length; includes 1.
        controls: maps the name of each measured arm to the name of the arm that is its negative
            control, a case in which the claim must not hold.
    """

    def __init__(self, *, times: list[int], controls: dict[str, str]) -> None:
        checks = Checks()
        valid = 1 in times and min(times) > 0 and len(set(times)) > 1
        expected = "positive numbers, including 1 and at least one other number"
        checks.that(valid, "times", times, expected)
        checks.done()
        self.times = sorted(set(times))
        self.controls = dict(controls)

    @property
    def arms(self) -> set[str]:
        """Names of the arms (named groups of the paper's runs) that `read` needs."""
        return {*self.controls, *self.controls.values()}

    @property
    def cells(self) -> set[str]:
        """Keys of the measured values, such as `gap/<arm>`."""
        return {f"gap/{arm}" for arm in self.controls}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """Returns a dict from each key in `cells` to the measured values, and draws `lengths.png`.

        Args:
            runs: finished runs by the name of their arm.
            figures: existing folder for the figure.
        """
        losses_of: dict[str, list[list[Floats]]] = {}
        for arm, arm_runs in runs.items():
            for number, run in enumerate(arm_runs, 1):
                log.info("%s, run %d of %d: scoring at each length", arm, number, len(arm_runs))
                losses = [losses_by_position(run, times) for times in self.times]
                losses_of.setdefault(arm, []).append(losses)
        gaps = {
            arm: [float(losses[-1].mean() - losses[self.times.index(1)].mean()) for losses in each]
            for arm, each in losses_of.items()
        }
        if losses_of:
            plot(losses_of, self.times, figures / "lengths.png")
        return {
            f"gap/{arm}": Reading(gaps[arm], gaps.get(control, []))
            for arm, control in self.controls.items()
            if arm in gaps
        }


@torch.inference_mode()
def losses_by_position(run: Run, times: int) -> Floats:
    """Returns the mean loss of a model at each position of windows of the validation text.

    The result is an array in nats with one item for each position, averaged over the windows.

    Args:
        run: a finished run.
        times: length of the windows, as a multiple of the training length.
    """
    data: Any = run.data()
    run.prepare(data)
    length = times * data.sequence_length
    model = run.model("last").module
    total, windows = torch.zeros(length, dtype=torch.float64), 0
    with evaluation_mode(model):
        for batch in data.evaluation_batches("val", length):
            tokens, targets = batch["tokens"], batch["targets"]
            if tokens.shape[1] != length:  # the shorter window at the end of the text
                continue
            logits = model(tokens).flatten(0, 1)
            losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
            total += losses.view(targets.shape).sum(dim=0)
            windows += len(tokens)
    return (total / windows).numpy()


def plot(losses_of: Mapping[str, list[list[Floats]]], times: Sequence[int], path: Path) -> None:
    """Draws two panels: the loss over the window length (left), as in the paper's figure 1, and the
    loss over the position in the longest windows (right).

    Args:
        losses_of: dict from each arm (named group of runs) to its runs' losses: for each run, a
            list with one array for each length; the array contains the loss at each position.
        times: lengths, as multiples of the training length.
        path: path of the PNG file.
    """
    figure = new_figure(9.6, 3.8)
    over_length, over_position = figure.subplots(1, 2)
    trained = len(next(iter(losses_of.values()))[0][list(times).index(1)])
    lengths = [trained * factor for factor in times]
    for (arm, each), color in zip(losses_of.items(), COLOURS * 3, strict=False):
        losses = np.array([[row.mean() for row in rows] for rows in each])
        for row in losses:
            over_length.plot(lengths, row, color=color, linewidth=0.7, alpha=0.45)
        over_length.plot(lengths, losses.mean(axis=0), "o-", color=color, markersize=4, label=arm)
        longest = np.mean([rows[-1] for rows in each], axis=0)
        smooth = _smooth(longest, max(1, trained // 8))
        over_position.plot(np.arange(len(smooth)), smooth, color=color, label=arm)
    over_length.set_xscale("log", base=2)
    over_length.set_xticks(lengths, labels=[str(length) for length in lengths])
    over_length.set_xlabel("length of the windows")
    over_position.axvline(trained, color="black", linestyle=":", linewidth=1)
    over_position.set_xlabel(f"position in a window of {lengths[-1]} tokens")
    for axes in (over_length, over_position):
        axes.set_ylabel("loss (nats per token)")
        style_axes(axes)
    over_length.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _smooth(values: Floats, width: int) -> Floats:
    """Returns moving averages of `width` values."""
    return np.convolve(values, np.full(width, 1 / width), mode="valid")
