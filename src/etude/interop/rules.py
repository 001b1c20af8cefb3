"""Rules that map the tensors of a Hugging Face checkpoint to the parameters of Étude modules.

For each checkpoint tensor, a rule defines a view of an Étude parameter. Loading copies the tensor
to the view, and saving reads the view, so both directions are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A checkpoint tensor and the view of an Étude parameter that it corresponds to.

    Args:
        name: the checkpoint tensor's name.
        shape: the checkpoint tensor's shape.
        view: the view of the parameter, with the values of the tensor in the same order.
    """

    name: str
    shape: tuple[int, ...]
    view: Tensor


@dataclass(frozen=True)
class Same:
    """Rule for a parameter that a checkpoint stores unchanged.

    Args:
        name: the module's name in the checkpoint. For parameters other than `weight` and `bias`,
            the tensor's full name.
    """

    name: str

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        """Returns the checkpoint tensors that a parameter consists of.

        Args:
            parameter: the Étude parameter.
            suffix: the end of the tensors' names: `.weight`, `.bias`, or empty if the rule's names
                are full names.
            owner: the parent of the parameter's module. For a `qkv` layer, this is the attention
                module, whose attributes contain the numbers of heads.
        """
        return [Piece(self.name + suffix, tuple(parameter.shape), parameter)]


@dataclass(frozen=True)
class Transposed(Same):
    """Rule for a linear layer whose matrix a checkpoint stores transposed, as (input, output)."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.mT if parameter.ndim == 2 else parameter
        return [Piece(self.name + suffix, tuple(view.shape), view)]


@dataclass(frozen=True)
class RowVector(Same):
    """Rule for a vector that a checkpoint stores as a matrix of one row."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        return [Piece(self.name + suffix, (1, *parameter.shape), parameter[None])]


@dataclass(frozen=True)
class Stacked:
    """Rule for queries, keys and values that a checkpoint stores as three tensors.

    In Étude, the three tensors are concatenated to one parameter.

    Args:
        queries, keys, values: the names of the three modules in the checkpoint.
    """

    queries: str
    keys: str
    values: str

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        H, G, K = owner.heads, owner.kv_heads, owner.head_dim
        views = parameter.split_with_sizes((H * K, G * K, G * K))
        names = (self.queries, self.keys, self.values)
        return [
            Piece(name + suffix, tuple(view.shape), view)
            for name, view in zip(names, views, strict=True)
        ]


@dataclass(frozen=True)
class Interleaved(Same):
    """Rule for queries, keys and values that a checkpoint stores head by head (GPT-NeoX).

    The rows in the checkpoint are q, k, v of the first head, then of the second, and so on. The
    rows in Étude are all q, then all k, then all v.
    """

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.unflatten(0, (3, owner.heads, owner.head_dim)).transpose(0, 1)
        return [Piece(self.name + suffix, tuple(parameter.shape), view)]


Rule = Same | Stacked
