"""How a tensor of ours is made of the tensors of a released checkpoint, and these of ours.

A rule says which view of our parameter each released tensor is. Copying into the view loads it,
reading the view saves it: so both directions are the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A released tensor and its place in a parameter of ours.

    Args:
        name: of the released tensor.
        shape: of the released tensor.
        view: the part of our parameter, with as many numbers, in the same order.
    """

    name: str
    shape: tuple[int, ...]
    view: Tensor


@dataclass(frozen=True)
class Same:
    """As it is.

    Args:
        name: of the module that holds the released tensor, before `.weight` or `.bias`; of the
            tensor itself where ours is neither.
    """

    name: str

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        """The released tensors in a parameter of ours.

        Args:
            suffix: `.weight`, `.bias`, or nothing.
            owner: the module around the one that has the parameter: an attention for its `qkv`.
        """
        return [Piece(self.name + suffix, tuple(parameter.shape), parameter)]


@dataclass(frozen=True)
class Transposed(Same):
    """A matrix that is kept as (input, output); a bias as it is."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.mT if parameter.ndim == 2 else parameter
        return [Piece(self.name + suffix, tuple(view.shape), view)]


@dataclass(frozen=True)
class RowVector(Same):
    """A vector that is kept as a matrix of one row."""

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        return [Piece(self.name + suffix, (1, *parameter.shape), parameter[None])]


@dataclass(frozen=True)
class Stacked:
    """Queries, keys and values each in a tensor of its own: ours is one above the other.

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
    """One tensor of queries, keys and values, head after head (GPT-NeoX): H times (q, k, v),
    where ours is (q, k, v), each of all heads.
    """

    def pieces(self, parameter: Tensor, suffix: str, owner: Any) -> list[Piece]:
        view = parameter.unflatten(0, (3, owner.heads, owner.head_dim)).transpose(0, 1)
        return [Piece(self.name + suffix, tuple(parameter.shape), view)]


Rule = Same | Stacked
