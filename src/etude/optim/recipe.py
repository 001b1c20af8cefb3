"""Base class of optimizer recipes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from etude.errors import Checks
from etude.optim.groups import parameter_groups
from etude.optim.widths import Rule


class OptimizerRecipe:
    """Base class of optimizer recipes: objects that return an optimizer when called with a module.

    Args:
        lr: base learning rate, which the schedule multiplies.
        weight_decay: weight decay of parameters with two or more dimensions (matrices and
            embeddings); biases and norm gains have none.
        layer_decay: see `etude.optim.groups.parameter_groups`.
        checks: object with the problems that a subclass found in its own arguments; None if the
            subclass found none. They are raised together with the problems of this class.

    Attributes:
        averages: whether the optimizer computes an average of the weights. The optimizer's method
            `averaged()` then returns a dict from each parameter to its average, which is validated
            and saved for use instead of the training weights.
        rule: muP's rule for the learning rates; None if muP has no rule for the optimizer.

    Raises:
        InvalidArguments: contains every error in the arguments.
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
        checks.that(is_valid, "layer_decay", layer_decay, "a factor above 0 and at most 1")
        checks.done()
        self.lr, self.weight_decay, self.layer_decay = lr, weight_decay, layer_decay

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Returns the parameter groups of a module: one per learning rate and weight decay.

        They are those of `etude.optim.groups.parameter_groups`, with the recipe's arguments.

        Raises:
            InvalidArguments: the module uses muP, and `rule` is None.
        """
        return parameter_groups(
            module,
            self.weight_decay,
            lr=self.lr,
            layer_decay=self.layer_decay,
            rule=self.rule,
        )

    def __call__(self, module: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of the module's trainable parameters."""
        raise NotImplementedError


def check_betas(checks: Checks, **betas: tuple[float, float]) -> None:
    """Adds a problem to `checks` for each argument that is not a pair of numbers in [0, 1)."""
    for key, value in betas.items():
        checks.that(all(0 <= b < 1 for b in value), key, value, "two numbers in [0, 1)")
