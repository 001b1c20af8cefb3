"""Which parameters share a learning rate and a weight decay."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from etude.optim.widths import Rule, rate_factors

_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    *,
    lr: float | None = None,
    layer_decay: float = 1.0,
    rule: Rule | None = None,
) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; each shared parameter once.

    Args:
        module: its trainable parameters are taken.
        weight_decay: of matrices and embeddings.
        lr: the rate of the last layers; needed with a layer decay, and by muP.
        layer_decay: the factor of the rate from a block to the one below it (Howard & Ruder 2018,
            arXiv:1801.06146, section 3.2, who take 1 / 2.6): of L blocks, block i has
            layer_decay^(L - 1 - i) of it, the embedding layer_decay^L, all else the whole.
        rule: what muP makes of the rates in the optimizer's kind of steps. A weight decay changes
            the other way: what a step takes of a weight, their product, is that of the base width.

    Raises:
        InvalidArguments: the module is in muP and there is no rule.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    factors = rate_factors(module, rule)
    if layer_decay == 1 and not factors:
        groups = [
            {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
    assert lr is not None
    numbers = [int(found[1]) for name, _ in named if (found := _BLOCK.search(name))]
    layers = max(numbers, default=-1) + 1
    alike: dict[tuple[int, float, bool], list[Any]] = {}
    for name, parameter in named:
        depth = _depth_from_top(name, layers) if layer_decay != 1 else 0
        key = (depth, factors.get(name, 1.0), parameter.dim() >= 2)
        alike.setdefault(key, []).append(parameter)
    return [
        {
            "params": found,
            "weight_decay": weight_decay / factor if decays else 0.0,
            "lr": lr * layer_decay**depth * factor,
        }
        for (depth, factor, decays), found in sorted(alike.items(), key=lambda item: item[0])
    ]


def _depth_from_top(name: str, layers: int) -> int:
    """Blocks between a parameter and the head."""
    block = _BLOCK.search(name)
    if block is not None:
        return layers - 1 - int(block[1])
    below = ("embedding", "position", "token_types", "embedding_norm")
    parts = name.split(".")
    return layers if any(part in below for part in parts) and "head" not in parts else 0
