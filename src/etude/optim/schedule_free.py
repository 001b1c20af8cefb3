"""Schedule-free AdamW: an average of the weights in the place of a falling rate."""

from __future__ import annotations

from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from etude.errors import Checks
from etude.optim.adamw import AdamW


class ScheduleFree(AdamW):
    """A recipe for the authors' `schedulefree.AdamWScheduleFree` (Defazio et al. 2024,
    arXiv:2405.15682, algorithm 1).

    Adam steps z; x averages z, each step weighted by the square of the largest rate so far; and
    gradients are taken between them, at y = (1 - b1) z + b1 x. Training goes on at y; x is what is
    validated, saved for use and kept (see `etude.tasks.averaging`).

    The authors take rates 1 to 10 times AdamW's, and a schedule that warms up and stays. In
    `bf16-true` the later, small moves of an average are lost.

    Args:
        lr, weight_decay, layer_decay, eps: as of `AdamW`; weights decay at y.
        betas: of the way from z to x at which gradients are taken, and of the second moment.
    """

    averages = True

    def check_betas(self, checks: Checks, betas: tuple[float, float]) -> None:
        super().check_betas(checks, betas)
        checks.that(betas[0] > 0, "betas", betas, "a first one above 0: at 0 nothing is averaged")

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the module's trainable parameters."""
        return ScheduleFreeOptimizer(
            self.groups(module), lr=self.lr, betas=self.betas, eps=self.eps
        )


class ScheduleFreeOptimizer(AdamWScheduleFree):
    """The authors' optimizer, its parameters always at y.

    Its own `eval()` and `train()` lead from y to x and back but for rounding, and a run would
    depend on how often it was validated; here x is computed beside y, which is not touched.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)
        self.train()

    @torch.no_grad()
    def averaged(self) -> dict[Tensor, Tensor]:
        """x of each parameter that was stepped, in single precision at least.

        From y = (1 - b1) z + b1 x.
        """
        found = {}
        for group in self.param_groups:
            first = group["betas"][0]
            for y in group["params"]:
                if "z" in self.state[y]:
                    precise = torch.promote_types(y.dtype, torch.float32)
                    z = self.state[y]["z"].to(precise)
                    found[y] = y.detach().to(precise).lerp(z, 1 - 1 / first)
        return found
