"""What becomes of the loss on sequences longer than those of the training (Press et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from etude.analysis.curves import COLOURS, dress, new_figure
from etude.api import Run
from etude.errors import Checks
from etude.generation.decoding import evaluating
from etude.papers.claims import Reading

log = logging.getLogger("etude")

Floats = NDArray[np.float64]


class Lengths:
    """Scores runs on windows of several lengths over the same text, that of validation.

    Readings: `gap/<run>`, the loss at the longest length minus that at the length of the training,
    nats a token.

    Args:
        times: the lengths, in lengths of the training, 1 among them.
        controls: which run is the negative control of which; a reading each.
    """

    def __init__(self, *, times: list[int], controls: dict[str, str]) -> None:
        checks = Checks()
        sound = 1 in times and min(times) > 0 and len(set(times)) > 1
        checks.that(sound, "times", times, "positive numbers, 1 and others")
        checks.done()
        self.times = sorted(set(times))
        self.controls = dict(controls)

    @property
    def arms(self) -> set[str]:
        """The runs that it reads."""
        return {*self.controls, *self.controls.values()}

    @property
    def cells(self) -> set[str]:
        """The keys of its readings."""
        return {f"gap/{arm}" for arm in self.controls}

    def read(self, runs: Mapping[str, Sequence[Run]], figures: Path) -> dict[str, Reading]:
        """The readings, and the figure `lengths.png`."""
        found: dict[str, list[list[Floats]]] = {}
        for arm, several in runs.items():
            for number, run in enumerate(several, 1):
                log.info("%s, run %d of %d: windows of each length", arm, number, len(several))
                losses = [by_position(run, times) for times in self.times]
                found.setdefault(arm, []).append(losses)
        gaps = {
            arm: [float(losses[-1].mean() - losses[self.times.index(1)].mean()) for losses in each]
            for arm, each in found.items()
        }
        if found:
            plot(found, self.times, figures / "lengths.png")
        return {
            f"gap/{arm}": Reading(gaps[arm], gaps.get(control, []))
            for arm, control in self.controls.items()
            if arm in gaps
        }


@torch.inference_mode()
def by_position(run: Run, times: int) -> Floats:
    """Mean loss of each position, nats, over windows of `times` the length of the training."""
    data: Any = run.data()
    run.prepare(data)
    length = times * data.sequence_length
    model = run.model("last").module
    total, windows = torch.zeros(length, dtype=torch.float64), 0
    with evaluating(model):
        for batch in data.evaluation_batches("val", length):
            tokens, targets = batch["tokens"], batch["targets"]
            if tokens.shape[1] != length:  # the rest at the end of the text
                continue
            logits = model(tokens).flatten(0, 1)
            losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
            total += losses.view(targets.shape).sum(dim=0)
            windows += len(tokens)
    return (total / windows).numpy()


def plot(found: Mapping[str, list[list[Floats]]], times: Sequence[int], path: Path) -> None:
    """Left the loss over the length, as the paper's figure 1; right over the position."""
    figure = new_figure(9.6, 3.8)
    over_length, over_position = figure.subplots(1, 2)
    trained = len(next(iter(found.values()))[0][list(times).index(1)])
    lengths = [trained * factor for factor in times]
    for (arm, each), colour in zip(found.items(), COLOURS * 3, strict=False):
        losses = np.array([[row.mean() for row in rows] for rows in each])
        for row in losses:
            over_length.plot(lengths, row, color=colour, linewidth=0.7, alpha=0.45)
        over_length.plot(lengths, losses.mean(axis=0), "o-", color=colour, markersize=4, label=arm)
        longest = np.mean([rows[-1] for rows in each], axis=0)
        smooth = _smooth(longest, max(1, trained // 8))
        over_position.plot(np.arange(len(smooth)), smooth, color=colour, label=arm)
    over_length.set_xscale("log", base=2)
    over_length.set_xticks(lengths, labels=[str(length) for length in lengths])
    over_length.set_xlabel("length of the windows")
    over_position.axvline(trained, color="black", linestyle=":", linewidth=1)
    over_position.set_xlabel(f"position, in windows of {lengths[-1]}")
    for axes in (over_length, over_position):
        axes.set_ylabel("loss (nats a token)")
        dress(axes)
    over_length.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _smooth(values: Floats, width: int) -> Floats:
    """Means of so many neighbours."""
    return np.convolve(values, np.full(width, 1 / width), mode="valid")
