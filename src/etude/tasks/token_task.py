"""What the tasks share whose targets are tokens, some of which do not count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from etude.data.objective import IGNORE
from etude.errors import Checks
from etude.generation.decoding import evaluating
from etude.tasks.base import MicroBatch, Setup, Task, packing
from etude.tasks.losses import cross_entropy


class TokenTask(Task):
    """The mean cross-entropy over the targets of a step; a task says by `logits` what they are of.

    Args:
        setup: what the run gives.
        label_smoothing, z_loss: see `etude.tasks.losses.cross_entropy`; validation is without.
        monitor: the metric that decides which checkpoint is best.
    """

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
        checks.that(0 <= z_loss < math.inf, "z_loss", z_loss, "a number from 0 on")
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self._sums: list[tuple[Tensor, Tensor, float]] = []

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        tokens, targets = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"tokens": tokens, "labels": targets, "step_targets": targets.numel()}

    def logits(self, micro: MicroBatch) -> Tensor:
        """Logits (B, T, V) of the micro-batch's `labels`; of a model that reads `tokens` alone."""
        logits: Tensor = self.model(micro["tokens"], **packing(micro))
        return logits

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(
            self.logits(micro),
            micro["labels"],
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )

    def on_validation_epoch_start(self) -> None:
        self._sums = []

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if self.is_mine(batch_idx):
            logits, labels = self.logits(batch), batch["labels"]
            there = labels != IGNORE
            right = ((logits.argmax(-1) == labels) & there).sum()
            self._sums.append((cross_entropy(logits, labels), right, float(there.sum())))

    def on_validation_epoch_end(self) -> None:
        parts = zip(*self._sums, strict=True) if self._sums else ((0.0,), (0.0,), (0.0,))
        nats, right, targets = self.totals(*(float(sum(map(float, part))) for part in parts))
        loss = nats / targets
        metrics = {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "accuracy": right / targets,
        }
        self.validation_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(self.validation_metrics)


@torch.inference_mode()
def score_tokens(
    kind: type[TokenTask], model: nn.Module, batches: Iterable[MicroBatch]
) -> dict[str, float]:
    """`loss`, `perplexity` and `accuracy` of a model over batches, outside any training."""
    nats = right = targets = 0.0
    task: Any = SimpleNamespace(model=model)
    with evaluating(model):
        for batch in batches:
            logits, labels = kind.logits(task, batch), batch["labels"]
            there = labels != IGNORE
            nats += float(cross_entropy(logits, labels))
            right += float(((logits.argmax(-1) == labels) & there).sum())
            targets += float(there.sum())
    loss = nats / targets
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"loss": loss, "perplexity": perplexity, "accuracy": right / targets}
