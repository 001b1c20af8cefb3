"""Contracts of the parts of a model: their constructor arguments and methods.

Shapes: B sequences of T positions, of S with those in a cache, and of width D; H heads of width K,
and G heads of keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from etude.nn.cache import LayerCache
    from etude.nn.documents import Documents


class Attention(Protocol):
    """Mixes information between positions: a `torch.nn.Module`, one per layer.

    Args:
        dim: D.
        heads: H.
        bias: whether projections have a bias.
        dropout: dropout probability.
        head_dim: K, if `model.head_dim` is set.
        base_head_dim: K at muP's base width, if `model.mup_base_dim` is set to another width.
        layer, layers: index of the block, from 0, and number of blocks.
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
        """Maps vectors (B, T, D) to the vectors that are added to them, (B, T, D).

        Args:
            position: its `rotate` is applied to queries and keys before the scores are computed.
            causal: whether keys after a query are hidden.
            bias: added to the scores, broadcasts to (B, H, T, S). If boolean: true where a key is
                visible.
            cache: keys and values of the positions before x; those of x are appended to it.
            positions: positions of x, (B, T), or the first one; None continues after the cache.
            documents: the documents packed in x, which don't attend to each other.
            memory: (B, M, D), the sequence that x attends to instead of itself.
        """
        ...


class Position(Protocol):
    """Encodes the order of tokens in the embeddings, the queries and keys, or the scores.

    A `torch.nn.Module`, shared by all layers. The model sets its attribute `causal`: whether later
    keys are hidden. The methods of `etude.nn.position.Position` change nothing.

    Args:
        dim: D.
        heads: H.
        max_length: length of the longest training sequence.
        head_dim: K, if `model.head_dim` is set.
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None: ...

    def embed(self, x: Tensor, start: int | Tensor = 0, /) -> Tensor:
        """Maps embeddings (B, T, D) to the same shape.

        Args:
            start: position of the first embedding; or positions (B, T).
        """
        ...

    def rotate(self, q: Tensor, k: Tensor, /, *, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Maps queries (B, H, T, K) and keys (B, G, T, K) at these positions to the same shapes."""
        ...

    def bias(self, T: int, S: int, /, *, like: Tensor) -> Tensor | None:
        """Returns the bias (H, T, S) of the scores of the last T of S positions, or None."""
        ...

    def reach(self, length: int, /) -> None:
        """Prepares for positions below `length`; called before explicit positions are passed."""
        ...

    def at_base_width(self, ratio: float, /) -> None:
        """Rescales the initial weights to those of the base width; called in muP."""
        ...


class Norm(Protocol):
    """Normalises vectors: a `torch.nn.Module`, one per branch of a block, and one for the output.

    Args:
        dim: D.
        bias: whether it may have a bias.
        layer, layers: as for `Attention`, within a block.
    """

    def __init__(self, *, dim: int, bias: bool, layer: int = 0, layers: int = 1) -> None: ...

    def forward(self, x: Tensor, /) -> Tensor:
        """Maps vectors (..., D) to the same shape."""
        ...


class FeedForward(Protocol):
    """Transforms each position independently: a `torch.nn.Module`, one per layer.

    Args:
        dim: D.
        bias: whether projections have a bias.
        dropout: dropout probability.
        layer, layers: as for `Attention`.
    """

    def __init__(
        self, *, dim: int, bias: bool, dropout: float, layer: int = 0, layers: int = 1
    ) -> None: ...

    def forward(self, x: Tensor, /) -> Tensor:
        """Maps vectors (B, T, D) to the vectors that are added to them, (B, T, D)."""
        ...


class Mask(Protocol):
    """Visibility of keys to queries. `etude.nn.mask.Mask` hides no keys."""

    causal: bool
    """Whether no query sees a later key."""

    cacheable: bool
    """Whether a position's output is independent of the tokens that follow."""

    everywhere: bool
    """Whether the mask is the same at any starting position of a text in a sequence."""

    def seen(self, T: int, S: int, device: Any = None, /) -> Tensor | None:
        """Returns a mask (T, S), true where one of the last T of S positions may see a key.

        None means that `causal` alone describes the mask.
        """
        ...


class Block(Protocol):
    """Attention and feed-forward part with their residual connections and norms.

    A `torch.nn.Module`, one per layer.

    Args:
        attention, norm, feedforward: factories without arguments; each call returns a module.
        cross: factory of the cross-attention; only in the decoder of an encoder-decoder.
        layer, layers: as for `Attention`.
    """

    final_norm: bool
    """Whether the output of the last block needs a final norm."""

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
        """Maps vectors (B, T, D) to the same shape.

        Args:
            context: keyword arguments of the attention; and `across`, those of the cross-attention,
                if there is a memory.
        """
        ...
