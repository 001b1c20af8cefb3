"""Lion optimizer, whose updates are the signs of a momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.recipe import OptimizerRecipe, check_betas
from etude.optim.widths import BY_ENTRY


class Lion(OptimizerRecipe):
    """Recipe for Lion, in which each step changes every weight by plus or minus the learning rate
    (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    Chen et al. use a learning rate 3 to 10 times smaller than AdamW's, and a weight decay larger by
    the same factor.

    Args:
        lr, weight_decay, layer_decay: see `OptimizerRecipe`.
        betas: two decay rates: that of the momentum whose sign is the update, and that of the
            momentum that is stored for the next step.
    """

    rule = BY_ENTRY

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        checks = Checks()
        check_betas(checks, betas=betas)
        super().__init__(lr, weight_decay, layer_decay, checks)
        self.betas = betas

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return LionOptimizer(self.groups(module), lr=self.lr, betas=self.betas)


class LionOptimizer(torch.optim.Optimizer):
    """Lion optimizer: each weight changes by plus or minus the learning rate; see `Lion`.

    Args:
        params: parameter groups with their `weight_decay`.
        lr, betas: see `Lion`.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters by the sign of the momentum."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            gradients = [p.grad for p in parameters]
            momenta = [self.state[p]["momentum"] for p in parameters]
            # c = b1 m + (1 - b1) g;  p = p (1 - lr wd) - lr sign(c);  m = b2 m + (1 - b2) g
            updates = torch._foreach_lerp(momenta, gradients, 1 - first)
            torch._foreach_sign_(updates)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - second)
        return loss
