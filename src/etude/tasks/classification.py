"""One label for each text, or pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks, Problem, RequestError, nearest
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task, packing
from etude.tasks.counts import classification_metrics, confusion
from etude.tasks.losses import cross_entropy


@dataclass(frozen=True)
class LabelObjective(ExampleObjective):
    """Tokens and one label.

    Args:
        balanced: whether each class weighs the same in all, whatever its number.
        positive: the name of the class that is looked for.
        weights: of each class, once the data is known.
    """

    balanced: bool = False
    positive: str | None = None
    weights: tuple[float, ...] | None = None

    fields: ClassVar[tuple[str, ...]] = ("tokens", "label")
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> LabelObjective:
        if len(meta.labels) < 2:
            found = ", ".join(meta.labels)
            raise RequestError(Problem("data.label", "two labels or more", found or "none"))
        if self.positive is not None and self.positive not in meta.labels:
            hint = "; ".join(
                each
                for each in (nearest(self.positive, meta.labels), "null scores all labels alike")
                if each
            )
            problem = Problem("task.positive", "one of the data's labels", self.positive, hint)
            raise RequestError(problem)
        if not self.balanced:
            return self
        counts = meta.splits["train"].labels
        there = [count for count in counts if count]
        each = sum(there) / len(there)
        return replace(self, weights=tuple(each / count if count else 1.0 for count in counts))

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
    """Logits over classes, (B, classes), or over the tags of each position, (B, T, tags); of packed
    examples over the classes of each, (N, classes).
    """
    told = {"keep": micro.get("keep"), "token_types": micro.get("types"), **packing(micro)}
    logits: Tensor = model(micro["tokens"], **told)
    return logits


OF_POSITIVE = ("val/precision", "val/recall", "val/f1")
"""Metrics of the class that is looked for."""


class Classification(Task):
    """A label for each text; the loss is the mean cross-entropy over the examples of a step.

    With `class_weights=balanced` the mean is weighted by n / (k n_c) for a label that n_c of n
    training examples have, of k labels that occur.

    Args:
        class_weights: `none` or `balanced`.
        label_smoothing: see `etude.tasks.losses.cross_entropy`.
        positive: the class that is looked for; its precision, recall and F1 are measured too.
        monitor: the metric that decides which checkpoint is best.
        setup: what the run gives.
    """

    metric_names = (
        "val/loss", "val/accuracy", "val/f1_macro", "val/precision_macro", "val/recall_macro",
        "val/mcc", *OF_POSITIVE,
    )  # fmt: skip
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
        of_positive = positive is not None or monitor not in OF_POSITIVE
        hint = f"task.positive says of which class; {monitor}_macro is the mean of all"
        checks.that(of_positive, "monitor", monitor, "a metric of the task", hint)
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.label_smoothing = label_smoothing
        self.positive = positive
        self._nats: list[tuple[Tensor, float]] = []
        self._counts: Any = None

    @classmethod
    def objective(cls, **arguments: Any) -> LabelObjective:
        balanced = arguments.get("class_weights") == "balanced"
        return LabelObjective(balanced=balanced, positive=arguments.get("positive"))

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randint(labels, (batch,)),
            "step_targets": batch,
        }

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            class_logits(self.model, micro),
            micro["labels"],
            label_smoothing=self.label_smoothing,
            weights=micro.get("weights"),
        )

    def on_validation_epoch_start(self) -> None:
        self._nats, self._counts = [], None

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if not self.is_mine(batch_idx):
            return
        logits = class_logits(self.model, batch)
        loss = cross_entropy(logits, batch["labels"], weights=batch.get("weights"))
        self._nats.append((loss, batch["total"]))
        labels, found = (x.cpu().numpy() for x in (batch["labels"], logits.argmax(-1)))
        counts = confusion(labels, found, logits.shape[-1])
        self._counts = counts if self._counts is None else self._counts + counts

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
        positive = None if self.positive is None else data.labels.index(self.positive)
        metrics = {"loss": sums[0] / sums[1], **classification_metrics(counts, positive)}
        self.validation_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(self.validation_metrics)
