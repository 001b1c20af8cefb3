"""Heads: map a model's vectors to logits over the vocabulary, over classes, or over tags."""

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
    """Maps vectors (..., D) to logits (..., V).

    Args:
        output: output projection; for an embedding, the transpose of its weight is used.
        softcap: c; each logit is replaced by c tanh(logit / c), which is between -c and c. None
            leaves the logits unchanged.
        bias: (V,), bias of the logits.
        scale: factor of the vectors before the projection.
    """
    x = x if scale == 1 else x * scale
    if isinstance(output, nn.Embedding):
        y = linear(x, output.weight, bias)
    else:
        y = output(x) if bias is None else output(x) + bias
    return y if softcap is None else softcap * (y / softcap).tanh()


class Head(nn.Module):
    """Base class of the heads of an encoder, which map the encoder's vectors to logits.

    The model passes the arguments below to each head. The base class ignores them, so a custom
    constructor need not pass them on.

    Attributes:
        gives: type of the logits: over the `vocabulary` or over `tags` at each position, or over
            `classes` for the whole sequence.
        readouts: names of the head's layers that return logits, except the embedding. None means
            that the head does not name these layers; muP does not support such a head.
        logit_scale: factor by which the inputs of these layers are multiplied; 1 except in muP.

    Args:
        dim: D, the width of the vectors.
        embedding: token embedding, whose weights a head may share.
        norm: factory of a norm; called with dim, bias.
        dropout: dropout probability.
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
        """Divides the logits by `ratio`, as muP requires.

        Args:
            ratio: the width divided by the base width.

        Raises:
            InvalidArguments: the head doesn't declare its `readouts`.
        """
        checks = Checks()
        expected = "a head that sets its attribute `readouts`, since mup_base_dim is set"
        checks.that(self.readouts is not None, "head", type(self).__name__, expected)
        checks.done()
        self.logit_scale = 1 / ratio

    def scaled(self, x: Tensor) -> Tensor:
        """Returns vectors (..., D), multiplied by `logit_scale`, for a layer that returns
        logits.
        """
        return x if self.logit_scale == 1 else x * self.logit_scale

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Maps vectors (B, T, D) to logits. If the attribute `gives` is `classes`, the logits have
        the shape (B, labels), with one row for each sequence; otherwise (B, T, ...), with logits
        for each position.

        Args:
            keep: (B, T), false where a token is padding.
        """
        raise NotImplementedError

    def of_packed(self, x: Tensor, documents: Documents) -> Tensor:
        """Maps vectors (B, T, D) of packed sequences, which contain several documents each, to
        logits.

        The logits have the shape that `forward` returns, except for a head over classes. Such a
        head returns (N, labels), with one row for each of the N documents in the batch.

        Args:
            documents: boundaries of the documents in the sequences.
        """
        if self.gives == "classes":
            return self(*documents.split(x))
        return self(x)


class MaskedLanguageHead(Head):
    """Head for masked language modelling: logits over the vocabulary at each position, (B, T, V).

    The layers are a dense layer, GELU, a norm, and the embedding's transpose with a bias, as in the
    original code of BERT (Devlin et al. 2018, arXiv:1810.04805). There is no dropout.
    """

    gives = "vocabulary"
    readouts = ()

    def __init__(self, *, dim: int, embedding: nn.Embedding, norm: Part, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = norm(dim=dim, bias=True)
        self.bias = nn.Parameter(embedding.weight.new_zeros(embedding.num_embeddings))
        self._shared = [embedding]  # in a list: not a submodule, its weights belong to the body

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.scaled(self.norm(F.gelu(self.dense(x))))
        return logits(x, self._shared[0], bias=self.bias)


class ClassificationHead(Head):
    """Head for classification: logits over classes from the vector of the first position, (B,
    labels).

    The layers are tanh(dense(x[0])), dropout and a linear layer (Devlin et al. 2018, section 4.1,
    and the code of that paper).

    Args:
        labels: number of classes; null in a config uses the number of classes in the data.
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
    """Base class of heads that consist of dropout and a linear layer.

    Args:
        labels: number of labels; null in a config uses the number of labels in the data.
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
    """Head for classification: logits over classes from the mean of the vectors of all positions
    except padding, (B, labels).

    The layers are mean pooling as in sentence encoders (Reimers & Gurevych 2019, arXiv:1908.10084,
    section 3), dropout and a linear layer.

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
    """Head for tagging: logits over tags at each position, (B, T, labels) (Devlin et al. 2018,
    section 5.3). The layers are dropout and a linear layer.

    Args:
        labels: number of tags; null in a config uses the number of tags in the data.
    """

    gives = "tags"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.classifier(self.scaled(self.dropout(x)))


def check_labels(labels: int | None) -> int:
    """Returns the number of labels, after checking that it is set and positive."""
    checks = Checks()
    checks.that(labels is not None and labels > 0, "labels", labels, "a positive number")
    checks.done()
    assert labels is not None
    return labels
