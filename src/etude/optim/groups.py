"""Parameter groups: parameters with the same learning rate and weight decay."""

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
    """Returns the parameter groups of a module for a `torch.optim.Optimizer`.

    Matrices and embeddings have weight decay; vectors, such as biases, have none. A shared
    parameter occurs only once. A group is a dict with the keys `params`, `weight_decay` and, if
    learning rates differ by `layer_decay` or muP, `lr`.

    Args:
        module: module whose trainable parameters are grouped.
        weight_decay: weight decay of matrices and embeddings.
        lr: learning rate of the last layers; required if `layer_decay` is not 1, and in muP.
        layer_decay: learning rate of a block divided by that of the next block (Howard & Ruder
            2018, arXiv:1801.06146, section 3.2, with 1 / 2.6). Of L blocks, block i (from 0) has
            the factor layer_decay^(L - 1 - i), the embedding layer_decay^L, and all other layers 1.
        rule: muP's rule for the optimizer (see `etude.optim.widths.Rule`), by whose factors
            learning rates are multiplied; None if there is no rule. Weight decays are divided by
            the factors, so that the product of learning rate and weight decay is that of the base
            width.

    Raises:
        InvalidArguments: the module uses muP, and `rule` is None.
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
    indices = [int(match[1]) for name, _ in named if (match := _BLOCK.search(name))]
    layers = max(indices, default=-1) + 1
    groups_by_key: dict[tuple[int, float, bool], list[Any]] = {}
    for name, parameter in named:
        depth = _depth_from_top(name, layers) if layer_decay != 1 else 0
        key = (depth, factors.get(name, 1.0), parameter.dim() >= 2)
        groups_by_key.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay / factor if decays else 0.0,
            "lr": lr * layer_decay**depth * factor,
        }
        for (depth, factor, decays), parameters in sorted(
            groups_by_key.items(), key=lambda item: item[0]
        )
    ]


def _depth_from_top(name: str, layers: int) -> int:
    """Returns the number of blocks that follow the layer of a parameter, up to the head.

    It is `layers` for the layers before the first block (embeddings and their norm), and 0 for the
    last block and all layers after it, such as the head.

    Args:
        name: name of the parameter.
        layers: number of blocks of the model.
    """
    block = _BLOCK.search(name)
    if block is not None:
        return layers - 1 - int(block[1])
    below = ("embedding", "position", "token_types", "embedding_norm")
    parts = name.split(".")
    return layers if any(part in below for part in parts) and "head" not in parts else 0
