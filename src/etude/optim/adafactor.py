"""Adafactor optimizer, which stores the second moments of matrices in factored form."""

from __future__ import annotations

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.recipe import OptimizerRecipe


class Adafactor(OptimizerRecipe):
    """Recipe for `torch.optim.Adafactor` (Shazeer & Stern 2018, arXiv:1804.04235).

    At step t, the gradient is divided by the square root of its second moment, and scaled down if
    the root mean square of the result exceeds `clip`. The result is multiplied by the smaller of
    `lr` and 1/sqrt(t), and by the root mean square of the parameter.

    Args:
        lr, weight_decay, layer_decay: see `OptimizerRecipe`.
        beta2_decay: c in 1 - t^c, the decay rate of the second moment at step t (section 7.2).
        clip: d, the largest root mean square before these two factors (section 6).
        eps: lower limit of the root mean square of a parameter; smaller values are replaced by it.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        clip: float = 1.0,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        checks = Checks()
        checks.positive(clip=clip, eps=eps)
        checks.that(beta2_decay <= 0, "beta2_decay", beta2_decay, "a number of at most 0")
        super().__init__(lr, weight_decay, layer_decay, checks)
        self.beta2_decay, self.clip, self.eps = beta2_decay, clip, eps

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return torch.optim.Adafactor(
            self.groups(module),
            lr=self.lr,
            beta2_decay=self.beta2_decay,
            eps=(None, self.eps),
            d=self.clip,
        )
