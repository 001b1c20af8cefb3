"""The rows of our parameters that each released tensor corresponds to.

Adapters state changes by released module, which may be a part of a larger matrix in Étude.
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
    """A released tensor as a part of an Étude parameter.

    Attributes:
        name: the parameter's name.
        parameter: the parameter.
        piece: the released tensor and its view of the parameter.
        rows: the row of the parameter for each output of the released tensor, in its order.
    """

    name: str
    parameter: Tensor
    piece: Piece
    rows: Tensor


def tensor_slices(module: Any, family: Family, architecture: str) -> dict[str, TensorSlice]:
    """Returns the slices by the tensor names in a class of `transformers`."""
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
