"""The decoder-only Transformer: a body with a language-model head."""

from __future__ import annotations

from torch import Tensor, nn

from etude.errors import Checks
from etude.models.body import Body
from etude.models.heads import logits
from etude.models.kinds import LayerKind
from etude.models.mup import check_initialise
from etude.nn.cache import KVCache
from etude.nn.documents import Documents
from etude.nn.init import GPT2, Initialise
from etude.nn.parts import Part
from etude.nn.sites import site


class Decoder(Body):
    """Decoder-only Transformer: embedding, position, a stack of blocks, and logits over the
    vocabulary.

    With learned positions, layer norm, tanh-GELU and pre-norm blocks this is GPT-2 (Radford et al.
    2019); with rotary positions, RMS norm and SwiGLU, Llama (Touvron et al. 2023,
    arXiv:2302.13971).

    `attention`, `position`, `norm`, `feedforward`, `mask` and `block` are factories: classes,
    `functools.partial` objects, or other callables that accept the keyword arguments listed below.
    A factory with a parameter `layer` also receives the index of its block, from 0; one with a
    parameter `layers` receives the number of blocks (`etude.nn.parts`).

    Args:
        vocab_size: V, the size of the vocabulary; null in a config uses that of the tokenizer.
        layers: number of blocks.
        heads: H, the number of attention heads, which divides D.
        dim: D, the width of the model.
        max_length: length of the longest training sequence.
        attention: called once per layer with dim, heads, bias, dropout.
        position: called once with dim, heads, max_length; all layers share it.
        norm: called with dim, bias, for each residual branch and for the output.
        feedforward: called once per layer with dim, bias, dropout.
        mask: called once without arguments; see `etude.nn.mask.Mask`.
        block: called once per layer with attention, norm, feedforward: functions without arguments
            that build these modules.
        dropout: dropout probability after the embedding and at the end of each residual branch.
        bias: whether projections and norms have a bias.
        tie_embeddings: whether the output projection is the embedding's transpose (Press & Wolf
            2016, arXiv:1608.05859).
        head_dim, scale_embeddings, round_embedding_scale, embedding_norm, recompute, mup_base_dim:
            see `Body`.
        pattern: names of layer kinds, repeated over the layers: [local, global] alternates local
            and global layers. None makes all layers the same.
        kinds: layer kinds by name. A layer kind sets the modules that its layers use instead of
            those above.
        logit_softcap: c; if set, each logit is replaced by c tanh(logit / c), which is between -c
            and c (Gemma Team 2024, arXiv:2408.00118, section 2).
        initialise: function of the model and the number of layers that fills the weights
            (`etude.nn.init`). If None, `GPT2()` is used.

    Raises:
        InvalidArguments: the sizes are inconsistent, or a module rejects its arguments.
    """

    embedding: nn.Embedding

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
        head_dim: int | None = None,
        scale_embeddings: bool = False,
        embedding_norm: bool = False,
        recompute: bool = False,
        logit_softcap: float | None = None,
        initialise: Initialise | None = None,
        mup_base_dim: int | None = None,
        pattern: list[str] | None = None,
        kinds: dict[str, LayerKind] | None = None,
        round_embedding_scale: bool = False,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size, layers=layers, heads=heads, dim=dim, max_length=max_length,
            attention=attention, position=position, norm=norm, feedforward=feedforward,
            mask=mask, block=block, dropout=dropout, bias=bias, head_dim=head_dim,
            scale_embeddings=scale_embeddings, embedding_norm=embedding_norm, recompute=recompute,
            mup_base_dim=mup_base_dim, pattern=pattern, kinds=kinds,
            round_embedding_scale=round_embedding_scale,
        )  # fmt: skip
        if logit_softcap is not None:
            checks = Checks()
            checks.positive(logit_softcap=logit_softcap)
            checks.done()
        check_initialise(self.mup, initialise)
        self.logit_softcap = logit_softcap
        self.logit_scale = 1.0 if self.mup is None else 1 / self.mup.ratio
        vocabulary = self.embedding.num_embeddings
        self.head = None if tie_embeddings else nn.Linear(dim, vocabulary, bias=False)
        (initialise or GPT2())(self, layers)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        *,
        keep: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Documents | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Maps token ids (B, T) to logits (B, T, V); with `last_only`, to those of the last
        position, (B, 1, V).

        Args:
            cache: keys and values of the tokens before `tokens`; those of `tokens` are appended.
            keep: (B, S), false where a token, in the cache or in `tokens`, is padding; S is the
                number of tokens in both.
            positions: (B, T), explicit positions of the tokens.
            documents: the documents packed in `tokens`.
            last_only: whether to compute the logits of the last position only.

        Raises:
            InvalidArguments: the sequence is longer than the position module supports.
        """
        x = self.hidden(
            tokens, cache, keep=keep, positions=positions, documents=documents, last_only=last_only
        )
        return site(self, "logits", self._logits(x))

    def read_out(self, x: Tensor) -> Tensor:
        """Returns the logits (B, T, V) for vectors (B, T, D) as the last block returns them."""
        return self._logits(self.norm(x))

    def _logits(self, x: Tensor) -> Tensor:
        output = self.embedding if self.head is None else self.head
        return logits(x, output, self.logit_softcap, scale=self.logit_scale)

    @property
    def own_sites(self) -> dict[str, str]:
        return super().own_sites | {"logits": "B T V"}
