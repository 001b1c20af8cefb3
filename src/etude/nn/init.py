"""Weight initialisations: each class fills the weights of a model in place, given the number of
layers.

All classes set biases to 0 and leave norms (weight 1, bias 0) and the weights of position modules
unchanged. The modules of a model declare which of their layers write to the residual stream, and
which rows compute queries, keys and values (`etude.nn.matrices`).

In muP (`etude.optim.widths`), each weight has the standard deviation that it has at the base width.
For hidden matrices this is multiplied by (width / base width)^(-1/2), so that it decreases with the
square root of the number of inputs (Yang et al. 2022, arXiv:2203.03466, table 8). At the base width
there is no difference to the standard parametrisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.matrices import Matrix, declared
from etude.optim.widths import widths_of

Initialise = Callable[[nn.Module, int], None]


class WidthAware:
    """Base class of initialisations that support muP; models in muP accept no others."""

    def __call__(self, module: nn.Module, layers: int) -> None:
        """Fills the weights of a model with `layers` layers."""
        raise NotImplementedError


@dataclass(frozen=True)
class Weight:
    """A weight of a linear layer or an embedding, with the sizes that determine its initial values.

    Attributes:
        name: name of the layer.
        weight: the weight's tensor.
        embeds: whether the layer is an embedding.
        inputs: number of columns; for an embedding, D, the model width. In muP, the number at the
            base width.
        outputs: number of rows. In muP, the number at the base width.
        factor: factor of the standard deviation; 1 except in muP.
        purpose: what the layer's outputs are used for (`etude.nn.matrices`); None if the module
            that contains the layer does not declare it.
    """

    name: str
    weight: Tensor
    embeds: bool
    inputs: float
    outputs: float
    factor: float
    purpose: Matrix | None

    @property
    def writes(self) -> bool:
        """Whether the layer writes to the residual stream."""
        return self.purpose is not None and self.purpose.writes

    def pieces(self) -> dict[str, Tensor]:
        """Returns a dict from names to the matrices that the weight contains, such as `q`, `k` and
        `v`, which are filled separately. For an embedding, or if `purpose` is None, the dict has
        only the whole weight, with the name "".
        """
        if self.purpose is None or self.embeds:
            return {"": self.weight}
        weight = self.weight.detach()
        return {name: weight[slice(*rows)] for name, rows in self.purpose.pieces.items()}


class Normal(WidthAware):
    """BERT's initialisation: all weights are normal with standard deviation `std` (Devlin et al.
    2018, arXiv:1810.04805).

    BERT's original code (`initializer_range`) truncates at two standard deviations; this class
    doesn't, and neither does `transformers`.

    Args:
        std: standard deviation of the weights.
    """

    def __init__(self, *, std: float = 0.02) -> None:
        checks = Checks()
        checks.positive(std=std)
        checks.done()
        self.std = std

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            nn.init.normal_(matrix.weight, std=self.std * matrix.factor)


class GPT2(Normal):
    """GPT-2's initialisation: weights are normal with standard deviation `std`, or `std / sqrt(2
    layers)` if the layer writes to the residual stream (Radford et al. 2019, section 2.3).

    The factor keeps the variance of the residual stream from growing with depth, as each block
    writes to the stream twice.
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            smaller = math.sqrt(2 * layers) if matrix.writes else 1
            nn.init.normal_(matrix.weight, std=self.std / smaller * matrix.factor)


class Xavier(WidthAware):
    """Xavier initialisation: weights are uniform with variance 2 / (fan_in + fan_out) (Glorot &
    Bengio 2010, equation 16), where queries, keys and values are separate matrices.

    Embeddings are normal with standard deviation 1 / sqrt(D), where D is the model width, because
    the code of the original Transformer multiplies them by sqrt(D).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            if matrix.embeds:
                nn.init.normal_(matrix.weight, std=matrix.inputs**-0.5)
                continue
            for piece in matrix.pieces().values():
                rows = matrix.outputs * piece.shape[0] / matrix.weight.shape[0]
                width_factor = sum(piece.shape) / (matrix.inputs + rows)
                nn.init.xavier_uniform_(piece, gain=math.sqrt(width_factor) * matrix.factor)


class Small(WidthAware):
    """GPT-NeoX's initialisation (Black et al. 2022, arXiv:2204.06745, section 2.1).

    For the model width D, weights are normal with standard deviation sqrt(2 / (5 D)) ("SmallInit",
    Nguyen & Salazar 2019, arXiv:1910.05895), or 2 / (layers sqrt(D)) if the layer writes to the
    residual stream (Wang & Komatsuzaki 2021, the code of GPT-J).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            if matrix.writes:
                std = 2 / (layers * math.sqrt(matrix.outputs))
            else:
                std = math.sqrt(2 / (5 * matrix.inputs))
            nn.init.normal_(matrix.weight, std=std * matrix.factor)


class T5(WidthAware):
    """T5's initialisation (Raffel et al. 2019, arXiv:1910.10683, and T5's original code).

    All weights are normal. The standard deviation is 1 for embeddings; 1 / sqrt(D K) for queries,
    where D is the model width and K the head dimension; and 1 / sqrt(fan_in) for all others. The
    factor 1 / sqrt(K) of the queries replaces the scale of the attention scores, so the model needs
    an attention without scale (`model/attention=unscaled`).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            if matrix.embeds:
                nn.init.normal_(matrix.weight, std=1.0)
                continue
            std = matrix.inputs**-0.5 * matrix.factor
            K = None if matrix.purpose is None else matrix.purpose.head_dim
            for name, piece in matrix.pieces().items():
                scaled = 1 if K is None or name != "q" else K**-0.5
                nn.init.normal_(piece, std=std * scaled)


class ZeroOutput(WidthAware):
    """Zero initialisation of the layers that write to the residual stream, so that each block is
    initially the identity (Zhang et al. 2019, arXiv:1901.09321; Jordan et al. 2024,
    modded-nanogpt).

    All other weights are normal, with standard deviation `embedding_std` for embeddings and
    1 / sqrt(fan_in) for matrices.

    Args:
        embedding_std: standard deviation of the embeddings.
    """

    def __init__(self, *, embedding_std: float = 1.0) -> None:
        checks = Checks()
        checks.positive(embedding_std=embedding_std)
        checks.done()
        self.embedding_std = embedding_std

    def __call__(self, module: nn.Module, layers: int) -> None:
        for matrix in _matrices(module):
            if matrix.writes:
                nn.init.zeros_(matrix.weight)
                continue
            std = self.embedding_std if matrix.embeds else matrix.inputs**-0.5
            nn.init.normal_(matrix.weight, std=std * matrix.factor)


def _matrices(module: nn.Module) -> Iterator[Weight]:
    """Yields the weight of each linear layer and embedding once, and sets biases to 0."""
    widths = widths_of(module)
    ratio = 1 if widths is None else widths.ratio
    known = declared(module)
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if not isinstance(part, nn.Linear | nn.Embedding):
            continue
        role = None if widths is None else widths.roles[f"{name}.weight"]
        hidden = role == "hidden"
        # a linear layer as embedding, whose inputs don't grow with the width
        reads = isinstance(part, nn.Linear) and role == "vector"
        rows, columns = part.weight.shape
        yield Weight(
            name,
            part.weight,
            embeds=isinstance(part, nn.Embedding),
            inputs=columns if reads else columns / ratio,
            outputs=rows / ratio if hidden or reads else rows,
            factor=ratio**-0.5 if hidden else 1.0,
            purpose=known.get(name),
        )
