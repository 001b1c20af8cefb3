"""What the linear layers of a model are for, as the modules that own them declare it.

An attention or a feed-forward part has a method `matrices()` that returns a `Matrix` for each of
its linear layers, by the layer's name. Low-rank changes (`etude.nn.lora`), initialisation
(`etude.nn.init`) and muP go by it, so layers may have any name.

Of a module without the method, layers are known by five names: `out` and `down` write into the
residual stream, `gate` and `up` don't, `qkv` makes queries, keys and values.
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
    """What a linear layer is for.

    Attributes:
        pieces: the matrices that lie in it one below the other: of each the first row and the one
            after the last, by name. They cover the layer. A low-rank change names one: `q`, `k`,
            `v` and `out` of an attention, `gate`, `up` and `down` of a feed-forward part.
        writes: whether what it gives is added to the residual stream.
        head_dim: K, where a piece `q` makes queries; at muP's base width.
    """

    pieces: Mapping[str, Rows]
    writes: bool = False
    head_dim: float | None = None


def whole(name: str, layer: nn.Linear, *, writes: bool = False) -> Matrix:
    """A layer that is one matrix."""
    return Matrix({name: (0, layer.out_features)}, writes)


def queries_keys_values(queries: int, others: int, head_dim: float) -> Matrix:
    """A layer that makes all three, in this order.

    Args:
        queries: rows of the queries, H K.
        others: rows of the keys, and of the values, G K.
        head_dim: see `Matrix`.
    """
    ends = (0, queries, queries + others, queries + 2 * others)
    pieces = {name: (ends[i], ends[i + 1]) for i, name in enumerate("qkv")}
    return Matrix(pieces, head_dim=head_dim)


def declared(module: nn.Module) -> dict[str, Matrix]:
    """What is known of a model's linear layers, by their names; the others are nobody's.

    Raises:
        InvalidArguments: a declaration that does not fit its layer.
    """
    found: dict[str, Matrix] = {}
    checks = Checks()
    for path, owner in module.named_modules():
        said: Mapping[str, Matrix] = owner.matrices() if declares(owner) else _by_name(owner)
        for name, matrix in said.items():
            full = f"{path}.{name}" if path else name
            try:
                layer: Any = module.get_submodule(full)
            except AttributeError:
                layer = None
            if checks.that(isinstance(layer, nn.Linear), full, layer, "a linear layer: declared"):
                rows, expected = layer.out_features, f"pieces that cover {layer.out_features} rows"
                checks.that(_cover(matrix, rows), full, dict(matrix.pieces), expected)
            found[full] = matrix
    checks.done()
    return found


def declares(module: Any) -> bool:
    """Whether a module says what its layers are for."""
    return callable(getattr(type(module), "matrices", None))


def _cover(matrix: Matrix, rows: int) -> bool:
    at = 0
    for first, last in matrix.pieces.values():
        if first != at or last <= first:
            return False
        at = last
    return at == rows


def _by_name(owner: Any) -> dict[str, Matrix]:
    found: dict[str, Matrix] = {}
    for name, layer in owner.named_children():
        if not isinstance(layer, nn.Linear):
            continue
        if name in ("gate", "up", "out", "down"):
            found[name] = whole(name, layer, writes=name in ("out", "down"))
        elif name == "qkv" and hasattr(owner, "kv_heads"):
            K = owner.head_dim
            base = K * getattr(owner, "base_share", 1.0)
            found[name] = queries_keys_values(owner.heads * K, owner.kv_heads * K, base)
    return found
