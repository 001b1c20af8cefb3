"""Data loaders for datasets that yield complete batches.

The loaders don't collate examples, and don't use the run's random number generators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

EVALUATION_POSITIONS = 8192
"""Approximate number of positions in an evaluation batch, padding included."""
EVALUATION_LOGITS = 2**27
"""Maximum number of logits of an evaluation batch: 0.5 GiB in float32, and as much for the loss."""


def evaluation_positions(vocabulary: int) -> int:
    """Returns how many positions (all sequences together) an evaluation batch has.

    For a large vocabulary, the number is smaller, so that the logits need less memory.

    Args:
        vocabulary: size of the vocabulary.
    """
    return max(1, min(EVALUATION_POSITIONS, EVALUATION_LOGITS // vocabulary))


def loader(dataset: IterableDataset[Any], workers: int = 0) -> DataLoader[Any]:
    """Returns a data loader that yields the batches of a dataset, unchanged and in order.

    Args:
        dataset: yields complete batches.
        workers: number of processes that read the dataset; 0 reads it in the current process.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=torch.cuda.is_available(),
        # With its own generator, the loader doesn't draw from the run's random numbers.
        generator=torch.Generator(),
    )


def _identity(step: Any) -> Any:
    return step
