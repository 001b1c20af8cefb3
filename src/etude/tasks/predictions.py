"""What trained models say of examples: labels with probabilities, tags of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from etude.data.objective import IGNORE
from etude.generation.decoding import evaluating
from etude.tasks.base import MicroBatch
from etude.tasks.classification import class_logits


@torch.inference_mode()
def class_probabilities(
    model: nn.Module, batches: Iterable[MicroBatch], rows: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """The probabilities of the classes for each row, (classes,); of a row in several pieces their
    mean.

    Args:
        rows: the row that each example is from.
    """
    found: dict[int, list[Any]] = {}
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in batches:
            probabilities = class_logits(model, _on(batch, device)).double().softmax(-1)
            for index, each in zip(batch["index"].tolist(), probabilities.cpu(), strict=True):
                found.setdefault(int(rows[index]), []).append(each.numpy())
    return {row: np.mean(each, axis=0) for row, each in sorted(found.items())}


@torch.inference_mode()
def word_tags(
    model: nn.Module, batches: Iterable[MicroBatch], rows: Sequence[int]
) -> dict[int, list[int]]:
    """The tag of each word of each row, in order; words that were cut off have none.

    Args:
        rows: as for `class_probabilities`; the pieces of a row stand in its order.
    """
    found: dict[int, dict[int, list[int]]] = {}
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in batches:
            tags = class_logits(model, _on(batch, device)).argmax(-1).cpu()
            inside = batch["labels"] != IGNORE
            for index, row, there in zip(batch["index"].tolist(), tags, inside, strict=True):
                found.setdefault(int(rows[index]), {})[index] = row[there].tolist()
    return {
        row: [tag for _, tags in sorted(pieces.items()) for tag in tags]
        for row, pieces in sorted(found.items())
    }


def _on(batch: MicroBatch, device: torch.device) -> MicroBatch:
    if device.type == "cpu":
        return batch
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
