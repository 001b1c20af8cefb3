"""Learning-rate schedules: functions of the optimizer step, without state.

A schedule returns the factor by which every parameter group's base learning rate is multiplied at
optimizer step `step` (0 is the first) of `total` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from etude.counts import counted
from etude.errors import Checks


class Schedule:
    """Base class of schedules: linear warm-up over `warmup_steps`, then the subclass's `decay`.

    Args:
        warmup_steps: number of warm-up steps. Step i < warmup_steps has the factor
            (i + 1) / (warmup_steps + 1), which is above 0 at the first step.
        final_scale: learning rate at the last step, as a fraction of the base learning rate.
    """

    def __init__(self, warmup_steps: int = 0, final_scale: float = 0.0) -> None:
        checks = Checks()
        expected = "a number of steps of at least 0"
        checks.that(warmup_steps >= 0, "warmup_steps", warmup_steps, expected)
        checks.that(0 <= final_scale <= 1, "final_scale", final_scale, "a factor from 0 to 1")
        checks.done()
        self.warmup_steps = warmup_steps
        self.final_scale = final_scale

    def __call__(self, step: int, total: int) -> float:
        """Returns the factor of the learning rate at an optimizer step.

        Args:
            step: number of the step, from 0.
            total: number of optimizer steps of the run.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        span = max(1, total - 1 - self.warmup_steps)
        return self.decay(min(1.0, (step - self.warmup_steps) / span))

    def decay(self, progress: float) -> float:
        """Returns the factor of the learning rate at a step after the warm-up.

        Args:
            progress: position of the step between the end of the warm-up (0) and the last step (1).
        """
        raise NotImplementedError

    def misfit(self, total: int) -> str | None:
        """Returns why the schedule does not fit into a run of `total` steps; None if it fits.

        The reason is text for a warning. A schedule does not fit if the warm-up is not shorter than
        the run. A subclass may have further conditions.
        """
        if self.warmup_steps < total:
            return None
        run = f"the run ({counted(total, 'step')})"
        message = f"warmup_steps={self.warmup_steps} does not fit into {run}, so "
        message += "the whole run is warm-up; to change this, "
        return f"{message}set schedule.warmup_steps={total // 10}"


class Constant(Schedule):
    """Schedule with a warm-up, then the base learning rate."""

    def __init__(self, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps, 1.0)

    def decay(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Schedule with a warm-up, then linear decay to the fraction `final_scale` of the base learning
    rate at the last step.
    """

    def decay(self, progress: float) -> float:
        return 1.0 + progress * (self.final_scale - 1.0)


class Cosine(Schedule):
    """Schedule with a warm-up, then cosine decay to the fraction `final_scale` of the base learning
    rate at the last step (Loshchilov and Hutter 2016, arXiv:1608.03983).
    """

    def decay(self, progress: float) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_scale + (1.0 - self.final_scale) * cosine


class InverseSqrt(Schedule):
    """Schedule with a warm-up, then decay with the inverse square root of the step.

    In Vaswani et al. 2017, section 5.3, equation 3, the factor of the n-th step is
    min(n^-0.5, n W^-1.5). Here it is divided by its largest value, W^-0.5, so that the optimizer's
    `lr` is the learning rate at the end of the warm-up: n / W, then sqrt(W / n). W is
    `warmup_steps` + 1: the step after the warm-up has the base learning rate. The factor does not
    depend on the run's length.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)

    def __call__(self, step: int, total: int) -> float:
        n, W = step + 1, self.warmup_steps + 1
        return n / W if n < W else math.sqrt(W / n)


class WSD(Schedule):
    """Warm-up-stable-decay schedule: a warm-up, then the base learning rate for most of the run,
    and a short decay at the end of the run.

    Hu et al. 2024 (MiniCPM, arXiv:2404.06395), section 4. A checkpoint of the stable phase can be
    continued to runs of any length, each with its own decay.

    Args:
        final_scale: learning rate at the last step, as a fraction of the base learning rate.
        decay_steps: length of the decay in steps; set either this or `decay_fraction`. The decay
            does not begin before the end of the warm-up.
        decay_fraction: length of the decay as a fraction of the run, between 0 and 1.
        shape: function s(p) of the progress p of the decay, from 0 to 1. The learning rate, as a
            fraction of the base, is final_scale + (1 - final_scale) s(p). `linear` is
            s(p) = 1 - p; `sqrt` is s(p) = 1 - sqrt(p) (Hägele et al. 2024, arXiv:2405.18392,
            section 3.2); `cosine` is s(p) = (1 + cos(pi p)) / 2.
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
            "a value for exactly one of decay_steps and decay_fraction",
        )
        if decay_steps is not None:
            checks.that(decay_steps > 0, "decay_steps", decay_steps, "a positive number of steps")
        if decay_fraction is not None:
            is_valid = 0 < decay_fraction <= 1
            expected = "a fraction of the run above 0 and at most 1"
            checks.that(is_valid, "decay_fraction", decay_fraction, expected)
        checks.that(shape in _DECAYS, "shape", shape, "one of " + ", ".join(_DECAYS))
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
        return self.final_scale + (1.0 - self.final_scale) * _DECAYS[self.shape](progress)

    def length(self, total: int) -> int:
        """Returns the number of decay steps in a run of `total` steps."""
        if self.decay_steps is not None:
            return self.decay_steps
        assert self.decay_fraction is not None
        return max(1, round(self.decay_fraction * total))

    def misfit(self, total: int) -> str | None:
        room = total - 1 - self.warmup_steps
        if room >= self.length(total) or room < 0:
            return super().misfit(total)
        decay = counted(self.length(total), "step")
        return (
            f"warmup_steps={self.warmup_steps} and a decay of {decay} do not fit into the run"
            f" ({counted(total, 'step')}): at most {counted(room, 'step')} remain for the decay;"
            " shorten the warm-up or the decay"
        )


def falls(schedule: Callable[[int, int], float], total: int) -> bool:
    """Returns whether a schedule decays: whether its last factor is below its largest factor.

    Only about 100 of the run's `total` steps, spread over the whole run, are examined.

    Args:
        schedule: function that returns the factor at a step, given the step and `total`.
        total: number of optimizer steps of the run.
    """
    steps = {round(part / 100 * (total - 1)) for part in range(101)}
    return schedule(total - 1, total) < max(schedule(step, total) for step in steps)


_DECAYS = {
    "linear": lambda p: 1.0 - p,
    "sqrt": lambda p: 1.0 - math.sqrt(p),
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
}
