"""Sequences of numbers that a rule makes: a model says a number wherever one is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.data.evaluated import Evaluated
from etude.data.objective import Objective
from etude.errors import Problem
from etude.models.regressor import Regressor
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.metrics import Metrics, Sum


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
    loss_unit = "squared error per number"
    needs_causal_model = True
    models = (Regressor,)

    def __init__(self, setup: Setup, *, monitor: str = "val/loss") -> None:
        super().__init__(setup)
        self.watch(monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> Objective:
        return NumbersObjective()

    @classmethod
    def misfits(cls, model: Any, data: Any) -> Iterator[Problem]:
        given = data.dimensions
        inputs = getattr(model, "inputs", given)  # a user's own may not say it
        if given != inputs:
            yield Problem("model.inputs", f"the {given} numbers at each place of the data", inputs)

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        model: Any = self.model
        numbers, values = torch.randn(batch, length, model.inputs), torch.randn(batch, length)
        return {"numbers": numbers, "values": values, "step_targets": values.numel()}

    def outputs(self, micro: MicroBatch) -> Tensor:
        said: Tensor = self.model(micro["numbers"])
        return said

    def loss(self, micro: MicroBatch) -> Tensor:
        return squared_errors(self.outputs(micro), micro["values"]).sum()

    def metrics(self, evaluated: Evaluated) -> NumberMetrics:
        model: Any = self.model
        return NumberMetrics(model.inputs)


def squared_errors(said: Tensor, values: Tensor) -> Tensor:
    """Of each place, (B, T); 0 where nothing is asked, which `values` say by not being a number."""
    return (said - values).masked_fill(values.isnan(), 0.0).square()


class NumberMetrics(Metrics):
    """`loss`, the mean squared error, and `error/k` of the numbers before which k were asked,
    divided by how many numbers stand at a place.

    Args:
        inputs: numbers at a place.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self._squared: list[Sum] = []
        self._asked: list[int] = []

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        values, outputs = batch["values"].cpu(), outputs.cpu()  # not every device has doubles
        there = ~values.isnan()
        squared = squared_errors(outputs.double(), values.double())[there]
        before = (there.cumsum(1) - 1)[there]
        sums = torch.zeros(values.shape[1], dtype=torch.float64)
        sums.index_add_(0, before, squared)
        counts = torch.bincount(before, minlength=values.shape[1])
        self._add([_sum_of(one) for one in sums.tolist()], counts.tolist())

    def merge(self, other: NumberMetrics) -> None:
        self._add(other._squared, other._asked)

    def _add(self, squared: Sequence[Sum], asked: Sequence[int]) -> None:
        more = len(asked) - len(self._asked)
        self._squared += [Sum() for _ in range(more)]
        self._asked += [0] * more
        for place, (each, count) in enumerate(zip(squared, asked, strict=True)):
            self._squared[place].merge(each)
            self._asked[place] += count

    def compute(self) -> dict[str, float]:
        squared = [each.value for each in self._squared]
        asked = sum(self._asked)
        found = {"loss": math.fsum(squared) / asked if asked else math.nan}
        for number, (error, count) in enumerate(zip(squared, self._asked, strict=True)):
            if count:
                found[f"error/{number}"] = error / count / self.inputs
        return found


def _sum_of(number: float) -> Sum:
    found = Sum()
    found.add(number)
    return found
