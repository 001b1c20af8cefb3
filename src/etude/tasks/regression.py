"""Task of regression on generated sequences of numbers: the model predicts a number at each query
(a position that has a target).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import Objective
from etude.errors import Problem
from etude.models.regressor import Regressor
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.metrics import Metrics, Sum


class NumbersObjective(Objective):
    """Objective for synthetic sequences of numbers.

    An objective converts examples to the inputs and targets of a model. Here the data already
    contain both, and this objective returns them unchanged.
    """

    reads = "made"
    such_as = "data=icl_regression"
    fields = ("numbers", "values")


class Regression(Task):
    """Prediction of a number at each query (a position that has a target). The loss is the mean
    squared error over all queries.

    `error/k` is the mean squared error of the queries after k earlier queries of the sequence,
    divided by the input dimension d: with inputs and weights of variance 1, `error/k` is 1 for a
    model that always predicts 0 (Garg et al. 2022, arXiv:2208.01066, figure 2). With
    `data.validate_training=true`, the same metrics of training examples are computed, too, as
    `seen/loss`, ...

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        monitor: the metric that selects the best checkpoint.
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
        dimensions = data.dimensions
        inputs = getattr(model, "inputs", dimensions)  # custom models may not have it
        if dimensions != inputs:
            expected = f"{dimensions}, as the data has {dimensions} numbers per position"
            hint = f"set model.inputs={dimensions}"
            yield Problem("model.inputs", expected, inputs, hint)

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        model: Any = self.model
        numbers, values = torch.randn(batch, length, model.inputs), torch.randn(batch, length)
        return {"numbers": numbers, "values": values, "step_targets": values.numel()}

    def outputs(self, micro: MicroBatch) -> Tensor:
        predictions: Tensor = self.model(micro["numbers"])
        return predictions

    def loss(self, micro: MicroBatch) -> Tensor:
        return squared_errors(self.outputs(micro), micro["values"]).sum()

    def metrics(self, evaluated: Evaluated) -> NumberMetrics:
        model: Any = self.model
        return NumberMetrics(model.inputs)


def squared_errors(predictions: Tensor, values: Tensor) -> Tensor:
    """Returns the squared error at each position, (B, T); 0 where `values` is NaN (no query)."""
    return (predictions - values).masked_fill(values.isnan(), 0.0).square()


class NumberMetrics(Metrics):
    """Metrics of predicted numbers: `loss`, the mean squared error, and `error/k`, the mean squared
    error of the queries after k earlier queries, divided by the input dimension. A query is a
    position that has a target.

    Args:
        inputs: input dimension, the number of numbers per position.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self._squared: list[Sum] = []
        self._counts: list[int] = []

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        values, outputs = batch["values"].cpu(), outputs.cpu()  # not every device has float64
        is_query = ~values.isnan()
        squared = squared_errors(outputs.double(), values.double())[is_query]
        before = (is_query.cumsum(1) - 1)[is_query]
        sums = torch.zeros(values.shape[1], dtype=torch.float64)
        sums.index_add_(0, before, squared)
        counts = torch.bincount(before, minlength=values.shape[1])
        self._add([_new_sum(value) for value in sums.tolist()], counts.tolist())

    def merge(self, other: NumberMetrics) -> None:
        self._add(other._squared, other._counts)

    def _add(self, squared: Sequence[Sum], counts: Sequence[int]) -> None:
        more = len(counts) - len(self._counts)
        self._squared += [Sum() for _ in range(more)]
        self._counts += [0] * more
        for index, (each, count) in enumerate(zip(squared, counts, strict=True)):
            self._squared[index].merge(each)
            self._counts[index] += count

    def compute(self) -> dict[str, float]:
        squared = [each.value for each in self._squared]
        queries = sum(self._counts)
        metrics = {"loss": math.fsum(squared) / queries if queries else math.nan}
        for number, (error, count) in enumerate(zip(squared, self._counts, strict=True)):
            if count:
                metrics[f"error/{number}"] = error / count / self.inputs
        return metrics


def _new_sum(number: float) -> Sum:
    total = Sum()
    total.add(number)
    return total
