"""Learning rate range test: measures the loss of a temporary model while the learning rate rises.

Smith 2015, arXiv:1506.01186, section 3.3, with a learning rate that rises by a constant ratio per
step, as in fast.ai.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from etude.config.checks import CheckedConfig
from etude.counts import counted
from etude.errors import Checks, EtudeError, Interrupted
from etude.optim.schedules import Schedule
from etude.records.signature import DIGITS, signature
from etude.records.storage import check_root
from etude.training.build import build_parts
from etude.training.init_from import InitFromSource
from etude.training.malloc import retain_memory
from etude.training.memory_check import check_memory
from etude.training.model import build_model
from etude.training.process import exclusive_fresh_settings
from etude.training.progress import Progress
from etude.training.run import is_out_of_memory
from etude.training.run_folder import cache_folder
from etude.training.session import build_task
from etude.training.signals import StopSignals

log = logging.getLogger("etude")

MAX_RISE = 4.0
"""The test ends when the smoothed loss exceeds its minimum by this factor."""
SMOOTHING = 0.9
"""Decay of the running mean of the loss per step."""
MIN_STEPS = 10
"""Minimum number of steps of the test."""


@dataclass
class RangeTestResult:
    """Result of a range test.

    Attributes:
        base: Learning rate in the config (`optimizer.lr`). Each of `rates` is a possible new value
            of this setting.
        folder: Folder in which `etude.analysis.learning_rates.write_range_test` saves the results.
        rates: Learning rate of each step. A parameter group whose rate in the config is c times
            `base` is trained with c times the step's rate.
        losses: Loss of each step, before the weights are updated.
        ended: Reason why the test ended before the last step; None if it didn't.
    """

    base: float
    folder: Path
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ended: str | None = None


class RisingSchedule(Schedule):
    """Schedule whose learning rate rises from `lowest` to `highest` by a constant ratio per step.

    Args:
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step.
        base: Learning rate of the optimizer; the schedule returns multiples of it.
    """

    def __init__(self, lowest: float, highest: float, base: float = 1.0) -> None:
        super().__init__()
        self.lowest, self.highest, self.base = lowest, highest, base

    def __call__(self, step: int, total: int) -> float:
        return self.rate(step, total) / self.base

    def rate(self, step: int, total: int) -> float:
        """Returns the learning rate of step `step`, from 0, of a test with `total` steps."""
        ends = math.log(self.lowest), math.log(self.highest)
        return math.exp(ends[0] + (ends[1] - ends[0]) * step / max(1, total - 1))


def range_test(
    checked: CheckedConfig, *, lowest: float, highest: float, steps: int
) -> RangeTestResult:
    """Runs a learning rate range test: trains a temporary model as in the config, but with a rising
    learning rate and for at most `steps` steps.

    Runs in one process, without validation, callbacks, loggers and `torch.compile`. Doesn't change
    the process's random number generators or any saved run.

    Args:
        checked: Checked config of the run.
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step.
        steps: Maximum number of steps. The test ends early if the loss is not finite, or if the
            smoothed loss exceeds `MAX_RISE` times its minimum.

    Raises:
        InvalidArguments: The range is invalid.
        RequestError: The config, the data or a path is invalid.
        Interrupted: A signal stopped the test.
        EtudeError: There were too few steps with a finite loss, or too little memory.
    """
    check_range(lowest, highest, steps)
    with exclusive_fresh_settings("etude.find_learning_rate"), retain_memory():
        try:
            return _run_test(checked, lowest, highest, steps)
        except Exception as error:
            if isinstance(error, EtudeError) or not is_out_of_memory(error):
                raise
            raise EtudeError(f"{error}; reduce trainer.micro_batch to use less memory") from error


def check_range(lowest: float, highest: float, steps: int) -> None:
    """Checks the arguments of a range test.

    Raises:
        InvalidArguments: A rate is not positive, `highest` is not above `lowest`, or there are
            fewer than `MIN_STEPS` steps.
    """
    checks = Checks()
    checks.positive(lowest=lowest, highest=highest)
    if not checks.problems:
        checks.that(
            highest > lowest, "highest", highest, f"a learning rate above the lowest, {lowest:g}"
        )
    checks.that(steps >= MIN_STEPS, "steps", steps, f"at least {MIN_STEPS} steps")
    checks.done()


def _run_test(checked: CheckedConfig, lowest: float, highest: float, steps: int) -> RangeTestResult:
    parts = build_parts(checked, check_data=True)
    parts.trainer = parts.trainer.alone()
    folder = Path(checked.run.root) / "_lr" / signature(checked.identity)[:DIGITS]
    parts.trainer.check_machine()
    check_memory(checked, parts)
    check_root(folder, unsafe=checked.run.unsafe_storage)
    parts.data.prepare(cache_folder(checked))
    check_memory(checked, parts, parts.data.tokenizer_.vocab_size)
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    if checked.config.init_from.source is not None:
        InitFromSource.fill(model, checked.config.init_from, Path(checked.run.root))
    base = _base_rate(parts.optimizer, model)
    parts.data.attach(
        seed=checked.seed,
        micro_batch=parts.trainer.micro_batch,
        total_steps=steps,
        start_step=0,
        rank=0,
        world=1,
    )
    rising = RisingSchedule(lowest, highest, base)
    task = build_task(checked, parts, model, total_steps=steps, schedule=rising)
    recorder = LossRecorder(rising, steps, RangeTestResult(base, folder))
    with tempfile.TemporaryDirectory() as temporary:
        trainer = parts.trainer.build(
            total_steps=steps, callbacks=[recorder], folder=Path(temporary)
        )
        try:
            recorder.signals.install()
            trainer.fit(task, datamodule=parts.data)
        finally:
            recorder.close()
    if len(recorder.sweep.losses) < MIN_STEPS:
        reason = recorder.sweep.ended or "the test was stopped"
        count = len(recorder.sweep.losses)
        losses = counted(count, "finite loss")
        raise EtudeError(
            f"the learning-rate range test has only {losses}, but needs at least {MIN_STEPS}: "
            f"{reason}"
        )
    return recorder.sweep


def _base_rate(recipe: Any, model: Any) -> float:
    """Returns the config's setting `lr` of the optimizer; without such a setting, the highest
    learning rate among the optimizer's parameter groups.

    Args:
        recipe: Object that builds the optimizer when it is called with `model`.
    """
    stated = getattr(recipe, "lr", None)
    if isinstance(stated, int | float):
        return float(stated)
    return float(max(group["lr"] for group in recipe(model).param_groups))


class LossRecorder(pl.Callback):
    """Lightning callback that stores the loss of each step, and ends the test when a loss is not
    finite or the losses rise too far (see `range_test`).

    Args:
        rising: Schedule of the learning rate.
        steps: Number of steps of the test.
        sweep: `RangeTestResult` to which the losses are added.
    """

    def __init__(self, rising: RisingSchedule, steps: int, sweep: RangeTestResult) -> None:
        self.rising, self.steps, self.sweep = rising, steps, sweep
        self.signals = StopSignals("stopping after this step")
        self._progress: Progress | None = None
        self._mean = 0.0
        self._least = math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()  # Lightning has installed its own SIGTERM handler
        self._progress = Progress(self.steps, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.signals.begun = True
        step = len(self.sweep.losses)
        rate, loss = self.rising.rate(step, self.steps), float(outputs["loss"])
        if self._progress is not None:
            self._progress.advance(step + 1)
            self._progress.row({"train/loss": loss})
        if not math.isfinite(loss):
            self._end(trainer, f"the loss is {loss} at a learning rate of {rate:.3g}")
            return
        self.sweep.rates.append(rate)
        self.sweep.losses.append(loss)
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING ** (step + 1))
        self._least = min(self._least, smoothed)
        if smoothed > MAX_RISE * self._least > 0:
            multiple = f"{MAX_RISE:g} times its minimum"
            self._end(trainer, f"the loss exceeds {multiple} at a learning rate of {rate:.3g}")
        if self.signals.requested is not None:
            raise Interrupted(self.signals.requested)

    def close(self) -> None:
        """Restores the signal handlers and removes the progress bar."""
        self.signals.restore()
        if self._progress is not None:
            self._progress.close()

    def _end(self, trainer: pl.Trainer, reason: str) -> None:
        self.sweep.ended = reason
        trainer.should_stop = True
