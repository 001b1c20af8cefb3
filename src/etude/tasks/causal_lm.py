"""Predicting the next token (GPT-style pretraining)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.data.loading import evaluation_positions
from etude.models.decoder import Decoder
from etude.tasks.base import MicroBatch, Task, packing


def next_token_loss(model: nn.Module, micro: MicroBatch) -> Tensor:
    """The summed negative log-likelihood of the targets, in nats.

    At least in single precision: a sum in bfloat16 would keep three digits.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        micro: `tokens` and `targets`, both (B, T); targets are the tokens one position on. Perhaps
            `documents`, which are not to see each other.
    """
    logits = model(micro["tokens"], **packing(micro)).flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, micro["targets"].flatten(), reduction="sum")


def language_model_metrics(nats: float, targets: int, text_bytes: int | None) -> dict[str, float]:
    """What a summed loss over a text means.

    Args:
        nats: the summed negative log-likelihood of all predicted tokens.
        targets: how many tokens were predicted.
        text_bytes: the UTF-8 bytes of the text that these tokens spell; None if they spell none.

    Returns:
        `loss` (nats a token), `perplexity` (its exponential), `bits_per_byte`, which compares
        models with different tokenizers, unless `text_bytes` is None.
    """
    loss = nats / targets
    metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
    if text_bytes is not None:
        metrics["bits_per_byte"] = nats / math.log(2) / text_bytes
    return metrics


class CausalLM(Task):
    """Next-token prediction, validated on the whole split, and on each source of a mixture."""

    metric_names = ("val/loss", "val/perplexity", "val/bits_per_byte")
    needs_causal_model = True
    models = (Decoder,)
    _nats: list[Tensor]
    _targets: int
    _of_sections: list[tuple[int, int]]  # for each of `_nats` its section and its targets

    def loss(self, micro: MicroBatch) -> Tensor:
        return next_token_loss(self.model, micro)

    def on_validation_epoch_start(self) -> None:
        self._nats, self._targets, self._of_sections = [], 0, []

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        if not self.is_mine(batch_idx):
            return
        self._nats.append(next_token_loss(self.model, batch))
        self._targets += batch["targets"].numel()
        self._of_sections.append((batch.get("section", 0), batch["targets"].numel()))

    def on_validation_epoch_end(self) -> None:
        mine = float(torch.stack(self._nats).cpu().double().sum()) if self._nats else 0.0
        nats, targets = self.totals(mine, self._targets)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        metrics = language_model_metrics(nats, int(targets), data.bytes_predicted("val"))
        self.validation_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.validation_metrics |= self._section_losses(data.section_names)
        self.log_dict(self.validation_metrics)  # for callbacks such as EarlyStopping

    def _section_losses(self, names: Sequence[str]) -> dict[str, float]:
        """`val/<name>/loss` of each source of a mixture, in nats a token."""
        sums = [[0.0, 0.0] for _ in names]
        if names and self._nats:
            nats = torch.stack(self._nats).cpu().double().tolist()
            for value, (section, targets) in zip(nats, self._of_sections, strict=True):
                sums[section][0] += value
                sums[section][1] += targets
        totals = self.totals(*(number for pair in sums for number in pair)) if names else []
        pairs = zip(totals[::2], totals[1::2], strict=True)
        return {
            f"val/{name}/loss": nats / targets
            for name, (nats, targets) in zip(names, pairs, strict=True)
        }


@torch.inference_mode()
def example_losses(model: nn.Module, batches: Iterable[MicroBatch]) -> list[float]:
    """The mean negative log-likelihood of each window, in nats a token, in their order."""
    was_training = model.training
    model.eval()
    losses: list[float] = []
    for batch in batches:
        logits = model(batch["tokens"], **packing(batch))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
        nats = F.cross_entropy(logits, batch["targets"], reduction="none")
        losses += nats.double().mean(1).tolist()
    model.train(was_training)
    return losses


@torch.inference_mode()
def score(
    model: nn.Module, batches: Iterable[MicroBatch], text_bytes: int | None
) -> dict[str, float]:
    """The metrics of `model` over `batches`, outside any training."""
    was_training = model.training
    model.eval()
    nats, targets = 0.0, 0
    for batch in batches:
        nats += float(next_token_loss(model, batch))
        targets += batch["targets"].numel()
    model.train(was_training)
    return language_model_metrics(nats, targets, text_bytes)


@torch.inference_mode()
def sliding_score(
    model: nn.Module,
    file: Any,
    length: int,
    stride: int,
    vocabulary: int,
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Loss and perplexity with windows that overlap: window w begins at token `w * stride`, and of
    each but the first only the last `stride` targets count, which have seen at least
    `length - stride` tokens.

    Args:
        file: the split's ids, an `etude.data.prepare.TokenFile`.
        length: targets in a window.
        stride: at most `length`; with `length` + 1 the first token of each window is no target.
        vocabulary: tokens that the model chooses among.
        told: is called with how many of the ids are done.

    Returns:
        `loss` in nats a token, `perplexity`, and `nats`, the sum.
    """
    ids = torch.from_numpy(file.ids.astype("int64"))
    total = len(ids) - 1
    size = max(1, evaluation_positions(vocabulary) // length)
    starts = [0, *range(stride, min(total, max(stride, total - length + stride)), stride)]
    nats, counted, done = 0.0, 0, 0
    model.eval()
    device = next(model.parameters()).device
    whole = [start for start in starts if start + length <= total]
    groups = [whole[first : first + size] for first in range(0, len(whole), size)]
    groups += [[start] for start in starts if start + length > total]
    for group in groups:
        rows = torch.stack([ids[start : start + length + 1] for start in group])
        rows = rows.to(device)
        logits = model(rows[:, :-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
        losses = F.cross_entropy(logits, rows[:, 1:], reduction="none").cpu().double()
        for start, row in zip(group, losses, strict=True):
            new = row[max(0, done - start) :]
            nats += float(new.sum())
            counted += len(new)
            done = max(done, start + len(row))
        told(done)
    metrics = language_model_metrics(nats, counted, None)
    return {**metrics, "nats": nats}
