"""What the parts of a model are given and must have.

Shapes: B sequences of T positions, of S with those in a cache, D numbers wide; H heads of K, and G
heads of keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from etude.nn.cache import LayerCache
    from etude.nn.documents import Documents


class Attention(Protocol):
    """Lets each position gather from others: a `torch.nn.Module`, one a layer.

    Args:
        dim: D.
        heads: H.
        bias: whether projections have a bias.
        dropout: a probability.
        head_dim: K, where `model.head_dim` states it.
        base_head_dim: K at muP's base width, where `model.mup_base_dim` states another.
        layer, layers: the number of the block, from 0, and how many there are.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        bias: bool,
        dropout: float,
        head_dim: int | None = None,
        base_head_dim: float | None = None,
        layer: int = 0,
        layers: int = 1,
    ) -> None: ...

    def forward(
        self,
        x: Tensor,
        /,
        *,
        position: Position,
        causal: bool,
        bias: Tensor | None = None,
        cache: LayerCache | None = None,
        positions: int | Tensor | None = None,
        documents: Documents | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Vectors (B, T, D) to what is added to them, (B, T, D).

        Args:
            position: its `rotate` turns queries and keys before they meet.
            causal: whether keys after a query are hidden.
            bias: added to the scores, broadcasts to (B, H, T, S); of booleans: true where a key may
                be seen.
            cache: keys and values of the positions before x; those of x are appended to it.
            positions: where x stands, (B, T), or the first; None is where the cache ends.
            documents: x is packed of them, and each sees itself alone.
            memory: (B, M, D), what x attends to instead of itself.
        """
        ...


class Position(Protocol):
    """Tells a model the order of its tokens, in one of three places: on the embeddings, on queries
    and keys, on the scores. A `torch.nn.Module`, one for all layers, whose `causal` the model sets:
    whether later keys are hidden. `etude.nn.position.Position` does nothing in each place.

    Args:
        dim: D.
        heads: H.
        max_length: the longest sequence that the model is trained on.
        head_dim: K, where `model.head_dim` states it.
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None: ...

    def embed(self, x: Tensor, start: int | Tensor = 0, /) -> Tensor:
        """Embeddings (B, T, D) at positions start, start + 1, ..., or (B, T); same shape."""
        ...

    def rotate(self, q: Tensor, k: Tensor, /, *, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, K) and keys (B, G, T, K) at such positions; same shapes."""
        ...

    def bias(self, T: int, S: int, /, *, like: Tensor) -> Tensor | None:
        """(H, T, S), added to the scores of the last T of S positions, or None."""
        ...

    def reach(self, length: int, /) -> None:
        """Called before positions are told that may be up to `length`."""
        ...

    def at_base_width(self, ratio: float, /) -> None:
        """Called in muP: what was drawn becomes what it would be at the base width."""
        ...


class Norm(Protocol):
    """Normalises vectors: a `torch.nn.Module`, one for each branch of a block, and a last one.

    Args:
        dim: D.
        bias: whether it may have a bias.
        layer, layers: as for `Attention`, within a block.
    """

    def __init__(self, *, dim: int, bias: bool, layer: int = 0, layers: int = 1) -> None: ...

    def forward(self, x: Tensor, /) -> Tensor:
        """Vectors (..., D); same shape."""
        ...


class FeedForward(Protocol):
    """What a block does at each position alone: a `torch.nn.Module`, one a layer.

    Args:
        dim: D.
        bias: whether projections have a bias.
        dropout: a probability.
        layer, layers: as for `Attention`.
    """

    def __init__(
        self, *, dim: int, bias: bool, dropout: float, layer: int = 0, layers: int = 1
    ) -> None: ...

    def forward(self, x: Tensor, /) -> Tensor:
        """Vectors (B, T, D) to what is added to them, (B, T, D)."""
        ...


class Mask(Protocol):
    """Says which keys a query may see. `etude.nn.mask.Mask` lets it see all."""

    causal: bool
    """Whether no query sees a later key."""

    cacheable: bool
    """Whether what a position has computed stays when tokens follow it."""

    everywhere: bool
    """Whether it is the same wherever in a sequence a text begins."""

    def seen(self, T: int, S: int, device: Any = None, /) -> Tensor | None:
        """(T, S), true where one of the last T of S positions may see a key; None where `causal`
        says it all.
        """
        ...


class Block(Protocol):
    """Attention and feed-forward part with their residual connections and norms: a
    `torch.nn.Module`, one a layer.

    Args:
        attention, norm, feedforward: called without arguments, each makes a module.
        cross: makes the attention that reads a memory; only in a decoder that has one.
        layer, layers: as for `Attention`.
    """

    final_norm: bool
    """Whether the last block's output still needs a norm."""

    def __init__(
        self,
        *,
        attention: Any,
        norm: Any,
        feedforward: Any,
        cross: Any = None,
        layer: int = 0,
        layers: int = 1,
    ) -> None: ...

    def forward(self, x: Tensor, /, **context: Any) -> Tensor:
        """Vectors (B, T, D); same shape.

        Args:
            context: what the attention takes beside x; and `across`, what the cross-attention
                takes, where there is a memory.
        """
        ...
