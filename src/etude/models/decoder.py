"""The decoder-only Transformer: a language model's body and head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from etude.errors import Checks, InvalidArguments, Problem
from etude.nn.attention import check_divides
from etude.nn.cache import KVCache
from etude.nn.init import gpt2_
from etude.nn.linear import linear
from etude.nn.mask import hide_later

Part = Callable[..., Any]


class Decoder(nn.Module):
    """Embedding, position, a stack of blocks, and logits over the vocabulary.

    With learned positions, layer norm, tanh-GELU and pre-norm blocks this is GPT-2 (Radford et al.
    2019); with rotary positions, RMS norm and SwiGLU, Llama (Touvron et al. 2023,
    arXiv:2302.13971). The parts are factories: a class, a `functools.partial` of one,
    or any callable that takes the keyword arguments named below.

    Args:
        vocab_size: V; a config's null is filled with the tokenizer's before this is called.
        layers: the number of blocks.
        heads: H, which divides D.
        dim: D.
        max_length: the longest sequence that the model is trained on.
        attention: called once a layer with dim, heads, bias, dropout.
        position: called once with dim, heads, max_length; all layers share it.
        norm: called for each branch, and for the output, with dim, bias.
        feedforward: called once a layer with dim, bias, dropout.
        mask: called once without arguments; its `causal` says whether later keys are hidden.
        block: called once a layer with attention, norm, feedforward, which take no arguments.
        dropout: probability, after the embedding and at the end of each branch.
        bias: whether projections and norms have a bias.
        tie_embeddings: whether the output projection is the embedding's transpose (Press & Wolf
            2016, arXiv:1608.05859).

    Raises:
        InvalidArguments: sizes that don't fit together, and whatever a part finds wrong.
    """

    def __init__(
        self,
        *,
        vocab_size: int | None,
        layers: int,
        heads: int,
        dim: int,
        max_length: int,
        attention: Part,
        position: Part,
        norm: Part,
        feedforward: Part,
        mask: Part,
        block: Part,
        dropout: float = 0.0,
        bias: bool = True,
        tie_embeddings: bool = True,
    ) -> None:
        super().__init__()
        checks = Checks()
        vocabulary = vocab_size or 0
        checks.that(vocabulary > 0, "vocab_size", vocab_size, "a positive number")
        checks.positive(layers=layers, dim=dim, max_length=max_length)
        check_divides(checks, "heads", heads, "dim", dim)
        checks.probability(dropout=dropout)
        checks.done()

        self.max_length = max_length
        self.mask = mask()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = position(dim=dim, heads=heads, max_length=max_length)
        self.dropout = nn.Dropout(dropout)
        new_norm = partial(norm, dim=dim, bias=bias)
        blocks = [
            block(
                attention=partial(attention, dim=dim, heads=heads, bias=bias, dropout=dropout),
                norm=new_norm,
                feedforward=partial(feedforward, dim=dim, bias=bias, dropout=dropout),
            )
            for _ in range(layers)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = new_norm() if blocks[-1].final_norm else nn.Identity()
        self.head = None if tie_embeddings else nn.Linear(dim, vocabulary, bias=False)
        gpt2_(self, layers)

    def forward(
        self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False
    ) -> Tensor:
        """Token ids (B, T) to logits (B, T, V), or (B, 1, V) of the last position.

        Args:
            cache: what came before `tokens`; they are appended to it.
            last_only: skip the logits that choosing the next token doesn't need.

        Raises:
            InvalidArguments: for a sequence longer than the position part can represent.
        """
        T = tokens.shape[1]
        start = 0 if cache is None else cache.length
        x = self.dropout(self.position.embed(self.embedding(tokens), start))  # (B, T, D)
        causal, bias = self.mask.causal, self.position.bias(T, start + T, like=x)
        if causal and T > 1 and bias is not None:
            # Once, and not again in each layer.
            causal, bias = False, hide_later(bias, T, start + T)
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                position=self.position,
                causal=causal,
                bias=bias,
                cache=None if cache is None else cache.layers[i],
            )
        x = self.norm(x[:, -1:] if last_only else x)
        return linear(x, self.embedding.weight) if self.head is None else self.head(x)

    @property
    def window(self) -> int:
        """The number of tokens that the next one may depend on when generating."""
        return self.max_length

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` sequences of up to `length` tokens.

        Raises:
            InvalidArguments: for a bidirectional model: what it computes at a position changes
                with the tokens that follow, so nothing can be kept.
        """
        if not self.mask.causal:
            raise InvalidArguments(Problem("mask", "a causal mask; a cache needs one"))
        return KVCache(len(self.blocks), batch, length)

    def num_parameters(self) -> int:
        """All of them, a tied embedding once."""
        return sum(parameter.numel() for parameter in self.parameters())
