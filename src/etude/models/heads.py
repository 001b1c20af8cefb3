"""What stands on top of a body: logits over the vocabulary, over classes, or over tags."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.documents import Documents
from etude.nn.linear import linear
from etude.nn.parts import Part


def logits(
    x: Tensor,
    output: nn.Linear | nn.Embedding,
    softcap: float | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Vectors (..., D) to logits (..., V).

    Args:
        output: the projection; an embedding is used as its transpose.
        softcap: c, keeps them within (-c, c).
        bias: (V,), added.
        scale: of the vectors.
    """
    x = x if scale == 1 else x * scale
    if isinstance(output, nn.Embedding):
        y = linear(x, output.weight, bias)
    else:
        y = output(x) if bias is None else output(x) + bias
    return y if softcap is None else softcap * (y / softcap).tanh()


class Head(nn.Module):
    """The base of an encoder's heads.

    The model gives each head the arguments below. The base keeps none of them, so a head with a
    constructor of its own need not pass them on.

    Attributes:
        gives: what its logits are over: the `vocabulary` at each position, `tags` at each position,
            or `classes` of the whole.
        readouts: the names of its layers that give logits, besides the embedding. None is a head
            that does not say, and that no model in muP takes.
        logit_scale: what the vectors that they read are multiplied with.

    Args:
        dim: D.
        embedding: of the tokens, whose weights a head may share.
        norm: builds a norm when called with dim, bias.
        dropout: probability.
    """

    gives: ClassVar[Literal["vocabulary", "tags", "classes"]]
    readouts: ClassVar[tuple[str, ...] | None] = None

    def __init__(
        self,
        *,
        dim: int | None = None,
        embedding: nn.Embedding | None = None,
        norm: Part | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.logit_scale = 1.0

    def divide_logits(self, ratio: float) -> None:
        """Makes the logits those of muP, by the width over the base width.

        Raises:
            InvalidArguments: the head does not say which of its layers give logits.
        """
        checks = Checks()
        name, expected = type(self).__name__, "a head that says its `readouts`, for mup_base_dim"
        checks.that(self.readouts is not None, "head", name, expected)
        checks.done()
        self.logit_scale = 1 / ratio

    def scaled(self, x: Tensor) -> Tensor:
        """Vectors (..., D) as a layer that gives logits reads them; same shape."""
        return x if self.logit_scale == 1 else x * self.logit_scale

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
    readouts = ()

    def __init__(self, *, dim: int, embedding: nn.Embedding, norm: Part, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = norm(dim=dim, bias=True)
        self.bias = nn.Parameter(embedding.weight.new_zeros(embedding.num_embeddings))
        self._shared = [embedding]  # not a child: its weights are the body's

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.scaled(self.norm(F.gelu(self.dense(x))))
        return logits(x, self._shared[0], bias=self.bias)


class ClassificationHead(Head):
    """Logits over classes from the first position: (B, labels).

    tanh(dense(x[0])), dropout, a linear layer (Devlin et al. 2018, section 4.1, and its code).

    Args:
        labels: the number of classes; a config's null is filled with the data's.
    """

    gives = "classes"
    readouts = ("classifier",)

    def __init__(
        self,
        *,
        dim: int,
        embedding: nn.Embedding,
        norm: Part,
        dropout: float,
        labels: int | None = None,
    ) -> None:
        super().__init__()
        labels = check_labels(labels)
        self.dense = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, labels)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.classifier(self.scaled(self.dropout(self.dense(x[:, 0]).tanh())))


class LinearHead(Head):
    """Dropout and a linear layer; the base of heads that add nothing else to learn.

    Args:
        labels: how many there are; a config's null is filled with the data's.
    """

    readouts = ("classifier",)

    def __init__(
        self,
        *,
        dim: int,
        embedding: nn.Embedding,
        norm: Part,
        dropout: float,
        labels: int | None = None,
    ) -> None:
        super().__init__()
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
        return self.classifier(self.scaled(self.dropout(mean)))


class TaggingHead(LinearHead):
    """Logits over tags at each position: (B, T, labels) (Devlin et al. 2018, section 5.3).

    Args:
        labels: the number of tags; a config's null is filled with the data's.
    """

    gives = "tags"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.classifier(self.scaled(self.dropout(x)))


def check_labels(labels: int | None) -> int:
    """The number of labels, which must be known by now."""
    checks = Checks()
    checks.that(labels is not None and labels > 0, "labels", labels, "a positive number")
    checks.done()
    assert labels is not None
    return labels
