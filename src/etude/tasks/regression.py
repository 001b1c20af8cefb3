"""Sequences of numbers that a rule makes: a model says a number wherever one is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from etude.data.objective import Objective
from etude.generation.decoding import evaluating
from etude.models.regressor import Regressor
from etude.tasks.algorithmic import PARTS
from etude.tasks.base import MicroBatch, Setup, Task


class NumbersObjective(Objective):
    """Takes the examples as the rule makes them."""

    reads = "made"
    such_as = "data=icl_regression"
    fields = ("numbers", "values")


class Regression(Task):
    """The mean squared error over all places where a number is asked.

    `loss` is that, and `error/k` the same where k numbers have been asked before in the sequence,
    divided by how many numbers stand at a place, d: with inputs and weights of variance 1 it is 1
    for whoever always says 0 (Garg et al. 2022, arXiv:2208.01066, figure 2). With
    `data.validate_training` the same of examples that are trained on, as `seen/loss`, ...

    Args:
        setup: what the run gives.
        monitor: the metric that decides which checkpoint is best.
    """

    metric_names = ("val/loss", "seen/loss")
    needs_causal_model = True
    models = (Regressor,)
    _parts: Tensor

    def __init__(self, setup: Setup, *, monitor: str = "val/loss") -> None:
        super().__init__(setup)
        self.watch(monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> Objective:
        return NumbersObjective()

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        model: Any = self.model
        numbers, values = torch.randn(batch, length, model.inputs), torch.randn(batch, length)
        return {"numbers": numbers, "values": values, "step_targets": values.numel()}

    def loss(self, micro: MicroBatch) -> Tensor:
        return squared_errors(self.model(micro["numbers"]), micro["values"]).sum()

    def on_validation_epoch_start(self) -> None:
        model: Any = self.model
        self._parts = torch.zeros(len(PARTS), 2, model.max_length, dtype=torch.float64)

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if self.is_mine(batch_idx):
            sums = sums_of(self.model(batch["numbers"]), batch["values"])
            self._parts[batch["section"], :, : sums.shape[-1]] += sums

    def on_validation_epoch_end(self) -> None:
        model: Any = self.model
        sums = torch.tensor(self.totals(*self._parts.flatten().tolist()), dtype=torch.float64)
        found: dict[str, float] = {}
        for part, mine in zip(PARTS, sums.view_as(self._parts), strict=True):
            if mine[1].any():
                told = metrics_of(mine, model.inputs)
                found |= {f"{part}/{name}": value for name, value in told.items()}
        self.validation_metrics = found
        self.log_dict(found)


def squared_errors(said: Tensor, values: Tensor) -> Tensor:
    """Of each place, (B, T); 0 where nothing is asked, which `values` say by not being a number."""
    return (said - values).masked_fill(values.isnan(), 0.0).square()


def sums_of(said: Tensor, values: Tensor) -> Tensor:
    """Squared errors and numbers asked, by how many were asked before, (2, T) float64."""
    there = ~values.isnan()
    squared = squared_errors(said.double(), values.double())[there]
    before = (there.cumsum(1) - 1)[there]
    sums = torch.zeros(2, values.shape[1], dtype=torch.float64, device=values.device)
    sums[0].index_add_(0, before, squared)
    sums[1].index_add_(0, before, torch.ones_like(squared))
    return sums.cpu()


def metrics_of(sums: Tensor, inputs: int) -> dict[str, float]:
    """What such sums mean, with so many numbers at a place."""
    squared, asked = sums.tolist()
    found = {"loss": sum(squared) / sum(asked)}
    for number, (error, count) in enumerate(zip(squared, asked, strict=True)):
        if count:
            found[f"error/{number}"] = error / count / inputs
    return found


@torch.inference_mode()
def score_numbers(model: nn.Module, batches: Iterable[MicroBatch]) -> dict[str, float]:
    """`loss` and `error/k` of a model over batches, outside any training."""
    regressor: Any = model
    sums = torch.zeros(2, regressor.max_length, dtype=torch.float64)
    with evaluating(model):
        for batch in batches:
            more = sums_of(model(batch["numbers"]), batch["values"])
            sums[:, : more.shape[-1]] += more
    return metrics_of(sums, regressor.inputs)
