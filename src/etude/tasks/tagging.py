"""A tag for each word of a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks, Problem, RequestError
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.classification import class_logits
from etude.tasks.counts import are_spans, classification_metrics, confusion, span_metrics, spans
from etude.tasks.losses import cross_entropy

OF_SPANS = ("val/precision", "val/recall", "val/f1")
"""Metrics of whole spans."""


@dataclass(frozen=True)
class TagObjective(ExampleObjective):
    """Tokens, and a tag at the first token of each word.

    Args:
        monitor: the metric that decides; of spans it needs tags that mark some.
    """

    monitor: str = "val/loss"

    fields: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> TagObjective:
        if len(meta.labels) < 2:
            found = ", ".join(meta.labels)
            raise RequestError(Problem("data.tags", "two tags or more", found or "none"))
        if self.monitor in OF_SPANS and not are_spans(meta.labels):
            expected = "a metric of tags that mark no spans (B-..., I-..., O)"
            hint = f"val/accuracy or val/f1_macro; the tags are {', '.join(meta.labels[:8])}"
            raise RequestError(Problem("task.monitor", expected, self.monitor, hint))
        return self

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        return {"tokens": fields["tokens"], "labels": fields["tags"]}


class Tagging(Task):
    """A tag for each word, at its first token; the loss is the mean cross-entropy over the words.

    Where the tags mark spans (`B-LOC`, `I-LOC`, `O`), whole spans are counted too.

    Args:
        label_smoothing: see `etude.tasks.losses.cross_entropy`.
        monitor: the metric that decides which checkpoint is best.
        setup: what the run gives.
    """

    metric_names = (
        "val/loss", "val/accuracy", "val/f1_macro", *OF_SPANS,
    )  # fmt: skip
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
        self._nats: list[tuple[Tensor, float]] = []
        self._counts: Any = None
        self._pieces: list[tuple[int, list[str], list[str]]] = []  # of long rows there are several

    @classmethod
    def objective(cls, **arguments: Any) -> TagObjective:
        return TagObjective(str(arguments.get("monitor", "val/loss")))

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randint(labels, (batch, length)),
            "step_targets": batch * length,
        }

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            class_logits(self.model, micro), micro["labels"], label_smoothing=self.label_smoothing
        )

    def on_validation_epoch_start(self) -> None:
        self._nats, self._counts, self._pieces = [], None, []

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if not self.is_mine(batch_idx):
            return
        logits = class_logits(self.model, batch)
        self._nats.append((cross_entropy(logits, batch["labels"]), batch["total"]))
        labels, found = (x.cpu().numpy() for x in (batch["labels"], logits.argmax(-1)))
        there = labels != IGNORE
        counts = confusion(labels[there], found[there], logits.shape[-1])
        self._counts = counts if self._counts is None else self._counts + counts
        names = self.trainer.datamodule.labels  # type: ignore[attr-defined]
        if are_spans(names):
            examples = batch["index"].tolist()
            for example, row, guess, inside in zip(examples, labels, found, there, strict=True):
                tags = ([names[tag] for tag in side[inside]] for side in (row, guess))
                self._pieces.append((example, *tags))

    def on_validation_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        classes = len(data.labels)
        mine = np.zeros((classes, classes)) if self._counts is None else self._counts
        sums = self.totals(
            sum(float(loss) for loss, _ in self._nats),
            sum(targets for _, targets in self._nats),
            *mine.flatten().astype(float),
        )
        counts = np.array(sums[2:]).reshape(classes, classes).astype(np.int64)
        found = classification_metrics(counts)
        metrics = {"loss": sums[0] / sums[1]}
        metrics |= {name: found[name] for name in ("accuracy", "f1_macro")}
        if are_spans(data.labels):
            metrics |= span_metrics(*self._span_counts(data.rows_of("val")))
        self.validation_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(self.validation_metrics)

    def _span_counts(self, rows: Any) -> list[int]:
        """Spans of whole rows, whatever pieces they were cut into and wherever these were tagged.

        Args:
            rows: the row that each example is from.
        """
        every = [self._pieces]
        if self.trainer.world_size > 1:
            every = [[] for _ in range(self.trainer.world_size)]
            dist.all_gather_object(every, self._pieces)
        whole: dict[int, tuple[list[str], list[str]]] = {}
        for example, tags, guesses in sorted(piece for some in every for piece in some):
            there, found = whole.setdefault(int(rows[example]), ([], []))
            there += tags
            found += guesses
        counts = [span_counts(*both) for both in whole.values()]
        return [sum(count[place] for count in counts) for place in range(3)]


def span_counts(actual: list[str], predicted: list[str]) -> tuple[int, int, int]:
    """Spans of a sentence that are right, that were predicted, and that there are."""
    there, found = spans(actual), spans(predicted)
    return len(there & found), len(found), len(there)
