"""Token regression: one number per word of a sentence."""

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
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.classification import class_logits
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.numbers import number_metrics
from etude.tasks.options import EvaluationOptions

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Actual and predicted numbers of the words of a row that have a number."""


class WordValuesObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for examples with tokens, and a number at
    the first token of each word.
    """

    fields: ClassVar[tuple[str, ...]] = ("tokens", "values")

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        return {"tokens": fields["tokens"], "labels": fields["values"]}


class WordValueMetrics(RowMetrics):
    """Metrics of predicted numbers: `loss`, the mean squared error over words, and those of
    `etude.tasks.numbers.number_metrics`.

    Args:
        row_of: for each example, the index of the row of the data that contains its words. A long
            row can be split into several examples; their words are joined again.
    """

    def __init__(self, row_of: NDArray[np.int64]) -> None:
        self.row_of = row_of
        self._squared, self._count = Sum(), Sum()
        self._pieces: dict[int, Pair] = {}

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        labels, outputs = batch["labels"].cpu().double(), outputs.cpu().double()
        has_value = ~labels.isnan()
        self._squared.add((outputs - labels)[has_value].square())
        self._count.add(has_value.sum())
        for index, actual, predicted, words in zip(
            batch["index"].tolist(), labels, outputs, has_value, strict=True
        ):
            self._pieces[index] = (actual[words].numpy(), predicted[words].numpy())

    def merge(self, other: WordValueMetrics) -> None:
        self._squared.merge(other._squared)
        self._count.merge(other._count)
        self._pieces |= other._pieces

    def compute(self) -> dict[str, float]:
        return {"loss": ratio(self._squared, self._count), **self.of()}

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        empty = (np.zeros(0), np.zeros(0))
        pairs = [pair for row, pair in self.rows().items() if rows is None or row in rows]
        actual, predicted = (np.concatenate(s)[:, None] for s in zip(empty, *pairs, strict=True))
        return number_metrics(actual, predicted, ["value"])

    def rows(self) -> dict[int, Pair]:
        """Returns a dict from each row's index to two arrays: the actual and the predicted numbers
        of its words, in the order of the words.

        Words that have no actual number are omitted.
        """
        pieces: dict[int, list[Pair]] = {}
        for index, pair in sorted(self._pieces.items(), key=lambda item: item[0]):
            pieces.setdefault(int(self.row_of[index]), []).append(pair)
        return {
            row: (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))
            for row, pairs in pieces.items()
        }

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "label": actual.tolist(),
                "prediction": predicted.tolist(),
                "score": -float(np.square(predicted - actual).mean()),
            }
            for row, (actual, predicted) in self.rows().items()
            if len(actual)
        ]


class TokenRegression(Task):
    """Prediction of one number per word, at the word's first token; the loss is the mean squared
    error over the words that have a number.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        monitor: the metric that selects the best checkpoint.
    """

    metrics_class: ClassVar[type[WordValueMetrics]] = WordValueMetrics
    metric_names = ("val/loss", "val/error", "val/pearson", "val/spearman")
    loss_unit = "squared error per word"
    scores_are = "negative squared errors, higher is better"
    models = (Encoder,)
    transformers_fields: ClassVar[Mapping[str, Any]] = {"problem_type": "regression"}
    head = "tags"

    def __init__(self, setup: Setup, *, monitor: str = "val/loss") -> None:
        super().__init__(setup)
        self.watch(monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> WordValuesObjective:
        return WordValuesObjective()

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randn(batch, length),
            "step_targets": batch * length,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        """Returns the predicted number at each position, with shape (B, T)."""
        return class_logits(self.model, micro)[..., 0]

    def loss(self, micro: MicroBatch) -> Tensor:
        predicted, labels = self.outputs(micro), micro["labels"]
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        return (predicted - labels)[~labels.isnan()].square().sum()

    def metrics(self, evaluated: Evaluated) -> WordValueMetrics:
        return self.metrics_class(evaluated.row_of)

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for row, (_, predicted) in measured.rows().items():
            words: Sequence[str] = evaluated.rows[row].values["words"]
            yield {"text": " ".join(words), "words": words, "values": predicted.tolist()}

    def line(self, prediction: Mapping[str, Any]) -> str:
        pairs = zip(prediction["words"], prediction["values"], strict=False)
        return " ".join(f"{word}/{value:.3f}" for word, value in pairs)
