"""Tagging: one tag per word of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks, Problem, RequestError
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.classification import class_logits
from etude.tasks.counts import (
    are_spans,
    classification_metrics,
    confusion,
    span_metrics,
    span_scores,
    spans,
)
from etude.tasks.losses import cross_entropy, each_cross_entropy
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.options import EvaluationOptions

SPAN_METRICS = ("val/precision", "val/recall", "val/f1")
"""Metrics of whole spans."""


@dataclass(frozen=True)
class TagObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for examples with tokens, and a tag at the
    first token of each word.

    Args:
        monitor: the metric that selects the best checkpoint; span metrics need tags with span
            prefixes, such as `B-LOC`.
    """

    monitor: str = "val/loss"

    fields: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> TagObjective:
        if len(meta.labels) < 2:
            names = ", ".join(meta.labels)
            raise RequestError(
                Problem("data.tags", "a column with at least two tags", names or "none")
            )
        if self.monitor in SPAN_METRICS and not are_spans(meta.labels):
            expected = "a metric that needs no spans, such as val/accuracy or val/f1_macro"
            tags = ", ".join(meta.labels[:8])
            hint = f"span metrics need tags such as B-LOC, I-LOC, O; the data has the tags {tags}"
            raise RequestError(Problem("task.monitor", expected, self.monitor, hint))
        return self

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        return {"tokens": fields["tokens"], "labels": fields["tags"]}


Tags = NDArray[np.int64]


class TagMetrics(RowMetrics):
    """Tagging metrics over words, spans and sentences. If a row was split into several examples,
    their tags are joined first.

    Args:
        labels: names of the tags.
        row_of: for each example, the index of the row that contains its words.
        labels_of: function that returns the correct tags of all words of a row, given the index of
            the row. If None, the correct tags come from the row's examples; then the words that
            were cut off because the row was too long are not counted.
    """

    def __init__(
        self,
        labels: Sequence[str],
        row_of: NDArray[np.int64],
        labels_of: Callable[[int], list[str]] | None = None,
    ) -> None:
        self.labels, self.row_of, self.labels_of = list(labels), row_of, labels_of
        self._nats, self._weight = Sum(), Sum()
        self._pieces: dict[int, tuple[Tags, Tags]] = {}  # actual and predicted, by example

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        outputs, targets = outputs.cpu(), batch["labels"].cpu()  # not every device has float64
        self._nats.add(each_cross_entropy(outputs, targets).sum(-1))
        self._weight.add((targets != IGNORE).sum())
        labels, predicted = targets.numpy(), outputs.argmax(-1).numpy()
        for example, *tags in zip(batch["index"].tolist(), labels, predicted, strict=True):
            words = tags[0] != IGNORE
            self._pieces[example] = (tags[0][words], tags[1][words])
        self.changed()

    def merge(self, other: TagMetrics) -> None:
        self._nats.merge(other._nats)
        self._weight.merge(other._weight)
        self._pieces |= other._pieces
        self.changed()

    def compute(self) -> dict[str, float]:
        metrics = {"loss": ratio(self._nats, self._weight), **self.of()}
        if self.labels_of is not None:
            cut_off = sum(len(actual) - len(tags) for actual, tags in self.rows().values())
            metrics["words_cut_off"] = float(cut_off)
        return metrics

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        pairs = [tags for number, tags in self.rows().items() if rows is None or number in rows]
        if not pairs:
            return {}
        counted = classification_metrics(self._counts(pairs))
        metrics = {name: counted[name] for name in ("accuracy", "f1_macro")}
        metrics["sentence_accuracy"] = float(np.mean([np.array_equal(*pair) for pair in pairs]))
        if are_spans(self.labels):
            counts = [span_counts(*pair) for pair in self._named(pairs)]
            metrics |= span_metrics(*(sum(count[i] for count in counts) for i in range(3)))
        return metrics

    def rows(self) -> dict[int, tuple[Tags, Tags]]:
        """Returns a dict from each row's index to its actual and its predicted tags, as indices in
        the order of the words. If `labels_of` is set and words at the end of a row were cut off,
        these have no predicted tag: the second array is shorter.
        """
        return self._rows

    @cached_property
    def _rows(self) -> dict[int, tuple[Tags, Tags]]:
        pieces: dict[int, tuple[list[Tags], list[Tags]]] = {}
        for example, pair in sorted(self._pieces.items(), key=lambda item: item[0]):
            both = pieces.setdefault(int(self.row_of[example]), ([], []))
            for side, tags in zip(both, pair, strict=True):
                side.append(tags)
        joined = {n: (np.concatenate(a), np.concatenate(b)) for n, (a, b) in pieces.items()}
        if self.labels_of is None:
            return joined
        number = {name: index for index, name in enumerate(self.labels)}
        return {
            row: (np.array([number[name] for name in self.labels_of(row)]), tags)
            for row, (_, tags) in joined.items()
        }

    def predictions(self) -> list[dict[str, Any]]:
        rows = self.rows()
        return [
            {
                "row": number,
                "label": actual,
                "prediction": predicted,
                "right": actual == predicted,
                "score": sum(a == b for a, b in zip(actual, predicted, strict=False)) / len(actual),
            }
            for number, (actual, predicted) in zip(
                rows, self._named(rows.values(), cut=False), strict=True
            )
        ]

    def details(self) -> dict[str, Any]:
        pairs = list(self.rows().values())
        details: dict[str, Any] = {"counts": self._counts(pairs), "labels": self.labels}
        if are_spans(self.labels):
            details["spans"] = span_scores(self._named(pairs))
        return details

    def _counts(self, pairs: Iterable[tuple[Tags, Tags]]) -> NDArray[np.int64]:
        cut = [(actual[: len(predicted)], predicted) for actual, predicted in pairs]
        actual, predicted = (np.concatenate(side) for side in zip(*cut, strict=True))
        return confusion(actual, predicted, len(self.labels))

    def _named(
        self, pairs: Iterable[tuple[Tags, Tags]], *, cut: bool = True
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Yields two lists for each row: the names of its actual and of its predicted tags.

        Args:
            pairs: actual and predicted tags of each row, as indices.
            cut: whether to omit the actual tags of words without a prediction; otherwise, the first
                list can be longer than the second.
        """
        for actual, predicted in pairs:
            shown = actual[: len(predicted)] if cut else actual
            yield [self.labels[tag] for tag in shown], [self.labels[tag] for tag in predicted]


class Tagging(Task):
    """Prediction of one tag per word, at the word's first token; the loss is the mean cross-entropy
    over words.

    The validation metrics are `val/loss`, `val/accuracy` and `val/f1_macro` of words, and
    `val/sentence_accuracy`. If the tags have span prefixes (`B-LOC`, `I-LOC`, `O`), there are also
    `val/f1`, `val/precision` and `val/recall` of whole spans.

    Args:
        label_smoothing: see `etude.tasks.losses.cross_entropy`.
        monitor: the metric that selects the best checkpoint.
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
    """

    metrics_class: ClassVar[type[TagMetrics]] = TagMetrics
    metric_names = (
        "val/loss", "val/accuracy", "val/f1_macro", "val/sentence_accuracy", *SPAN_METRICS,
    )  # fmt: skip
    loss_unit = "nats per word"
    models = (Encoder,)
    head = "tags"

    def __init__(
        self, setup: Setup, *, label_smoothing: float = 0.0, monitor: str = "val/loss"
    ) -> None:
        checks = Checks()
        checks.probability(label_smoothing=label_smoothing)
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.label_smoothing = label_smoothing

    @classmethod
    def objective(cls, **arguments: Any) -> TagObjective:
        return TagObjective(str(arguments.get("monitor", "val/loss")))

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randint(labels, (batch, length)),
            "step_targets": batch * length,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        return class_logits(self.model, micro)

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            self.outputs(micro), micro["labels"], label_smoothing=self.label_smoothing
        )

    def metrics(self, evaluated: Evaluated) -> TagMetrics:
        return self.metrics_class(self.labels, evaluated.row_of, evaluated.labels_of)

    def line(self, prediction: Mapping[str, Any]) -> str:
        pairs = zip(prediction["words"], prediction["tags"], strict=False)
        return " ".join(f"{word}/{tag}" for word, tag in pairs)

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for number, (_, tags) in measured.rows().items():
            words = evaluated.rows[number].values["words"]
            yield {
                "text": " ".join(words),
                "words": words,
                "tags": [self.labels[tag] for tag in tags],
            }


def span_counts(actual: list[str], predicted: list[str]) -> tuple[int, int, int]:
    """Returns the numbers of correct, predicted and actual spans of a sentence."""
    true, guessed = spans(actual), spans(predicted)
    return len(true & guessed), len(guessed), len(true)
