"""What stands on top of a body: logits over the vocabulary, over classes, or over tags."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.models.body import Part
from etude.nn.documents import Documents
from etude.nn.linear import linear


def logits(
    x: Tensor,
    output: nn.Linear | nn.Embedding,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Vectors (..., D) to logits (..., V).

    Args:
        output: the projection; an embedding is used as its transpose.
        softcap: c, keeps them within (-c, c).
        bias: (V,), added.
    """
    if isinstance(output, nn.Embedding):
        y = linear(x, output.weight, bias)
    else:
        y = output(x) if bias is None else output(x) + bias
    return y if softcap is None else softcap * (y / softcap).tanh()


class Head(nn.Module):
    """The base of an encoder's heads.

    Attributes:
        gives: what its logits are over: the `vocabulary` at each position, `tags` at each position,
            or `classes` of the whole.

    Args:
        dim: D.
        embedding: of the tokens, whose weights a head may share.
        norm: builds a norm when called with dim, bias.
        dropout: probability.
    """

    gives: ClassVar[Literal["vocabulary", "tags", "classes"]]

    def __init__(self, *, dim: int, embedding: nn.Embedding, norm: Part, dropout: float) -> None:
        super().__init__()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Vectors (B, T, D) to what the head says.

        Args:
            keep: (B, T), false where a token is padding.
        """
        raise NotImplementedError

    def of_packed(self, x: Tensor, documents: Documents) -> Tensor:
        """The same for packed sequences; what is said of a whole is said of each document (N, ...).

        Args:
            documents: which the sequences are packed of.
        """
        if self.gives == "classes":
            return self(*documents.parted(x))
        return self(x)


class MaskedLanguageHead(Head):
    """A transformation, then logits by the embedding's transpose and a bias: (B, T, V).

    Devlin et al. 2018 (arXiv:1810.04805), the authors' code.
    """

    gives = "vocabulary"

    def __init__(self, *, dim: int, embedding: nn.Embedding, norm: Part, dropout: float) -> None:
        super().__init__(dim=dim, embedding=embedding, norm=norm, dropout=dropout)
        self.dense = nn.Linear(dim, dim)
        self.norm = norm(dim=dim, bias=True)
        self.bias = nn.Parameter(embedding.weight.new_zeros(embedding.num_embeddings))
        self._shared = [embedding]  # not a child: its weights are the body's

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return logits(self.norm(F.gelu(self.dense(x))), self._shared[0], bias=self.bias)


class ClassificationHead(Head):
    """Logits over classes from the first position: (B, labels).

    tanh(dense(x[0])), dropout, a linear layer (Devlin et al. 2018, section 4.1, and its code).

    Args:
        labels: the number of classes; a config's null is filled with the data's.
    """

    gives = "classes"

    def __init__(
        self,
        *,
        dim: int,
        embedding: nn.Embedding,
        norm: Part,
        dropout: float,
        labels: int | None = None,
    ) -> None:
        super().__init__(dim=dim, embedding=embedding, norm=norm, dropout=dropout)
        labels = check_labels(labels)
        self.dense = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, labels)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.classifier(self.dropout(self.dense(x[:, 0]).tanh()))


class LinearHead(Head):
    """Dropout and a linear layer; the base of heads that add nothing else to learn.

    Args:
        labels: how many there are; a config's null is filled with the data's.
    """

    def __init__(
        self,
        *,
        dim: int,
        embedding: nn.Embedding,
        norm: Part,
        dropout: float,
        labels: int | None = None,
    ) -> None:
        super().__init__(dim=dim, embedding=embedding, norm=norm, dropout=dropout)
        labels = check_labels(labels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, labels)


class MeanClassificationHead(LinearHead):
    """Logits over classes from the mean of all positions: (B, labels).

    The mean as sentence encoders take it (Reimers & Gurevych 2019, arXiv:1908.10084, section 3),
    dropout, a linear layer.

    Args:
        labels: as for `ClassificationHead`.
    """

    gives = "classes"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is None:
            mean = x.mean(1)
        else:
            weights = keep[..., None].to(x.dtype)
            mean = (x * weights).sum(1) / weights.sum(1)
        return self.classifier(self.dropout(mean))


class TaggingHead(LinearHead):
    """Logits over tags at each position: (B, T, labels) (Devlin et al. 2018, section 5.3).

    Args:
        labels: the number of tags; a config's null is filled with the data's.
    """

    gives = "tags"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.classifier(self.dropout(x))


def check_labels(labels: int | None) -> int:
    """The number of labels, which must be known by now."""
    checks = Checks()
    checks.that(labels is not None and labels > 0, "labels", labels, "a positive number")
    checks.done()
    assert labels is not None
    return labels
