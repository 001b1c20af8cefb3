"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.

A schedule gives the factor that multiplies every parameter group's base rate at optimizer step
`step` (0 is the first) of `total` steps.
"""

from __future__ import annotations

import math

from etude.errors import Checks


class Schedule:
    """Linear warm-up over `warmup_steps`, then whatever `decay` says.

    Args:
        warmup_steps: step i < warmup_steps runs at (i + 1) / (warmup_steps + 1) of the base rate,
            so that the first step already learns.
        final_scale: the factor at the last step.
    """

    def __init__(self, warmup_steps: int = 0, final_scale: float = 0.0) -> None:
        checks = Checks()
        checks.that(warmup_steps >= 0, "warmup_steps", warmup_steps, "0 or more steps")
        checks.that(0 <= final_scale <= 1, "final_scale", final_scale, "a factor in [0, 1]")
        checks.done()
        self.warmup_steps = warmup_steps
        self.final_scale = final_scale

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        span = max(1, total - 1 - self.warmup_steps)
        return self.decay(min(1.0, (step - self.warmup_steps) / span))

    def decay(self, progress: float) -> float:
        """The factor after warm-up, `progress` running from 0 to 1 at the last step."""
        raise NotImplementedError


class Constant(Schedule):
    """Warm-up, then the base rate."""

    def __init__(self, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps, 1.0)

    def decay(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Warm-up, then a straight line down to `final_scale`."""

    def decay(self, progress: float) -> float:
        return 1.0 + progress * (self.final_scale - 1.0)


class Cosine(Schedule):
    """Warm-up, then half a cosine down to `final_scale` (Loshchilov and Hutter, 1608.03983)."""

    def decay(self, progress: float) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_scale + (1.0 - self.final_scale) * cosine
