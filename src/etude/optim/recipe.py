"""What the recipes of all optimizers share."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.groups import parameter_groups
from etude.optim.widths import Rule


class OptimizerRecipe:
    """Called with a module, it makes the optimizer of the module's trainable parameters.

    Args:
        lr: the base learning rate, which the schedule multiplies.
        weight_decay: of parameters of two or more dimensions (matrices and embeddings); biases and
            norm gains keep their size.
        layer_decay: see `etude.optim.groups.parameter_groups`.
        checks: what a subclass has noted of its own arguments.

    Attributes:
        averages: its optimizer keeps an average of the weights, which `averaged()` gives by
            parameter; it is what the model is used with.
        rule: what muP makes of the rates; None is of an optimizer that it says nothing of.
    """

    averages = False
    rule: ClassVar[Rule | None] = None

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        layer_decay: float = 1.0,
        checks: Checks | None = None,
    ) -> None:
        checks = checks or Checks()
        checks.positive(lr=lr)
        checks.that(
            0 <= weight_decay < math.inf, "weight_decay", weight_decay, "a finite number from 0 on"
        )
        inside = 0 < layer_decay <= 1
        checks.that(inside, "layer_decay", layer_decay, "a factor above 0, up to 1")
        checks.done()
        self.lr, self.weight_decay, self.layer_decay = lr, weight_decay, layer_decay

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """The module's parameters by rate and decay."""
        return parameter_groups(
            module,
            self.weight_decay,
            lr=self.lr,
            layer_decay=self.layer_decay,
            rule=self.rule,
        )

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer."""
        raise NotImplementedError


def check_betas(checks: Checks, **betas: tuple[float, float]) -> None:
    """Each must be two decay rates."""
    for key, value in betas.items():
        checks.that(all(0 <= b < 1 for b in value), key, value, "two numbers in [0, 1)")
