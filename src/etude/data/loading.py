"""Loaders of batches that are made whole: nothing is collated, nothing of the run is drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

EVALUATION_POSITIONS = 8192
"""Positions in a batch of evaluation, about, padding included."""
EVALUATION_LOGITS = 2**27
"""The most logits of such a batch: half a gigabyte in float32, and as much again for the loss."""


def evaluation_positions(vocabulary: int) -> int:
    """The positions in a batch of evaluation of a model that predicts one of so many tokens."""
    return max(1, min(EVALUATION_POSITIONS, EVALUATION_LOGITS // vocabulary))


def loader(dataset: IterableDataset[Any], workers: int = 0) -> DataLoader[Any]:
    """The batches of a data set as they are, in its order."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        # With a generator of its own the loader leaves the run's random numbers alone.
        generator=torch.Generator(),
    )


def _as_it_is(step: Any) -> Any:
    return step
