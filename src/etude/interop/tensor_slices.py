"""Which rows of a parameter of ours each released tensor is: for what is said of released modules
one by one, and is part of a larger matrix here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.interop.family import Family
from etude.interop.rules import Piece


@dataclass(frozen=True)
class TensorSlice:
    """Where a released tensor is in a module of ours.

    Attributes:
        name: of our parameter.
        parameter: ours, of which the tensor may be a part.
        piece: the released tensor, and the view of ours that it is.
        rows: for each of its outputs, in its own order, the row of our parameter.
    """

    name: str
    parameter: Tensor
    piece: Piece
    rows: Tensor


def tensor_slices(module: Any, family: Family, architecture: str) -> dict[str, TensorSlice]:
    """By the names that a class of `transformers` gives its tensors."""
    parameters = dict(module.named_parameters())
    pieces = family.pieces(module, architecture)
    numbered = family.pieces(module, architecture, _row_numbers)
    bare = family.prefix if architecture in family.bodies else ""
    return {
        piece.name.removeprefix(bare): TensorSlice(
            name, parameters[name], piece, rows.view.reshape(-1)
        )
        for (name, ours), (_, numbers) in zip(pieces, numbered, strict=True)
        for piece, rows in zip(ours, numbers, strict=True)
    }


def _row_numbers(parameter: Tensor) -> Tensor:
    rows = torch.arange(len(parameter), device=parameter.device)
    return rows if parameter.ndim == 1 else rows[:, None]
