"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.

A schedule gives the factor that multiplies every parameter group's base rate at optimizer step
`step` (0 is the first) of `total` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

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

    def misfit(self, total: int) -> str | None:
        """What does not fit into a run of `total` steps, in words; None if all does."""
        if self.warmup_steps < total:
            return None
        told = f"a warm-up of {self.warmup_steps} steps does not end within a run of {total}"
        return f"{told}; schedule.warmup_steps={total // 10} would"


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


class InverseSqrt(Schedule):
    """Warm-up, then down with the root of the step: sqrt(W / n) at the n-th step.

    Vaswani et al. 2017, section 5.3, equation 3: min(n^-0.5, n W^-1.5) for the n-th step, here
    divided by its largest value, W^-0.5, so that the optimizer's `lr` is the rate at the end of
    the warm-up. Their W is `warmup_steps` + 1 here: the step after the warm-up has the base rate.
    Knows nothing of the run's length: what was trained so far does not depend on it.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)

    def __call__(self, step: int, total: int) -> float:
        n, W = step + 1, self.warmup_steps + 1
        return n / W if n < W else math.sqrt(W / n)


class WSD(Schedule):
    """Warm-up, stable, decay: the base rate for most of the run, a short way down at its end.

    Hu et al. 2024 (MiniCPM, arXiv:2404.06395), section 4. What was trained at the base rate serves
    runs of any length, each with a decay of its own.

    Args:
        final_scale: the factor at the last step.
        decay_steps, decay_fraction: the length of the decay in steps, or as a share of the run;
            exactly one. It begins after the warm-up at the earliest.
        shape: of the decay, its progress p running from 0 to 1: `linear` falls as 1 - p, `sqrt` as
            1 - sqrt(p) (Hägele et al. 2024, arXiv:2405.18392, section 3.2), `cosine` as half a
            cosine.
    """

    def __init__(
        self,
        warmup_steps: int = 0,
        final_scale: float = 0.0,
        decay_steps: int | None = None,
        decay_fraction: float | None = None,
        shape: Literal["linear", "sqrt", "cosine"] = "linear",
    ) -> None:
        super().__init__(warmup_steps, final_scale)
        checks = Checks()
        checks.that(
            (decay_steps is None) != (decay_fraction is None),
            "decay_steps",
            decay_steps,
            "exactly one of decay_steps and decay_fraction",
        )
        if decay_steps is not None:
            checks.that(decay_steps > 0, "decay_steps", decay_steps, "a positive number of steps")
        if decay_fraction is not None:
            right = 0 < decay_fraction <= 1
            checks.that(right, "decay_fraction", decay_fraction, "a share of the run in (0, 1]")
        checks.that(shape in _FALLS, "shape", shape, "one of " + ", ".join(_FALLS))
        checks.done()
        self.decay_steps = decay_steps
        self.decay_fraction = decay_fraction
        self.shape = shape

    def __call__(self, step: int, total: int) -> float:
        if step < self.warmup_steps:
            return super().__call__(step, total)
        last = total - 1
        begin = max(self.warmup_steps, last - self.length(total))  # the last step at the base rate
        progress = min(1.0, max(0, step - begin) / max(1, last - begin))
        return self.final_scale + (1.0 - self.final_scale) * _FALLS[self.shape](progress)

    def length(self, total: int) -> int:
        """The steps of the decay in a run of `total` steps."""
        if self.decay_steps is not None:
            return self.decay_steps
        assert self.decay_fraction is not None
        return max(1, round(self.decay_fraction * total))

    def misfit(self, total: int) -> str | None:
        room = total - 1 - self.warmup_steps
        if room >= self.length(total) or room < 0:
            return super().misfit(total)
        return (
            f"a warm-up of {self.warmup_steps} steps leaves {room} of a run's {total} for a decay"
            f" of {self.length(total)}"
        )


def falls(schedule: Callable[[int, int], float], total: int) -> bool:
    """Whether the rate ends below its largest in a run of `total` steps, seen at a hundred."""
    steps = {round(part / 100 * (total - 1)) for part in range(101)}
    return schedule(total - 1, total) < max(schedule(step, total) for step in steps)


_FALLS = {
    "linear": lambda p: 1.0 - p,
    "sqrt": lambda p: 1.0 - math.sqrt(p),
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
}
