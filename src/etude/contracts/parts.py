"""Protocols of a model's components: the constructor arguments and methods that Étude uses.

Sizes in shapes: B sequences; T positions of the input; S positions, including those in a cache;
vectors of width D; H query heads and G key and value heads, all with head dimension K.
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
        head_dim: K, the head dimension; passed only if `model.head_dim` is set.
        base_head_dim: K of muP's base model, whose width is `model.mup_base_dim`; passed only if
            this width is set and differs from D.
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
        """Returns the attention's output for the input vectors x; both have the shape (B, T, D).

        The block adds the output to its residual stream.

        Args:
            position: module whose method `rotate` is applied to queries and keys before the scores
                are computed.
            causal: whether the keys after a query are hidden from it.
            bias: tensor that is added to the scores of T queries and S keys; its shape can be
                broadcast to (B, H, T, S). If boolean, it is a mask: true where a key is visible.
            cache: keys and values of the positions before x. Those of x are appended to the cache.
            positions: positions of x, (B, T), or its first position; if None, x follows the cache,
                or starts at position 0 without a cache.
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
        head_dim: K, the head dimension; passed only if `model.head_dim` is set.
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
        """Returns the queries q and keys k, rotated according to their positions.

        The shapes of q and k, (B, H, T, K) and (B, G, T, K), don't change.

        Args:
            start: position of the first query and key, or all positions, of shape (B, T).
        """
        ...

    def bias(self, T: int, S: int, /, *, like: Tensor) -> Tensor | None:
        """Returns a bias of shape (H, T, S) for H heads, which is added to the attention scores.

        The S keys are at positions 0 to S - 1, the T queries at the last T of these positions. None
        means no bias.

        Args:
            like: a tensor with the device and the dtype of the bias.
        """
        ...

    def reach(self, length: int, /) -> None:
        """Prepares the module for positions 0 to `length` - 1, for example by extending a table.

        Called before `embed` and `rotate` if these get the positions of all tokens as a tensor.
        """
        ...

    def at_base_width(self, ratio: float, /) -> None:
        """Rescales the initial weights to the size that they have in muP's base model.

        Args:
            ratio: the model's width divided by the width of the base model, `model.mup_base_dim`.
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
        """Returns the output for the input vectors x; both have the shape (B, T, D).

        The block adds the output to its residual stream.
        """
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

        The S keys are at positions 0 to S - 1, the T queries at the last T of these positions. None
        means that this object's attribute `causal` alone describes the mask: if it is true, the
        keys after a query are hidden, otherwise no key.

        Args:
            device: device of the mask; None for torch's default device.
        """
        ...


class Block(Protocol):
    """Block, of which a model has a stack: a `torch.nn.Module` with attention, a feed-forward
    module, their residual connections and norms.

    Args:
        attention, norm, feedforward: functions without arguments; each call returns a new module.
        cross: function that returns a cross-attention module; passed only in the decoder of an
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
        """Maps the vectors x, of shape (B, T, D), to vectors of the same shape.

        Args:
            context: keyword arguments for the method `forward` of the attention. In a decoder with
                cross-attention, the additional argument `across` is a dict with the keyword
                arguments for the cross-attention.
        """
        ...
