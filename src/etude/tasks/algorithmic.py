"""Sequences that a rule makes: a decoder says what follows wherever the rule is certain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from etude.data.objective import IGNORE, Objective
from etude.generation.decoding import evaluating
from etude.models.decoder import Decoder
from etude.tasks.base import MicroBatch
from etude.tasks.losses import cross_entropy
from etude.tasks.token_task import TokenTask

PARTS = ("val", "seen")
"""What a validation measures: what is held out, and perhaps what is trained on."""


class MadeObjective(Objective):
    """Takes the examples as the rule makes them."""

    reads = "made"
    such_as = "data=induction, sort, ..."
    fields = ("tokens", "labels")


class Algorithmic(TokenTask):
    """The mean cross-entropy over the labels; all other places do not count.

    `accuracy` is the part of the labels that are said rightly, `exact` that of the examples of
    which all are. With `data.validate_training` the same of examples that are trained on, as
    `seen/loss`, `seen/accuracy` and `seen/exact`.

    Args:
        setup: what the run gives.
        label_smoothing, z_loss, monitor: see `TokenTask`.
    """

    metric_names = (
        "val/loss", "val/accuracy", "val/exact", "seen/loss", "seen/accuracy", "seen/exact",
    )  # fmt: skip
    needs_causal_model = True
    models = (Decoder,)
    _parts: list[Tensor]

    @classmethod
    def objective(cls, **arguments: Any) -> Objective:
        return MadeObjective()

    def on_validation_epoch_start(self) -> None:
        self._parts = [torch.zeros(5, dtype=torch.float64) for _ in PARTS]

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if self.is_mine(batch_idx):
            self._parts[batch["section"]] += sums_of(self.logits(batch), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        sums = self.totals(*torch.cat(self._parts).tolist())
        found: dict[str, float] = {}
        for place, part in enumerate(PARTS):
            mine = sums[5 * place : 5 * place + 5]
            if mine[2]:
                found |= {f"{part}/{name}": value for name, value in metrics_of(mine).items()}
        self.validation_metrics = found
        self.log_dict(found)


def sums_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats, right labels, labels, right examples and examples of a batch, (5,) float64."""
    there = labels != IGNORE
    right = (logits.argmax(-1) == labels) & there
    whole = (right | ~there).all(-1)
    nats = cross_entropy(logits, labels)
    values = [float(x) for x in (nats, right.sum(), there.sum(), whole.sum())]
    return torch.tensor([*values, float(len(labels))], dtype=torch.float64)


def metrics_of(sums: list[float]) -> dict[str, float]:
    """What such sums mean."""
    nats, right, labels, whole, examples = sums
    return {"loss": nats / labels, "accuracy": right / labels, "exact": whole / examples}


@torch.inference_mode()
def score_made(model: nn.Module, batches: Iterable[MicroBatch]) -> dict[str, float]:
    """`loss`, `accuracy` and `exact` of a model over batches, outside any training."""
    sums = torch.zeros(5, dtype=torch.float64)
    with evaluating(model):
        for batch in batches:
            sums += sums_of(model(batch["tokens"]), batch["labels"])
    return metrics_of(sums.tolist())
