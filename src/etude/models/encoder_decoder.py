"""The encoder-decoder Transformer, for sequence-to-sequence tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.activations.inspectable import Inspectable
from etude.errors import Checks
from etude.models.body import Body
from etude.models.heads import logits
from etude.models.mup import check_initialise, widths
from etude.nn.cache import KVCache
from etude.nn.documents import Documents
from etude.nn.init import Initialise, Xavier
from etude.nn.mask import Bidirectional, Mask
from etude.nn.parts import Part
from etude.nn.sites import Tap, site
from etude.optim.widths import Widths


class EncoderDecoder(Inspectable, nn.Module):
    """Encoder-decoder Transformer: an encoder of the source, and a decoder of the target with
    cross-attention to the encoder's output.

    With sinusoidal positions, layer norm, ReLU, post-norm blocks and scaled embeddings this is the
    original Transformer (Vaswani et al. 2017); with relative biases, RMS norm and no scale of the
    scores, T5 (Raffel et al. 2019, arXiv:1910.10683). Source and target share one embedding;
    otherwise encoder and decoder have modules of their own.

    Args:
        vocab_size, heads, dim, max_length, attention, position, norm, feedforward, block, dropout,
            bias: see `Decoder`.
        layers: number of blocks of the encoder.
        mask: mask of the decoder.
        decoder_layers: number of blocks of the decoder; None uses `layers`.
        tie_embeddings: whether the output projection is the embedding's transpose.
        logit_scale: factor of the decoder's output vectors before the projection to logits; D^-1/2
            in T5 with tied embeddings. In muP, the factor at the base width.
        logit_bias: whether the logits have a bias, as in Marian.
        start_token: id of the token before a target's first token.
        head_dim, scale_embeddings, embedding_norm, recompute, mup_base_dim: see `Body`.
        initialise: function of the model and the number of layers that fills the weights
            (`etude.nn.init`). If None, `Xavier()` is used.

    Raises:
        InvalidArguments: the sizes are inconsistent, or a module rejects its arguments.
    """

    tap: Tap | None = None

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
        checks.that(start_token >= 0, "start_token", start_token, "a token id (0 or more)")
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
        """The decoder's mask."""
        return self.decoder.mask

    @property
    def masks(self) -> dict[str, Mask]:
        """The decoder's masks; see `Body.masks`."""
        return self.decoder.masks

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding that source and target share."""
        shared = self.encoder.embedding
        assert isinstance(shared, nn.Embedding)
        return shared

    @property
    def shown_sizes(self) -> dict[str, int]:
        """The sizes of the encoder, as `Body.shown_sizes`, and the decoder's number of layers."""
        sizes = self.encoder.shown_sizes
        return {
            "encoder layers": sizes.pop("layers"),
            "decoder layers": len(self.decoder.blocks),
        } | sizes

    def encode(
        self, source: Tensor, keep: Tensor | None = None, documents: Documents | None = None
    ) -> Tensor:
        """Maps source ids (B, M) to vectors (B, M, D), to which the decoder's cross-attention
        attends.

        Args:
            keep: (B, M), false where a token is padding.
            documents: the documents packed in `source`.
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
        """Maps source ids (B, M) and target ids (B, T), which begin with the start token, to the
        logits (B, T, V) of the token after each target token.

        Args:
            source_keep: (B, M), false where a source token is padding.
            target_keep: (B, T), false where a target token is padding.
            source_documents, target_documents: the documents packed in `source` and in `target`;
                document i of `target` attends only to document i of `source`.
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

    def reading(self, source: Tensor, keep: Tensor | None = None) -> ConditionedDecoder:
        """Encodes source ids of shape (B, M), and returns a decoder that generates the target of
        each source.

        Args:
            keep: (B, M), false where a token is padding.
        """
        return ConditionedDecoder(self, self.encode(source, keep), keep)

    def widths(self) -> Widths | None:
        """Returns the width relative to muP's base width, and how the size of each parameter grows
        with the width; None in the standard parametrisation. See `Body.widths`.
        """
        return widths(self)

    def num_parameters(self) -> int:
        """Returns the number of parameters; a shared parameter counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _logits(self, x: Tensor) -> Tensor:
        if self.logit_scale != 1:
            x = x * self.logit_scale
        y = logits(x, self.embedding if self.head is None else self.head, bias=self.logit_bias)
        return site(self, "logits", y)

    @property
    def own_sites(self) -> dict[str, str]:
        """The model's output; see `etude.nn.sites`."""
        return {"logits": "B T V"}


class ConditionedDecoder:
    """Decoder with an encoded source: maps tokens and a cache to logits, like a `Decoder`.

    Args:
        module: the model.
        memory: (B, M, D), the encoder's output.
        keep: (B, M), false where the source is padding; None without padding.
    """

    def __init__(self, module: EncoderDecoder, memory: Tensor, keep: Tensor | None) -> None:
        self.module, self.memory, self.keep = module, memory, keep

    @property
    def window(self) -> int:
        """Largest number of previous target tokens that the next target token depends on."""
        return self.module.max_length

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Returns an empty cache for the decoder; see `Body.new_cache`."""
        return self.module.decoder.new_cache(batch, length)

    def __call__(
        self, tokens: Tensor, cache: KVCache | None = None, *, last_only: bool = False, **more: Any
    ) -> Tensor:
        """Maps target ids (N, T) to logits (N, T, V); with `last_only`, to those of the last
        position, (N, 1, V).

        N is a multiple of the number of source sequences; the target sequences of one source are
        next to each other. With a cache, the first call computes keys and values of the encoder's
        output, and later calls use the cached ones. The arguments `more` are passed to
        `Body.hidden`.
        """
        is_cached = cache is not None and cache.across[0].memory is not None
        memory, keep = (None, None) if is_cached else (self.memory, self.keep)
        copies = tokens.shape[0] // self.memory.shape[0]
        if memory is not None and copies > 1:
            memory = memory.repeat_interleave(copies, dim=0)
            keep = None if keep is None else keep.repeat_interleave(copies, dim=0)
        x = self.module.decoder.hidden(
            tokens, cache, memory=memory, memory_keep=keep, last_only=last_only, **more
        )
        return self.module._logits(x)
