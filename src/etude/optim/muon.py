"""Muon optimizer: momentum whose matrices are orthogonalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.groups import parameter_groups
from etude.optim.orthogonal import Orthogonal
from etude.optim.recipe import OptimizerRecipe, check_betas
from etude.optim.several import Several
from etude.optim.widths import BY_ENTRY, BY_RMS, BY_SPECTRUM, rate_factors


class Muon(OptimizerRecipe):
    """Recipe for Muon: `Orthogonal` is the optimizer of the matrices in blocks, AdamW that of all
    other parameters, which are embeddings, heads, norms and biases (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/).

    In Étude, the projections of queries, keys and values are one matrix, which is orthogonalised as
    a whole.

    Args:
        lr: learning rate of the matrices. The schedule applies to `lr` and `adamw_lr`.
        weight_decay: weight decay of the matrices.
        momentum: decay rate of the momentum of the matrices' gradients.
        nesterov: whether to use Nesterov momentum.
        steps: number of Newton-Schulz iterations, at most 99.
        scale: scale of the update of a matrix with a rows and b columns: `original` is
            sqrt(max(1, a / b)), `match_rms_adamw` is 0.2 sqrt(max(a, b)) (Liu et al. 2025,
            arXiv:2502.16982, section 2.2).
        adamw_lr: learning rate of AdamW for the other parameters.
        betas: AdamW's decay rates of the first and second moment.
        eps: number that AdamW adds to the square root of the second moment.
        adamw_weight_decay: AdamW's weight decay of the other parameters.
    """

    rule = BY_ENTRY  # of AdamW

    def __init__(
        self,
        lr: float = 2e-2,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        scale: Literal["original", "match_rms_adamw"] = "original",
        weight_decay: float = 0.0,
        adamw_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
    ) -> None:
        checks = Checks()
        checks.probability(momentum=momentum)
        checks.positive(adamw_lr=adamw_lr, eps=eps)
        expected = "a number of iterations from 1 to 99 (the limit of torch.optim.Muon)"
        checks.that(0 < steps < 100, "steps", steps, expected)
        check_betas(checks, betas=betas)
        is_valid = 0 <= adamw_weight_decay < math.inf
        expected = "a finite number of at least 0"
        checks.that(is_valid, "adamw_weight_decay", adamw_weight_decay, expected)
        super().__init__(lr, weight_decay, checks=checks)
        self.momentum, self.nesterov, self.steps, self.scale = momentum, nesterov, steps, scale
        self.adamw_lr, self.betas, self.eps = adamw_lr, betas, eps
        self.adamw_weight_decay = adamw_weight_decay

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        named = {
            name: p
            for name, p in module.named_parameters()
            if p.requires_grad and p.dim() == 2 and "blocks." in name
        }
        matrix_groups = self._matrices(module, named)
        matrix_ids = {id(p) for p in named.values()}
        rest = [
            {**group, "params": [p for p in group["params"] if id(p) not in matrix_ids]}
            for group in parameter_groups(
                module, self.adamw_weight_decay, lr=self.adamw_lr, rule=self.rule
            )
        ]
        rest = [group for group in rest if group["params"]]
        adamw: Callable[..., Any] = torch.optim.AdamW
        optimizers = []
        if matrix_groups:
            optimizers.append(
                Orthogonal(
                    matrix_groups,
                    lr=self.lr,
                    weight_decay=self.weight_decay,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.steps,
                    adjust_lr_fn=self.scale,
                )
            )
        if rest:
            optimizers.append(
                adamw(rest, lr=self.adamw_lr, betas=self.betas, eps=self.eps, fused=True)
            )
        return optimizers[0] if len(optimizers) == 1 else Several(optimizers)

    def _matrices(self, module: nn.Module, named: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns parameter groups of matrices, one group per learning rate.

        Without muP, there is only one group.

        Args:
            module: the model.
            named: dict from the parameters' names to the matrices in blocks, which `Orthogonal`
                trains.
        """
        factors = rate_factors(module, BY_SPECTRUM if self.scale == "original" else BY_RMS)
        groups: dict[float, list[Any]] = {}
        for name, parameter in named.items():
            groups.setdefault(factors.get(name, 1.0), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.lr * factor,
                "weight_decay": self.weight_decay / factor,
            }
            for factor, parameters in groups.items()
        ]
