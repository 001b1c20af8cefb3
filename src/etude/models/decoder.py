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


class Decoder(Body):
    """Decoder-only Transformer: embedding, position, a stack of blocks, and logits over the
    vocabulary.

    With learned positions, layer norm, tanh-GELU and pre-norm blocks this is GPT-2 (Radford et al.
    2019); with rotary positions, RMS norm and SwiGLU, Llama (Touvron et al. 2023,
    arXiv:2302.13971). The parts are factories: a class, a `functools.partial` of one, or any
    callable that accepts the keyword arguments below. One that names `layer` or `layers` also
    receives the index of its block, from 0, or the number of blocks (`etude.nn.parts`).

    Args:
        vocab_size: V; null in a config is replaced by the tokenizer's vocabulary size.
        layers: number of blocks.
        heads: H, which divides D.
        dim: D.
        max_length: length of the longest training sequence.
        attention: called once per layer with dim, heads, bias, dropout.
        position: called once with dim, heads, max_length; all layers share it.
        norm: called for each branch, and for the output, with dim, bias.
        feedforward: called once per layer with dim, bias, dropout.
        mask: called once without arguments; see `etude.nn.mask.Mask`.
        block: called once per layer with attention, norm, feedforward, which have no arguments.
        dropout: dropout probability, after the embedding and at the end of each branch.
        bias: whether projections and norms have a bias.
        tie_embeddings: whether the output projection is the embedding's transpose (Press & Wolf
            2016, arXiv:1608.05859).
        head_dim, scale_embeddings, round_embedding_scale, embedding_norm, recompute, mup_base_dim:
            see `Body`.
        pattern: names of kinds for the first layers, repeated for the others: [local, global]
            alternates local and global layers; None makes all layers the same.
        kinds: parts that the layers of each kind have instead of those above, by the kind's name.
        logit_softcap: c, limits the logits to (-c, c), by c tanh(logit / c) (Gemma Team 2024,
            arXiv:2408.00118, section 2).
        initialise: fills the weights, given the model and the number of layers (`etude.nn.init`);
            None is `GPT2`.

    Raises:
        InvalidArguments: sizes that don't fit together, and errors of the parts.
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
        """Maps token ids (B, T) to logits (B, T, V), or (B, 1, V) of the last position.

        Args:
            cache: keys and values of the tokens before `tokens`; those of `tokens` are appended.
            keep: (B, S), false where a token, or one in the cache, is padding.
            positions: (B, T), explicit positions of the tokens.
            documents: the packed documents.
            last_only: whether to compute the logits of the last position only.

        Raises:
            InvalidArguments: a sequence longer than the position part supports.
        """
        x = self.hidden(
            tokens, cache, keep=keep, positions=positions, documents=documents, last_only=last_only
        )
        output = self.embedding if self.head is None else self.head
        return logits(x, output, self.logit_softcap, scale=self.logit_scale)
