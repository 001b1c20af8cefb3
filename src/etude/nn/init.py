"""How the weights begin."""

from __future__ import annotations

import math

from torch import nn

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
