"""Text regression: one or several numbers per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import Arrays, ExampleObjective, Numbers
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task, shortened
from etude.tasks.classification import class_logits
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.numbers import number_metrics
from etude.tasks.options import EvaluationOptions


class ValuesObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for examples with tokens and numbers."""

    fields: ClassVar[tuple[str, ...]] = ("tokens", "values")

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        types = {"types": fields["types"]} if "types" in fields else {}
        return {"tokens": fields["tokens"], "labels": fields["values"], **types}


class ValueMetrics(RowMetrics):
    """Metrics of predicted numbers: `loss`, the mean squared error over all numbers, and those of
    `etude.tasks.numbers.number_metrics`.

    Args:
        names: names of the numbers of a row.
        row_of: for each example, the index of the row that contains its text.
    """

    def __init__(self, names: Sequence[str], row_of: NDArray[np.int64]) -> None:
        self.names, self.row_of = list(names), row_of
        self._squared, self._count = Sum(), Sum()
        self._rows: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}  # actual and predicted

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        actual, predicted = batch["labels"].cpu().double(), outputs.cpu().double()
        self._squared.add((predicted - actual).square())
        self._count.add(actual.numel())
        pairs = zip(actual.numpy(), predicted.numpy(), strict=True)
        rows = self.row_of[batch["index"].cpu().numpy()].tolist()
        self._rows |= dict(zip(rows, pairs, strict=True))

    def merge(self, other: ValueMetrics) -> None:
        self._squared.merge(other._squared)
        self._count.merge(other._count)
        self._rows |= other._rows

    def compute(self) -> dict[str, float]:
        return {"loss": ratio(self._squared, self._count), **self.of()}

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        pairs = [pair for row, pair in self.rows() if rows is None or row in rows]
        actual, predicted = (np.stack(side) for side in zip(*pairs, strict=True))
        return number_metrics(actual, predicted, self.names)

    def rows(self) -> list[tuple[int, tuple[NDArray[Any], NDArray[Any]]]]:
        """Returns for each row its index, and the pair of its actual and its predicted numbers,
        arrays of shape (k,) for k numbers. The rows are in the order of their indices.
        """
        return sorted(self._rows.items(), key=lambda item: item[0])

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "label": _as_json(actual),
                "prediction": _as_json(predicted),
                "error": float(np.abs(predicted - actual).mean()),
                "score": -float(np.square(predicted - actual).mean()),
            }
            for row, (actual, predicted) in self.rows()
        ]


class TextRegression(Task):
    """Prediction of numbers for a text; the loss is the mean squared error over a step's numbers.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        monitor: the metric that selects the best checkpoint.
    """

    metrics_class: ClassVar[type[ValueMetrics]] = ValueMetrics
    metric_names = ("val/loss", "val/error", "val/pearson", "val/spearman")
    loss_unit = "squared error per number"
    scores_are = "negative squared errors, higher is better"
    models = (Encoder,)
    transformers_fields: ClassVar[Mapping[str, Any]] = {"problem_type": "regression"}
    head = "classes"

    def __init__(self, setup: Setup, *, monitor: str = "val/loss") -> None:
        super().__init__(setup)
        self.watch(monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> ValuesObjective:
        return ValuesObjective()

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randn(batch, labels),
            "step_targets": batch * labels,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        return class_logits(self.model, micro)

    def loss(self, micro: MicroBatch) -> Tensor:
        predicted = self.outputs(micro)
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        return (predicted - micro["labels"]).square().sum()

    def metrics(self, evaluated: Evaluated) -> ValueMetrics:
        return self.metrics_class(self.labels, evaluated.row_of)

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for row, (_, predicted) in measured.rows():
            named = dict(zip(self.labels, predicted.tolist(), strict=True))
            yield {"text": evaluated.text(row), "scores": named}

    def line(self, prediction: Mapping[str, Any]) -> str:
        numbers = "\t".join(f"{number:.3f}" for number in prediction["scores"].values())
        return f"{numbers}\t{shortened(prediction['text'])}"


def _as_json(numbers: NDArray[Any]) -> float | list[float]:
    """Returns several numbers as a list, and a single number as a float."""
    values: list[float] = numbers.tolist()
    return values[0] if len(values) == 1 else values
