"""Mapping from the tensors of a Hugging Face checkpoint to rows of Étude parameters.

Adapters need this mapping: an adapter updates modules of `transformers`, and the matrix of such a
module can be some rows of a larger matrix in Étude.
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
    """A checkpoint tensor and the rows of an Étude parameter that it corresponds to.

    Attributes:
        name: the parameter's name in Étude.
        parameter: the parameter.
        piece: the checkpoint tensor and its view of the parameter.
        rows: for each output of the checkpoint's module, the index of the corresponding row of the
            parameter.
    """

    name: str
    parameter: Tensor
    piece: Piece
    rows: Tensor


def tensor_slices(module: Any, family: Family, architecture: str) -> dict[str, TensorSlice]:
    """Returns a dict from the name of each checkpoint tensor of a module to its `TensorSlice`.

    Args:
        module: the Étude module.
        family: the family that defines the names of the checkpoint tensors.
        architecture: the class of `transformers` whose tensor names are used.
    """
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
