"""Schedule-free AdamW: an average of the weights instead of a decaying learning rate."""

from __future__ import annotations

from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from etude.errors import Checks
from etude.optim.adamw import AdamW


class ScheduleFree(AdamW):
    """Recipe for the authors' `schedulefree.AdamWScheduleFree` (Defazio et al. 2024,
    arXiv:2405.15682, algorithm 1).

    Adam updates z; x is the average of z, each step weighted by the square of the largest learning
    rate so far; and gradients are computed between them, at y = (1 - b1) z + b1 x. The training
    weights are y; x is validated and saved for use (see `etude.tasks.averaging`).

    The authors use learning rates 1 to 10 times AdamW's, and a schedule with a warm-up and no
    decay. In `bf16-true` the later, small updates of an average are lost.

    Args:
        lr, weight_decay, layer_decay, eps: as for `AdamW`; weight decay acts on y.
        betas: b1, the position of y between z and x; and the decay rate of the second moment.
    """

    averages = True

    def check_betas(self, checks: Checks, betas: tuple[float, float]) -> None:
        super().check_betas(checks, betas)
        expected = "a first number above 0, because 0 disables the average"
        checks.that(betas[0] > 0, "betas", betas, expected)

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        return ScheduleFreeOptimizer(
            self.groups(module), lr=self.lr, betas=self.betas, eps=self.eps
        )


class ScheduleFreeOptimizer(AdamWScheduleFree):
    """The authors' optimizer, with its parameters always at y.

    Its own `eval()` and `train()` convert between y and x with rounding errors, so that a run would
    depend on the number of validations; this class computes x separately and does not change y.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)
        self.train()

    @torch.no_grad()
    def averaged(self) -> dict[Tensor, Tensor]:
        """Returns x of each updated parameter, in float32 or higher.

        Computed from y = (1 - b1) z + b1 x.
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
