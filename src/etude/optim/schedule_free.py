"""Schedule-free AdamW optimizer: it averages the weights instead of decaying the learning rate."""

from __future__ import annotations

from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from etude.errors import Checks
from etude.optim.adamw import AdamW


class ScheduleFree(AdamW):
    """Recipe for schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1), which
    uses their class `schedulefree.AdamWScheduleFree`.

    There are three versions of the weights, x, y and z. Adam updates z; x is the average of z over
    the steps, each weighted by the square of the largest learning rate so far; gradients are
    computed at y = (1 - b1) z + b1 x, where b1 is the first number of `betas`. The training weights
    are y; x is validated and saved for use (see `etude.tasks.averaging`).

    Defazio et al. use learning rates 1 to 10 times AdamW's, and a schedule with a warm-up and no
    decay. With `bf16-true` precision, the later, small updates of the average are lost.

    Args:
        lr, layer_decay, eps: see `AdamW`.
        weight_decay: see `AdamW`. The decay is computed from y.
        betas: b1, the weight of x in y, and the decay rate of the second moment.
    """

    averages = True

    def check_betas(self, checks: Checks, betas: tuple[float, float]) -> None:
        super().check_betas(checks, betas)
        expected = "two numbers, the first above 0 (0 would disable the average of the weights)"
        checks.that(betas[0] > 0, "betas", betas, expected)

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return ScheduleFreeOptimizer(
            self.groups(module), lr=self.lr, betas=self.betas, eps=self.eps
        )


class ScheduleFreeOptimizer(AdamWScheduleFree):
    """Schedule-free AdamW whose parameters are always the training weights y; see `ScheduleFree`.

    The methods `eval()` and `train()` of the base class `schedulefree.AdamWScheduleFree` convert
    between y and x with rounding errors, so that a run would depend on the number of validations.
    This class computes x (the averaged weights) separately and does not change y.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)
        self.train()

    @torch.no_grad()
    def averaged(self) -> dict[Tensor, Tensor]:
        """Returns a dict from each updated parameter to its averaged weights x.

        x has float32 or higher precision. It is computed from z and the training weights
        y = (1 - b1) z + b1 x; see `ScheduleFree`.
        """
        averages = {}
        for group in self.param_groups:
            first = group["betas"][0]
            for y in group["params"]:
                if "z" in self.state[y]:
                    precise = torch.promote_types(y.dtype, torch.float32)
                    z = self.state[y]["z"].to(precise)
                    averages[y] = y.detach().to(precise).lerp(z, 1 - 1 / first)
        return averages
