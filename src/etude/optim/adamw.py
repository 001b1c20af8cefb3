"""AdamW optimizer, with weight decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.groups import parameter_groups
from etude.optim.recipe import OptimizerRecipe, check_betas
from etude.optim.widths import BY_ENTRY

__all__ = ["AdamW", "parameter_groups"]


class AdamW(OptimizerRecipe):
    """Recipe for `torch.optim.AdamW` (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2).

    One fused kernel updates all parameters.

    Args:
        lr, weight_decay, layer_decay: see `OptimizerRecipe`.
        betas: decay rates of the first and second moment.
        eps: added to the square root of the second moment.
    """

    rule = BY_ENTRY

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        checks = Checks()
        checks.positive(eps=eps)
        self.check_betas(checks, betas)
        super().__init__(lr, weight_decay, layer_decay, checks)
        self.betas = betas
        self.eps = eps

    def check_betas(self, checks: Checks, betas: tuple[float, float]) -> None:
        """Adds a problem to `checks` if `betas` is not a valid pair of decay rates."""
        check_betas(checks, betas=betas)

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return torch.optim.AdamW(
            self.groups(module), lr=self.lr, betas=self.betas, eps=self.eps, fused=True
        )
