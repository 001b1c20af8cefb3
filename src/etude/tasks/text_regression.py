"""One number, or several, for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etude.data.evaluated import Evaluated
from etude.data.objective import Arrays, ExampleObjective, Numbers
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task, shortened
from etude.tasks.classification import class_logits
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.numbers import number_metrics
from etude.tasks.options import EvaluationOptions


class ValuesObjective(ExampleObjective):
    """Tokens and numbers."""

    fields: ClassVar[tuple[str, ...]] = ("tokens", "values")

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        types = {"types": fields["types"]} if "types" in fields else {}
        return {"tokens": fields["tokens"], "labels": fields["values"], **types}


class ValueMetrics(RowMetrics):
    """`loss`, the mean squared error over all numbers, and `etude.tasks.numbers.number_metrics`.

    Args:
        names: of the numbers of a row.
        row_of: the row that each example is from.
    """

    def __init__(self, names: Sequence[str], row_of: NDArray[np.int64]) -> None:
        self.names, self.row_of = list(names), row_of
        self._squared, self._count = Sum(), Sum()
        self._rows: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}  # actual and predicted

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        actual, found = batch["labels"].cpu().double(), outputs.cpu().double()
        self._squared.add((found - actual).square())
        self._count.add(actual.numel())
        pairs = zip(actual.numpy(), found.numpy(), strict=True)
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
        actual, found = (np.stack(side) for side in zip(*pairs, strict=True))
        return number_metrics(actual, found, self.names)

    def rows(self) -> list[tuple[int, tuple[NDArray[Any], NDArray[Any]]]]:
        """By their numbers, in order: the actual numbers and those that the model says, (k,)."""
        return sorted(self._rows.items(), key=lambda item: item[0])

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "label": _shown(actual),
                "prediction": _shown(found),
                "error": float(np.abs(found - actual).mean()),
                "score": -float(np.square(found - actual).mean()),
            }
            for row, (actual, found) in self.rows()
        ]


class TextRegression(Task):
    """Numbers for each text; the loss is the mean squared error over the numbers of a step.

    Args:
        setup: what the run gives.
        monitor: the metric that decides which checkpoint is best.
    """

    metrics_class: ClassVar[type[ValueMetrics]] = ValueMetrics
    metric_names = ("val/loss", "val/error", "val/pearson", "val/spearman")
    loss_unit = "squared error per number"
    scores_are = "negative squared errors, more is better"
    models = (Encoder,)
    transformers_fields: ClassVar[Mapping[str, Any]] = {"problem_type": "regression"}
    head = "classes"

    def __init__(self, setup: Setup, *, monitor: str = "val/loss") -> None:
        super().__init__(setup)
        self.watch(monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> ValuesObjective:
        return ValuesObjective()

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randn(batch, labels),
            "step_targets": batch * labels,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        return class_logits(self.model, micro)

    def loss(self, micro: MicroBatch) -> Tensor:
        found = self.outputs(micro)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return (found - micro["labels"]).square().sum()

    def metrics(self, evaluated: Evaluated) -> ValueMetrics:
        return self.metrics_class(self.labels, evaluated.row_of)

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for row, (_, found) in measured.rows():
            named = dict(zip(self.labels, found.tolist(), strict=True))
            yield {"text": evaluated.text(row), "scores": named}

    def line(self, found: Mapping[str, Any]) -> str:
        numbers = "\t".join(f"{number:.3f}" for number in found["scores"].values())
        return f"{numbers}\t{shortened(found['text'])}"


def _shown(numbers: NDArray[Any]) -> float | list[float]:
    """A single number as one."""
    found: list[float] = numbers.tolist()
    return found[0] if len(found) == 1 else found
