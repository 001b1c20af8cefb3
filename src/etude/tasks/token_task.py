"""Base class of tasks whose targets are tokens. A position with the label `IGNORE` has none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import IGNORE
from etude.errors import Checks
from etude.tasks.base import MicroBatch, Setup, Task
from etude.tasks.losses import cross_entropy
from etude.tasks.metrics import Metrics, Sum, perplexity, ratio


class TokenMetrics(Metrics):
    """Metrics of predicted tokens: `loss`, `perplexity` and `accuracy` over the targets."""

    def __init__(self) -> None:
        self.nats, self.right, self.targets = Sum(), Sum(), Sum()

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        labels = batch["labels"]
        counted = labels != IGNORE
        self.nats.add(cross_entropy(outputs, labels))
        self.right.add(((outputs.argmax(-1) == labels) & counted).sum())
        self.targets.add(counted.sum())

    def merge(self, other: TokenMetrics) -> None:
        self.nats.merge(other.nats)
        self.right.merge(other.right)
        self.targets.merge(other.targets)

    def compute(self) -> dict[str, float]:
        loss = ratio(self.nats, self.targets)
        accuracy = ratio(self.right, self.targets)
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}


class TokenTask(Task):
    """Base class of token prediction; the loss is the mean cross-entropy over a step's targets.

    `outputs` returns logits (B, T, V), which are compared with the micro-batch's `labels`.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        label_smoothing, z_loss: see `etude.tasks.losses.cross_entropy`. It is not applied
            in validation.
        monitor: the metric that selects the best checkpoint.
    """

    metrics_class: ClassVar[type[TokenMetrics]] = TokenMetrics
    metric_names: tuple[str, ...] = ("val/loss", "val/perplexity", "val/accuracy")

    def __init__(
        self,
        setup: Setup,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        monitor: str = "val/loss",
    ) -> None:
        checks = Checks()
        checks.probability(label_smoothing=label_smoothing)
        checks.that(0 <= z_loss < math.inf, "z_loss", z_loss, "a finite number of at least 0")
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        tokens, targets = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"tokens": tokens, "labels": targets, "step_targets": targets.numel()}

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            self.outputs(micro),
            micro["labels"],
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )

    def metrics(self, evaluated: Evaluated) -> TokenMetrics:
        return self.metrics_class()
