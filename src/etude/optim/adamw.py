"""AdamW with decay on matrices only."""

from __future__ import annotations

import math

import torch
from torch import nn

from etude.errors import Checks


class AdamW:
    """A recipe for `torch.optim.AdamW` (Loshchilov and Hutter, 1711.05101, algorithm 2).

    Weight decay applies to parameters of two or more dimensions (matrices and embeddings); biases
    and norm gains keep their size. One fused kernel updates all parameters.

    Args:
        lr: the base learning rate, which the schedule multiplies.
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: per step, times the learning rate.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        checks = Checks()
        checks.positive(lr=lr, eps=eps)
        checks.that(all(0 <= b < 1 for b in betas), "betas", betas, "two numbers in [0, 1)")
        checks.that(
            0 <= weight_decay < math.inf, "weight_decay", weight_decay, "a finite number from 0 on"
        )
        checks.done()
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the module's trainable parameters."""
        return torch.optim.AdamW(
            parameter_groups(module, self.weight_decay),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            fused=True,
        )


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors without; each shared parameter once."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.dim() >= 2]
    vectors = [p for p in trainable if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
