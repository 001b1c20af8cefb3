"""Predicting the next token (GPT-style pretraining)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.tasks.base import MicroBatch, Task


def next_token_loss(model: nn.Module, micro: MicroBatch) -> Tensor:
    """The summed negative log-likelihood of the targets, in nats.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        micro: `tokens` and `targets`, both (B, T); targets are the tokens one position on.
    """
    logits = model(micro["tokens"])
    return F.cross_entropy(logits.flatten(0, 1), micro["targets"].flatten(), reduction="sum")


def language_model_metrics(nats: float, targets: int, text_bytes: int) -> dict[str, float]:
    """What a summed loss over a text means.

    Args:
        nats: the summed negative log-likelihood of all predicted tokens.
        targets: how many tokens were predicted.
        text_bytes: the UTF-8 bytes of the text that these tokens spell.

    Returns:
        `loss` (nats a token), `perplexity` (its exponential), `bits_per_byte`, which compares
        models with different tokenizers.
    """
    loss = nats / targets
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": nats / math.log(2) / text_bytes,
    }


class CausalLM(Task):
    """Next-token prediction, validated on the whole split."""

    needs_causal_model = True
    _nats: list[Tensor]
    _targets: int

    def loss(self, micro: MicroBatch) -> Tensor:
        return next_token_loss(self.model, micro)

    def on_validation_epoch_start(self) -> None:
        self._nats, self._targets = [], 0

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        self._nats.append(next_token_loss(self.model, batch))
        self._targets += batch["targets"].numel()

    def on_validation_epoch_end(self) -> None:
        nats = float(torch.stack(self._nats).double().sum())
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        metrics = language_model_metrics(nats, self._targets, data.bytes_predicted("val"))
        self.validation_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.log_dict(self.validation_metrics)  # for callbacks such as EarlyStopping


@torch.inference_mode()
def score(model: nn.Module, batches: Iterable[MicroBatch], text_bytes: int) -> dict[str, float]:
    """The metrics of `model` over `batches`, outside any training."""
    was_training = model.training
    model.eval()
    nats, targets = 0.0, 0
    for batch in batches:
        nats += float(next_token_loss(model, batch))
        targets += batch["targets"].numel()
    model.train(was_training)
    return language_model_metrics(nats, targets, text_bytes)
