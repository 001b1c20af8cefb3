"""Text classification: one label per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from etude.data.evaluation_data import Evaluated
from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks, Problem, RequestError, nearest
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task, packing, shortened
from etude.tasks.counts import calibration_error, classification_metrics, confusion
from etude.tasks.losses import cross_entropy, each_cross_entropy
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.options import EvaluationOptions


@dataclass(frozen=True)
class LabelObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for examples with tokens and one label.

    Args:
        balanced: whether all classes have the same total weight, whatever their frequency.
        positive: name of the positive class; None without a positive class.
        weights: weight of each class; set once the data is known. None gives all examples the
            weight 1, for example if `balanced` is false.
    """

    balanced: bool = False
    positive: str | None = None
    weights: tuple[float, ...] | None = None

    fields: ClassVar[tuple[str, ...]] = ("tokens", "label")
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> LabelObjective:
        if len(meta.labels) < 2:
            names = ", ".join(meta.labels)
            raise RequestError(
                Problem("data.label", "a column with at least two labels", names or "none")
            )
        if self.positive is not None and self.positive not in meta.labels:
            hint = "; ".join(
                each
                for each in (
                    nearest(self.positive, meta.labels),
                    "to average over all labels, set task.positive=null",
                )
                if each
            )
            problem = Problem("task.positive", "one of the data's labels", self.positive, hint)
            raise RequestError(problem)
        if not self.balanced:
            return self
        counts = meta.splits["train"].labels
        present = [count for count in counts if count]
        mean = sum(present) / len(present)
        return replace(self, weights=tuple(mean / count if count else 1.0 for count in counts))

    def bound_to_rows(self, tokenizer: Any, sequence_length: int) -> LabelObjective:
        return replace(self, weights=None)

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        arrays: Any = {"tokens": fields["tokens"], "labels": fields["label"]}
        if "types" in fields:
            arrays["types"] = fields["types"]
        if self.weights is not None:
            arrays["weights"] = np.asarray(self.weights[int(fields["label"])])
        return arrays

    def targets(self, arrays: Arrays) -> float:
        if arrays["labels"] == IGNORE:
            return 0.0
        return float(arrays["weights"]) if "weights" in arrays else 1.0


def class_logits(model: nn.Module, micro: MicroBatch) -> Tensor:
    """Returns the logits of an encoder for a micro-batch of B sequences of T tokens.

    Their shape is (B, classes), or (B, T, tags) if the model's head has an output for each token.
    If several examples are packed into a sequence, it is (N, classes) for N examples.
    """
    options = {"keep": micro.get("keep"), "token_types": micro.get("types"), **packing(micro)}
    logits: Tensor = model(micro["tokens"], **options)
    return logits


BINS = 10
"""Number of bins of the calibration error."""


class LabelMetrics(RowMetrics):
    """Metrics of text classification: `loss`, the weighted mean cross-entropy over the examples;
    those of `etude.tasks.counts.classification_metrics` and `calibration_error`, over the rows of
    the data.

    If a row was split into several examples, its class probabilities are the means over these.

    Args:
        labels: names of the classes.
        positive: index of the positive class; None without a positive class.
        row_of: for each example, the index of the row that contains its text.
    """

    def __init__(
        self, labels: Sequence[str], positive: int | None, row_of: NDArray[np.int64]
    ) -> None:
        self.labels, self.positive, self.row_of = list(labels), positive, row_of
        self._nats, self._weight = Sum(), Sum()
        self._index: list[NDArray[np.int64]] = []
        self._actual: list[NDArray[np.int64]] = []
        self._chances: list[NDArray[np.float64]] = []

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        outputs, labels = outputs.cpu(), batch["labels"].cpu()  # not every device has float64
        weights = batch["weights"].cpu() if "weights" in batch else None
        self._nats.add(each_cross_entropy(outputs, labels, weights))
        self._weight.add(len(labels) if weights is None else weights)
        self._index.append(batch["index"].cpu().numpy())
        self._actual.append(labels.numpy())
        self._chances.append(outputs.double().softmax(-1).numpy())
        self.changed()

    def merge(self, other: LabelMetrics) -> None:
        self._nats.merge(other._nats)
        self._weight.merge(other._weight)
        self._index += other._index
        self._actual += other._actual
        self._chances += other._chances
        self.changed()

    def compute(self) -> dict[str, float]:
        error, _ = self._calibration()
        return {
            "loss": ratio(self._nats, self._weight), **self.of(), "calibration_error": error,
        }  # fmt: skip

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        return classification_metrics(self._counts(rows), self.positive)

    def probabilities(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yields the index and the class probabilities (classes,) of each row."""
        numbers, _, chances = self._rows
        yield from zip(numbers.tolist(), chances, strict=True)

    def predictions(self) -> list[dict[str, Any]]:
        predictions = []
        for number, actual, chances in zip(*self._rows, strict=True):
            label, best = self.labels[actual], self.labels[int(chances.argmax())]
            predictions.append(
                {
                    "row": int(number),
                    "label": label,
                    "prediction": best,
                    "right": label == best,
                    "score": float(label == best),
                    "probabilities": [round(float(p), 6) for p in chances],
                }
            )
        return predictions

    def details(self) -> dict[str, Any]:
        _, bins = self._calibration()
        return {"counts": self._counts(), "labels": self.labels, "calibration": bins}

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Three arrays with one entry for each row: its index, its actual label and its class
        probabilities. The rows are in ascending order of their indices.
        """
        index, actual = np.concatenate(self._index), np.concatenate(self._actual)
        chances = np.concatenate(self._chances)
        order = np.argsort(index, kind="stable")
        numbers = self.row_of[index[order]]
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        pieces = np.diff(first, append=len(numbers))
        means = np.add.reduceat(chances[order], first) / pieces[:, None]
        return numbers[first], actual[order][first], means

    def outcomes(
        self, rows: Container[int] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns two arrays with the actual and the most probable label of each row, as indices of
        labels, in ascending order of the rows.

        Args:
            rows: indices of the selected rows; None selects all.
        """
        numbers, actual, chances = self._rows
        predicted = chances.argmax(-1)
        if rows is not None:
            inside = np.array([number in rows for number in numbers.tolist()], dtype=bool)
            actual, predicted = actual[inside], predicted[inside]
        return actual, predicted

    def _counts(self, rows: Container[int] | None = None) -> NDArray[np.int64]:
        return confusion(*self.outcomes(rows), len(self.labels))

    def _calibration(self) -> tuple[float, list[tuple[float, float, int]]]:
        _, actual, chances = self._rows
        return calibration_error(chances.max(-1), chances.argmax(-1) == actual, BINS)


POSITIVE_METRICS = ("val/precision", "val/recall", "val/f1")
"""Metrics of the positive class."""


class Classification(Task):
    """Task of text classification. The loss is the mean cross-entropy over the examples of a step.

    With `class_weights=balanced`, the cross-entropy of each training example is multiplied by
    n / (k n_c), where n is the number of training examples, n_c the number of those with the
    example's label, and k the number of labels that occur. Weights and label smoothing do not
    apply in validation.

    Args:
        class_weights: `none` or `balanced`.
        label_smoothing: see `etude.tasks.losses.cross_entropy`.
        positive: name of the positive class; adds its precision, recall and F1.
        monitor: the metric that selects the best checkpoint.
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
    """

    metrics_class: ClassVar[type[LabelMetrics]] = LabelMetrics
    metric_names = (
        "val/loss", "val/accuracy", "val/f1_macro", "val/precision_macro", "val/recall_macro",
        "val/mcc", *POSITIVE_METRICS, "val/calibration_error",
    )  # fmt: skip
    loss_unit = "nats per text"
    models = (Encoder,)
    head = "classes"

    def __init__(
        self,
        setup: Setup,
        *,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        positive: str | None = None,
        monitor: str = "val/loss",
    ) -> None:
        checks = Checks()
        checks.probability(label_smoothing=label_smoothing)
        is_available = positive is not None or monitor not in POSITIVE_METRICS
        hint = f"set task.positive to a class, or use {monitor}_macro, the mean over all classes"
        expected = "a metric of all classes, since task.positive is null"
        checks.that(is_available, "monitor", monitor, expected, hint)
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.label_smoothing = label_smoothing
        self.positive = positive

    @classmethod
    def objective(cls, **arguments: Any) -> LabelObjective:
        balanced = arguments.get("class_weights") == "balanced"
        return LabelObjective(balanced=balanced, positive=arguments.get("positive"))

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randint(labels, (batch,)),
            "step_targets": batch,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        return class_logits(self.model, micro)

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            self.outputs(micro),
            micro["labels"],
            label_smoothing=self.label_smoothing,
            weights=micro.get("weights"),
        )

    def metrics(self, evaluated: Evaluated) -> LabelMetrics:
        is_known = self.positive in self.labels
        positive = self.labels.index(str(self.positive)) if is_known else None
        return self.metrics_class(self.labels, positive, evaluated.row_of)

    def line(self, prediction: Mapping[str, Any]) -> str:
        label, probability = prediction["label"], prediction["probability"]
        return f"{label}\t{probability:.3f}\t{shortened(prediction['text'])}"

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for number, chances in measured.probabilities():
            best = int(chances.argmax())
            yield {
                "text": evaluated.text(number),
                "label": self.labels[best],
                "probability": float(chances[best]),
                "probabilities": dict(zip(self.labels, map(float, chances), strict=True)),
            }
