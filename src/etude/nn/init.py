"""How the weights begin: functions that fill a model in place, given its number of layers.

The last part of a module's name tells what it is: `out` and `down` write into the residual stream,
`qkv` makes queries, keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor, nn

Initialise = Callable[[nn.Module, int], None]
RESIDUAL = ("out", "down")


def gpt2_(module: nn.Module, layers: int, std: float = 0.02) -> None:
    """GPT-2's initialisation, in place (Radford et al. 2019, section 2.3).

    Weights of linear layers and embeddings are drawn from N(0, std); those of the projections
    that write into the residual stream (named `out` and `down`) from N(0, std / sqrt(2 layers)),
    so that its variance does not grow with depth. Biases are 0. Norms keep weight 1, bias 0.

    Args:
        layers: the number of blocks; each writes into the residual stream twice.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            residual = name.rpartition(".")[2] in RESIDUAL
            nn.init.normal_(part.weight, std=std / math.sqrt(2 * layers) if residual else std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def normal_(module: nn.Module, layers: int, std: float = 0.02) -> None:
    """BERT's: N(0, std) for all weights, biases 0 (Devlin et al. 2018, arXiv:1810.04805, and the
    authors' code, `initializer_range`, which truncates at two standard deviations; this does not,
    as `transformers` doesn't).
    """
    for _, weight in _weights(module):
        nn.init.normal_(weight, std=std)


def xavier_(module: nn.Module, layers: int) -> None:
    """Glorot & Bengio 2010, equation 16: uniform with variance 2 / (fan_in + fan_out), for
    queries, keys and values each as a matrix of its own; embeddings N(0, 1 / sqrt(D)), as the
    original Transformer's code multiplies them by sqrt(D). Biases are 0.
    """
    for name, weight in _weights(module):
        if name.endswith("embedding.weight"):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        elif name.endswith("qkv.weight"):
            for each in _heads(module, name).split(weight):
                nn.init.xavier_uniform_(each)
        else:
            nn.init.xavier_uniform_(weight)


def small_(module: nn.Module, layers: int) -> None:
    """GPT-NeoX's (Black et al. 2022, arXiv:2204.06745, section 2.1): N(0, sqrt(2 / (5 D)))
    (Nguyen & Salazar 2019, arXiv:1910.05895, "SmallInit"), and 2 / (layers sqrt(D)) for what writes
    into the residual stream (Wang & Komatsuzaki 2021). Biases are 0.
    """
    for name, weight in _weights(module):
        D = weight.shape[0] if name.split(".")[-2] in RESIDUAL else weight.shape[1]
        residual = name.split(".")[-2] in RESIDUAL
        nn.init.normal_(
            weight, std=2 / (layers * math.sqrt(D)) if residual else (2 / (5 * D)) ** 0.5
        )


def t5_(module: nn.Module, layers: int) -> None:
    """T5's (Raffel et al. 2019, arXiv:1910.10683, and the authors' code): embeddings N(0, 1);
    queries N(0, 1 / sqrt(D K)), which stands for the missing scale of the scores; each other
    weight N(0, 1 / sqrt(fan_in)).
    """
    for name, weight in _weights(module):
        if name.endswith("embedding.weight"):
            nn.init.normal_(weight, std=1.0)
        elif name.endswith("qkv.weight"):
            heads, D = _heads(module, name), weight.shape[1]
            queries, *others = heads.split(weight)
            nn.init.normal_(queries, std=(D * heads.width) ** -0.5)
            for each in others:
                nn.init.normal_(each, std=D**-0.5)
        else:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


class _heads:  # noqa: N801
    """How the rows of an attention's `qkv` divide into queries, keys and values."""

    def __init__(self, module: nn.Module, name: str) -> None:
        attention = module.get_submodule(name.removesuffix(".qkv.weight"))
        self.width: int = attention.head_dim  # type: ignore[assignment]
        H, G = attention.heads, attention.kv_heads
        self.rows = [n * self.width for n in (H, G, G)]  # type: ignore[operator]

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight.detach().split(self.rows)


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The matrices of linear layers and embeddings, by name; biases are set to 0."""
    seen: set[int] = set()
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Linear | nn.Embedding) and id(part.weight) not in seen:
            seen.add(id(part.weight))
            yield f"{name}.weight", part.weight
