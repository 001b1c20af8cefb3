"""Base class of optimizer configs."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.groups import parameter_groups
from etude.optim.widths import Rule


class OptimizerRecipe:
    """Base class of optimizer configs: called with a module, returns its optimizer.

    Args:
        lr: base learning rate, which the schedule multiplies.
        weight_decay: weight decay of parameters with two or more dimensions (matrices and
            embeddings); biases and norm gains have none.
        layer_decay: see `etude.optim.groups.parameter_groups`.
        checks: problems that a subclass has recorded for its own arguments.

    Attributes:
        averages: whether the optimizer stores an average of the weights, returned by `averaged()`
            per parameter, which replaces the training weights in use.
        rule: muP's rule for its learning rates; None if muP has no rule for the optimizer.
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
            0 <= weight_decay < math.inf,
            "weight_decay",
            weight_decay,
            "a finite number of at least 0",
        )
        is_valid = 0 < layer_decay <= 1
        checks.that(is_valid, "layer_decay", layer_decay, "a factor in (0, 1]")
        checks.done()
        self.lr, self.weight_decay, self.layer_decay = lr, weight_decay, layer_decay

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Returns the module's parameters grouped by learning rate and weight decay."""
        return parameter_groups(
            module,
            self.weight_decay,
            lr=self.lr,
            layer_decay=self.layer_decay,
            rule=self.rule,
        )

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer."""
        raise NotImplementedError


def check_betas(checks: Checks, **betas: tuple[float, float]) -> None:
    """Records a problem unless each argument is a pair of decay rates."""
    for key, value in betas.items():
        checks.that(all(0 <= b < 1 for b in value), key, value, "two numbers in [0, 1)")
