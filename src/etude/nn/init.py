"""How the weights begin: each class fills a model in place, given its number of layers.

All set biases to 0 and leave norms (weight 1, bias 0) and what position parts draw for themselves.
The last part of a module's name tells what it is: `out` and `down` write into the residual stream,
`qkv` makes queries, keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from etude.errors import Checks

Initialise = Callable[[nn.Module, int], None]


class Normal:
    """BERT's: N(0, std) for all weights (Devlin et al. 2018, arXiv:1810.04805, and the authors'
    code, `initializer_range`, which truncates at two standard deviations; this does not, as
    `transformers` doesn't).
    """

    def __init__(self, *, std: float = 0.02) -> None:
        checks = Checks()
        checks.positive(std=std)
        checks.done()
        self.std = std

    def __call__(self, module: nn.Module, layers: int) -> None:
        for _, part in _weighted(module):
            nn.init.normal_(part.weight, std=self.std)


class GPT2(Normal):
    """GPT-2's (Radford et al. 2019, section 2.3): N(0, std), and N(0, std / sqrt(2 layers)) for the
    projections that write into the residual stream, so that its variance does not grow with
    depth: each of the blocks writes into it twice.
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for name, part in _weighted(module):
            smaller = math.sqrt(2 * layers) if _writes(name) else 1
            nn.init.normal_(part.weight, std=self.std / smaller)


class Xavier:
    """Glorot & Bengio 2010, equation 16: uniform with variance 2 / (fan_in + fan_out), for
    queries, keys and values each as a matrix of its own; embeddings N(0, 1 / sqrt(D)), as the
    original Transformer's code multiplies them by sqrt(D).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for name, part in _weighted(module):
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=part.weight.shape[1] ** -0.5)
            else:
                for matrix in _matrices(module, name, part.weight):
                    nn.init.xavier_uniform_(matrix)


class Small:
    """GPT-NeoX's (Black et al. 2022, arXiv:2204.06745, section 2.1): N(0, sqrt(2 / (5 D)))
    ("SmallInit", Nguyen & Salazar 2019, arXiv:1910.05895), and N(0, 2 / (layers sqrt(D))) for what
    writes into the residual stream (Wang & Komatsuzaki 2021, the code of GPT-J).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for name, part in _weighted(module):
            if _writes(name):
                std = 2 / (layers * math.sqrt(part.weight.shape[0]))
            else:
                std = math.sqrt(2 / (5 * part.weight.shape[1]))
            nn.init.normal_(part.weight, std=std)


class T5:
    """T5's (Raffel et al. 2019, arXiv:1910.10683, and the authors' code): embeddings N(0, 1);
    queries N(0, 1 / sqrt(D K)), which stands for the missing scale of the scores; each other
    weight N(0, 1 / sqrt(fan_in)).
    """

    def __call__(self, module: nn.Module, layers: int) -> None:
        for name, part in _weighted(module):
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=1.0)
                continue
            queries, *others = _matrices(module, name, part.weight)
            std = part.weight.shape[1] ** -0.5
            scaled = 1 if not others else _attention(module, name).head_dim ** -0.5
            nn.init.normal_(queries, std=std * scaled)
            for matrix in others:
                nn.init.normal_(matrix, std=std)


def _writes(name: str) -> bool:
    """Whether a part of this name writes into the residual stream."""
    return name.rpartition(".")[2] in ("out", "down")


def _attention(module: nn.Module, name: str) -> Any:
    """The attention whose `qkv` has this name."""
    return module.get_submodule(name.rpartition(".")[0])


def _matrices(module: nn.Module, name: str, weight: Tensor) -> tuple[Tensor, ...]:
    """The weight of a linear layer, or the three that lie side by side in `qkv`."""
    if name.rpartition(".")[2] != "qkv":
        return (weight,)
    attention = _attention(module, name)
    H, G, K = attention.heads, attention.kv_heads, attention.head_dim
    return weight.detach().split_with_sizes((H * K, G * K, G * K))


def _weighted(module: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    """The linear layers and embeddings, each once, by name; their biases are set to 0."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Linear | nn.Embedding):
            yield name, part
