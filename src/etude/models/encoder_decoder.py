"""The encoder-decoder Transformer: one sequence to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import Checks
from etude.models.body import Body
from etude.models.heads import logits
from etude.models.mup import check_initialise, widths
from etude.nn.cache import KVCache
from etude.nn.documents import Documents
from etude.nn.init import Initialise, Xavier
from etude.nn.mask import Bidirectional, Mask
from etude.nn.parts import Part
from etude.optim.widths import Widths


class EncoderDecoder(nn.Module):
    """An encoder reads the source; a decoder, whose blocks attend to it, writes the target.

    With sinusoidal positions, layer norm, ReLU, post-norm blocks and scaled embeddings this is the
    original Transformer (Vaswani et al. 2017); with relative biases, RMS norm and no scale of the
    scores, T5 (Raffel et al. 2019, arXiv:1910.10683). Source and target share one embedding.

    Args:
        vocab_size, heads, dim, max_length, attention, position, norm, feedforward, block, dropout,
            bias: see `Decoder`; encoder and decoder each build parts of their own.
        layers: the number of blocks of the encoder.
        mask: the decoder's.
        decoder_layers: the number of blocks of the decoder; None is `layers`.
        tie_embeddings: whether the output projection is the embedding's transpose.
        logit_scale: the decoder's output is multiplied by it (T5: D^-1/2 where tied).
        logit_bias: whether the logits have a bias (Marian).
        start_token: what a target begins with before its first token.
        head_dim, scale_embeddings, embedding_norm, recompute, mup_base_dim: see `Body`. In muP
            the `logit_scale` that is stated is that of the base width.
        initialise: as for `Decoder`; None is `Xavier`.

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
        decoder_layers: int | None = None,
        head_dim: int | None = None,
        scale_embeddings: bool = False,
        embedding_norm: bool = False,
        recompute: bool = False,
        logit_scale: float = 1.0,
        logit_bias: bool = False,
        start_token: int = 0,
        initialise: Initialise | None = None,
        mup_base_dim: int | None = None,
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.that(start_token >= 0, "start_token", start_token, "a token's id")
        if decoder_layers is not None:
            checks.positive(decoder_layers=decoder_layers)
        checks.positive(logit_scale=logit_scale)
        checks.done()
        shared: dict[str, Any] = {
            "vocab_size": vocab_size, "heads": heads, "dim": dim, "max_length": max_length,
            "attention": attention, "position": position, "norm": norm, "feedforward": feedforward,
            "block": block, "dropout": dropout, "bias": bias, "head_dim": head_dim,
            "scale_embeddings": scale_embeddings, "embedding_norm": embedding_norm,
            "recompute": recompute, "mup_base_dim": mup_base_dim,
        }  # fmt: skip
        self.encoder = Body(**shared, layers=layers, mask=Bidirectional)
        self.decoder = Body(
            **shared,
            layers=layers if decoder_layers is None else decoder_layers,
            mask=mask,
            cross=True,
            embedding=self.encoder.embedding,
        )
        self.mup = self.decoder.mup
        check_initialise(self.mup, initialise)
        vocabulary = self.embedding.num_embeddings
        self.head = None if tie_embeddings else nn.Linear(dim, vocabulary, bias=False)
        self.logit_bias = nn.Parameter(torch.zeros(vocabulary)) if logit_bias else None
        self.logit_scale = logit_scale if self.mup is None else logit_scale / self.mup.ratio
        self.start_token = start_token
        self.max_length = max_length
        (initialise or Xavier())(self, layers)

    @property
    def mask(self) -> Any:
        """The decoder's."""
        return self.decoder.mask

    @property
    def masks(self) -> dict[str, Mask]:
        """The decoder's; see `Body.masks`."""
        return self.decoder.masks

    @property
    def embedding(self) -> nn.Embedding:
        """Of source and target."""
        shared = self.encoder.embedding
        assert isinstance(shared, nn.Embedding)
        return shared

    def encode(
        self, source: Tensor, keep: Tensor | None = None, documents: Documents | None = None
    ) -> Tensor:
        """Token ids (B, M) to the vectors that the decoder reads (B, M, D).

        Args:
            keep: (B, M), false where a token is padding.
            documents: the sources are packed of them.
        """
        return self.encoder.hidden(source, keep=keep, documents=documents)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_keep: Tensor | None = None,
        target_keep: Tensor | None = None,
        source_documents: Documents | None = None,
        target_documents: Documents | None = None,
    ) -> Tensor:
        """Source (B, M) and target (B, T), which begins with the start token, to logits (B, T, V)
        of the token that follows each of the target's.

        Args:
            source_keep: (B, M), false where a token is padding.
            target_keep: (B, T), likewise.
            source_documents, target_documents: sources and targets are packed of them; a target
                reads the source with its number alone.
        """
        memory = self.encode(source, source_keep, source_documents)
        x = self.decoder.hidden(
            target,
            keep=target_keep,
            documents=target_documents,
            memory=memory,
            memory_keep=source_keep,
            memory_documents=source_documents,
        )
        return self._logits(x)

    def reading(self, source: Tensor, keep: Tensor | None = None) -> Reading:
        """What generates the target of a source (B, M).

        Args:
            keep: (B, M), false where a token is padding.
        """
        return Reading(self, self.encode(source, keep), keep)

    def widths(self) -> Widths | None:
        """See `Body.widths`."""
        return widths(self)

    def num_parameters(self) -> int:
        """All of them, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _logits(self, x: Tensor) -> Tensor:
        if self.logit_scale != 1:
            x = x * self.logit_scale
        return logits(x, self.embedding if self.head is None else self.head, bias=self.logit_bias)


class Reading:
    """A decoder that has a source before it: tokens and a cache to logits, as a `Decoder`.

    Args:
        module: the model.
        memory: (B, M, D), the encoder's output.
        keep: (B, M), false where the source is padding.
    """

    def __init__(self, module: EncoderDecoder, memory: Tensor, keep: Tensor | None) -> None:
        self.module, self.memory, self.keep = module, memory, keep

    @property
    def window(self) -> int:
        """The number of target tokens that the next one may depend on."""
        return self.module.max_length

    def new_cache(self, batch: int, length: int) -> KVCache:
        """See `Body.new_cache`."""
        return self.module.decoder.new_cache(batch, length)

    def __call__(
        self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False, **more: Any
    ) -> Tensor:
        """Target ids (B', T) to logits (B', T, V), or (B', 1, V) of the last position.

        B' is a multiple of B: the sequences of one source stand together. With a cache, the memory
        is read at its first call, and later ones follow the cache.
        """
        known = cache is not None and cache.across[0].memory is not None
        memory, keep = (None, None) if known else (self.memory, self.keep)
        times = tokens.shape[0] // self.memory.shape[0]
        if memory is not None and times > 1:
            memory = memory.repeat_interleave(times, dim=0)
            keep = None if keep is None else keep.repeat_interleave(times, dim=0)
        x = self.module.decoder.hidden(
            tokens, cache, memory=memory, memory_keep=keep, last_only=last_only, **more
        )
        return self.module._logits(x)
