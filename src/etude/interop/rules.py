"""Rules that map the tensors of a released checkpoint to the parameters of Étude modules.

A rule defines the view of a parameter that each released tensor corresponds to. Loading copies into
the view, saving reads the view, so both directions are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A released tensor as a part of an Étude parameter.

    Args:
        name: the released tensor's name.
        shape: the released tensor's shape.
        view: the view of the parameter, with as many values in the same order.
    """

    name: str
    shape: tuple[int, ...]
    view: Tensor


@dataclass(frozen=True)
class Same:
    """Rule for a tensor that is stored unchanged.

    Args:
        name: the released module's name, without `.weight` or `.bias`; the tensor's full name for
            other parameters.
    """

    name: str

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        """Returns the released tensors of a parameter.

        Args:
            suffix: `.weight`, `.bias`, or empty.
            owner: the parent of the parameter's module, such as the attention of a `qkv`.
        """
        return [Piece(self.name + suffix, tuple(parameter.shape), parameter)]


@dataclass(frozen=True)
class Transposed(Same):
    """Rule for a matrix that is stored as (input, output); a bias is stored unchanged."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.mT if parameter.ndim == 2 else parameter
        return [Piece(self.name + suffix, tuple(view.shape), view)]


@dataclass(frozen=True)
class RowVector(Same):
    """Rule for a vector that is stored as a matrix of one row."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        return [Piece(self.name + suffix, (1, *parameter.shape), parameter[None])]


@dataclass(frozen=True)
class Stacked:
    """Rule for separate tensors of queries, keys and values; ours is their concatenation.

    Args:
        queries, keys, values: the names of the released modules.
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
    """Rule for one tensor of queries, keys and values by head (GPT-NeoX).

    The released order is (q, k, v) of each head in turn; ours is all q, all k, all v.
    """

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.unflatten(0, (3, owner.heads, owner.head_dim)).transpose(0, 1)
        return [Piece(self.name + suffix, tuple(parameter.shape), view)]


Rule = Same | Stacked
