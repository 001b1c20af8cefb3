"""The encoder-only Transformer: every position attends to every other."""

from __future__ import annotations

from torch import Tensor, nn

from etude.models.body import Body
from etude.models.kinds import LayerKind
from etude.models.mup import check_initialise
from etude.nn.documents import Documents
from etude.nn.init import Initialise, Normal
from etude.nn.parts import Part
from etude.nn.sites import site


class Encoder(Body):
    """Encoder-only Transformer: embedding, position, a stack of blocks, and a head.

    With learned positions, layer norm, GELU, post-norm blocks, two token types and a norm after the
    embedding this is BERT (Devlin et al. 2018, arXiv:1810.04805).

    Args:
        vocab_size, layers, heads, dim, max_length, attention, position, norm, feedforward, mask,
            block, dropout, bias: see `Decoder`.
        head: factory of the head, called once with dim, embedding, norm, dropout
            (`etude.models.heads`). If None, the model returns vectors.
        token_types, head_dim, scale_embeddings, embedding_norm, recompute, mup_base_dim: see
            `Body`.
        pattern, kinds: see `Decoder`.
        initialise: function of the model and the number of layers that fills the weights
            (`etude.nn.init`). If None, `Normal()` is used.

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
        head: Part | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        token_types: int = 0,
        head_dim: int | None = None,
        scale_embeddings: bool = False,
        embedding_norm: bool = False,
        recompute: bool = False,
        initialise: Initialise | None = None,
        mup_base_dim: int | None = None,
        pattern: list[str] | None = None,
        kinds: dict[str, LayerKind] | None = None,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size, layers=layers, heads=heads, dim=dim, max_length=max_length,
            attention=attention, position=position, norm=norm, feedforward=feedforward,
            mask=mask, block=block, dropout=dropout, bias=bias, head_dim=head_dim,
            scale_embeddings=scale_embeddings, embedding_norm=embedding_norm,
            token_types=token_types, recompute=recompute, mup_base_dim=mup_base_dim,
            pattern=pattern, kinds=kinds,
        )  # fmt: skip
        check_initialise(self.mup, initialise)
        shared = {"dim": dim, "embedding": self.embedding, "norm": norm, "dropout": dropout}
        self.head = None if head is None else head(**shared)
        if self.mup is not None and self.head is not None:
            self.head.divide_logits(self.mup.ratio)
        (initialise or Normal())(self, layers)

    def forward(
        self,
        tokens: Tensor,
        *,
        keep: Tensor | None = None,
        token_types: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Maps token ids (B, T) to the head's output, or to vectors (B, T, D) without a head.

        For packed sequences, a head over classes returns the logits of each of the N documents,
        (N, labels).

        Args:
            keep: (B, T), false where a token is padding.
            token_types: (B, T), token types from 0; None means type 0 for every token.
            positions: (B, T), explicit positions of the tokens.
            documents: the documents packed in `tokens`.
        """
        x = self.hidden(
            tokens, keep=keep, token_types=token_types, positions=positions, documents=documents
        )
        if self.head is None:
            return x
        y = self.head(x, keep) if documents is None else self.head.of_packed(x, documents)
        return site(self, "logits", y)

    def read_out(self, x: Tensor) -> Tensor:
        """Returns the head's output for vectors (B, T, D) as the last block returns them, without
        padding. Without a head, returns the normalised vectors.
        """
        x = self.norm(x)
        y: Tensor = x if self.head is None else self.head(x)
        return y

    @property
    def own_sites(self) -> dict[str, str]:
        letters = {"vocabulary": "B T V", "tags": "B T L", "classes": "B L"}
        gives = getattr(self.head, "gives", None)
        return super().own_sites | ({} if gives is None else {"logits": letters[gives]})
