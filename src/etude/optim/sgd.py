"""Optimizer for stochastic gradient descent."""

from __future__ import annotations

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.recipe import OptimizerRecipe
from etude.optim.widths import BY_GRADIENT


class SGD(OptimizerRecipe):
    """Recipe for `torch.optim.SGD` (stochastic gradient descent).

    Args:
        lr, weight_decay, layer_decay: see `OptimizerRecipe`.
        momentum: decay rate of the running sum of gradients.
        nesterov: whether to use Nesterov momentum (Sutskever et al. 2013).
    """

    rule = BY_GRADIENT

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        checks = Checks()
        checks.probability(momentum=momentum)
        is_valid = momentum > 0 or not nesterov
        checks.that(is_valid, "nesterov", nesterov, "false, because momentum is 0")
        super().__init__(lr, weight_decay, layer_decay, checks)
        self.momentum, self.nesterov = momentum, nesterov

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return torch.optim.SGD(
            self.groups(module), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )
