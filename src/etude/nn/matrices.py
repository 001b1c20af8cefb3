"""Purposes of a model's linear layers, as declared by the modules that contain the layers.

An attention or feed-forward module has a method `matrices()` that returns a `Matrix` for each of
its linear layers, by the layer's name. Low-rank adaptation (`etude.nn.lora`), initialisation
(`etude.nn.init`) and muP use these declarations, so layers may have any name.

In a module without the method, five names of layers are recognised: `out` and `down` write to the
residual stream, `gate` and `up` don't, and `qkv` computes queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from etude.errors import Checks

Rows = tuple[int, int]


@dataclass(frozen=True)
class Matrix:
    """Purpose of a linear layer: the matrices that it contains, and where its output goes.

    Attributes:
        pieces: row range of each matrix in the layer by the matrix's name: the first row, and the
            row after the last. The ranges are in order and cover the layer. Low-rank adaptation
            uses the names `q`, `k`, `v` and `out` of an attention, and `gate`, `up` and `down` of a
            feed-forward module.
        writes: whether the layer's output is added to the residual stream.
        head_dim: K, the head dimension (in muP, at the base width), if a piece `q` computes
            queries; otherwise None.
    """

    pieces: Mapping[str, Rows]
    writes: bool = False
    head_dim: float | None = None


def whole(name: str, layer: nn.Linear, *, writes: bool = False) -> Matrix:
    """Returns the purpose of a layer that contains a single matrix.

    Args:
        name: name of the matrix.
        layer: the layer.
        writes: whether the layer's output is added to the residual stream.
    """
    return Matrix({name: (0, layer.out_features)}, writes)


def queries_keys_values(queries: int, others: int, head_dim: float) -> Matrix:
    """Returns the purpose of a layer that computes queries, keys and values, in this order.

    Args:
        queries: number of rows of the queries: the number of heads times the head dimension.
        others: number of rows of the keys: the number of key-value heads times the head dimension.
            The values have the same number.
        head_dim: the head dimension; see `Matrix`.
    """
    ends = (0, queries, queries + others, queries + 2 * others)
    pieces = {name: (ends[i], ends[i + 1]) for i, name in enumerate("qkv")}
    return Matrix(pieces, head_dim=head_dim)


def declared(module: nn.Module) -> dict[str, Matrix]:
    """Returns a dict from the names of a model's linear layers to the purposes that the methods
    `matrices()` declare. The names are full, such as `blocks.0.attention.qkv`.

    In a module without this method, the layers named `out`, `down`, `gate`, `up` and `qkv` have the
    purposes of Étude's layers with these names; its other layers are omitted.

    Raises:
        InvalidArguments: a method `matrices()` returns a name that is no linear layer, or row
            ranges that don't fit the layer.
    """
    purposes: dict[str, Matrix] = {}
    checks = Checks()
    for path, owner in module.named_modules():
        own: Mapping[str, Matrix] = owner.matrices() if declares(owner) else _by_name(owner)
        for name, matrix in own.items():
            full = f"{path}.{name}" if path else name
            try:
                layer: Any = module.get_submodule(full)
            except AttributeError:
                layer = None
            expected = "a linear layer, because matrices() of the parent module lists this name"
            if checks.that(isinstance(layer, nn.Linear), full, layer, expected):
                rows = layer.out_features
                expected = f"row ranges that cover the layer's {rows} rows in order, without gaps"
                checks.that(_cover(matrix, rows), full, dict(matrix.pieces), expected)
            purposes[full] = matrix
    checks.done()
    return purposes


def declares(module: Any) -> bool:
    """Returns whether a module declares the purposes of its layers, by a method `matrices`."""
    return callable(getattr(type(module), "matrices", None))


def _cover(matrix: Matrix, rows: int) -> bool:
    row = 0
    for first, last in matrix.pieces.values():
        if first != row or last <= first:
            return False
        row = last
    return row == rows


def _by_name(owner: Any) -> dict[str, Matrix]:
    purposes: dict[str, Matrix] = {}
    for name, layer in owner.named_children():
        if not isinstance(layer, nn.Linear):
            continue
        if name in ("gate", "up", "out", "down"):
            purposes[name] = whole(name, layer, writes=name in ("out", "down"))
        elif name == "qkv" and hasattr(owner, "kv_heads"):
            K = owner.head_dim
            base = K * getattr(owner, "base_ratio", 1.0)
            purposes[name] = queries_keys_values(owner.heads * K, owner.kv_heads * K, base)
    return purposes
