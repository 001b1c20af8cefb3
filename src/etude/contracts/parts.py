"""Contracts of a model's components: their constructor arguments and methods.

Sizes in shapes: B sequences; T positions of the input; S positions, including those in a cache;
vectors of width D; H query heads and G key and value heads, all of width K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from etude.nn.cache import LayerCache
    from etude.nn.documents import Documents


class Attention(Protocol):
    """Attention of a layer: a `torch.nn.Module` that mixes information between positions.

    Args:
        dim: D, the width of the vectors.
        heads: H, the number of heads.
        bias: whether projections have a bias.
        dropout: dropout probability.
        head_dim: K, the width of a head, if `model.head_dim` is set.
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
            position: module whose method `rotate` is applied to queries and keys before the scores
                are computed.
            causal: whether the keys after a query are hidden from it.
            bias: tensor that is added to the scores; its shape broadcasts to (B, H, T, S). If
                boolean, it is a mask instead: true where a key is visible.
            cache: keys and values of the positions before x. Those of x are appended to the cache.
            positions: positions of x, (B, T), or its first position; if None, x follows the cache.
            documents: the documents packed in x, which don't attend to each other.
            memory: vectors (B, M, D) of a second sequence, to which x attends instead of itself.
        """
        ...


class Position(Protocol):
    """Position encoding: a `torch.nn.Module`, shared by all layers, that encodes the order of the
    tokens in the embeddings, in the queries and keys, or in the scores.

    The model sets the module's attribute `causal`: whether the keys after a query are hidden. The
    base class `etude.nn.position.Position` defines all methods; they change nothing.

    Args:
        dim: D, the width of the vectors.
        heads: H, the number of heads.
        max_length: length of the longest training sequence.
        head_dim: K, the width of a head, if `model.head_dim` is set.
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None: ...

    def embed(self, x: Tensor, start: int | Tensor = 0, /) -> Tensor:
        """Returns the embeddings x (B, T, D) with their positions encoded in them; same shape.

        Args:
            start: position of the first embedding, or the positions of all embeddings, of shape
                (B, T).
        """
        ...

    def rotate(self, q: Tensor, k: Tensor, /, *, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Returns the queries (B, H, T, K) and keys (B, G, T, K), rotated according to their
        positions; the shapes are the same.

        Args:
            start: position of the first query and key, or all positions, of shape (B, T).
        """
        ...

    def bias(self, T: int, S: int, /, *, like: Tensor) -> Tensor | None:
        """Returns a bias of shape (H, T, S), which is added to the attention scores.

        The T queries are at the last T of the S positions. None means no bias.

        Args:
            like: a tensor with the device and the dtype of the bias.
        """
        ...

    def reach(self, length: int, /) -> None:
        """Prepares the module for all positions below `length`, for example by extending a table.

        Called before the positions of all tokens are passed to `embed` and `rotate` as a tensor.
        """
        ...

    def at_base_width(self, ratio: float, /) -> None:
        """Rescales the initial weights to the size that they have at muP's base width.

        Args:
            ratio: the width D divided by the base width.
        """
        ...


class Norm(Protocol):
    """Norm: a `torch.nn.Module` that normalises vectors.

    Each residual branch of a block has a norm; another norm follows the last block.

    Args:
        dim: D, the width of the vectors.
        bias: whether the norm may have a bias.
        layer, layers: as for `Attention`; passed only to norms in a block.
    """

    def __init__(self, *, dim: int, bias: bool, layer: int = 0, layers: int = 1) -> None: ...

    def forward(self, x: Tensor, /) -> Tensor:
        """Returns the normalised vectors; x and the result have the shape (..., D)."""
        ...


class FeedForward(Protocol):
    """Feed-forward module of a layer: a `torch.nn.Module` that transforms each position separately.

    Args:
        dim: D, the width of the vectors.
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
    """Mask of the attention, which determines the keys that each query can see.

    The base class `etude.nn.mask.Mask` hides no keys.
    """

    causal: bool
    """Whether the keys after a query are hidden from it."""

    cacheable: bool
    """Whether the output at each position is independent of the tokens after the position."""

    everywhere: bool
    """Whether the mask of a text does not depend on where the text starts in a sequence."""

    def seen(self, T: int, S: int, device: Any = None, /) -> Tensor | None:
        """Returns a mask of shape (T, S), true where a query can see a key.

        The keys are at all S positions, the T queries at the last T of them. None means that the
        attribute `causal` alone describes the mask.
        """
        ...


class Block(Protocol):
    """Block of a layer: a `torch.nn.Module` with attention, a feed-forward module, their residual
    connections and norms.

    Args:
        attention, norm, feedforward: functions without arguments; each call returns a new module.
        cross: function that returns the cross-attention; passed only in the decoder of an
            encoder-decoder.
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
        """Maps vectors (B, T, D) to vectors of the same shape.

        Args:
            context: keyword arguments of the attention. In a decoder with cross-attention, the
                argument `across` is a dict with the keyword arguments of the cross-attention.
        """
        ...
