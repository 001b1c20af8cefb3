"""How the loss goes while the learning rate rises, on a model that is thrown away.

Smith 2015, arXiv:1506.01186, section 3.3, with a rate that rises by the same factor each step, as
in fast.ai.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from etude.config.checks import Checked
from etude.errors import Checks, EtudeError, Interrupted
from etude.optim.schedules import Schedule
from etude.records.signature import DIGITS, signature
from etude.records.storage import check_root
from etude.training.assemble import task_of
from etude.training.build import build_parts
from etude.training.initial import Initial
from etude.training.memory import keeping_memory
from etude.training.model import build_model
from etude.training.place import cache_folder
from etude.training.process import as_in_a_fresh_process
from etude.training.progress import Progress
from etude.training.room import check_room
from etude.training.run import is_out_of_memory
from etude.training.signals import StopSignals

log = logging.getLogger("etude")

TOO_MUCH = 4.0
"""Times its minimum: where the smoothed loss is above that, the test ends."""
KEPT = 0.9
"""Of the running mean of the loss, a step."""
FEWEST = 10


@dataclass
class Sweep:
    """What was seen.

    Attributes:
        rates: of each step; other parameter groups' are in proportion.
        losses: of each, before it was made.
        base: the rate that the config states, as which `rates` are told.
        ended: why it ended before the last step, in words; None if it did not.
        folder: where what is found of it belongs.
    """

    base: float
    folder: Path
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ended: str | None = None


class Rising(Schedule):
    """From `lowest` at the first step to `highest` at the last, by the same factor each step.

    Args:
        lowest, highest: rates.
        base: the rate that the factor multiplies.
    """

    def __init__(self, lowest: float, highest: float, base: float = 1.0) -> None:
        super().__init__()
        self.lowest, self.highest, self.base = lowest, highest, base

    def __call__(self, step: int, total: int) -> float:
        return self.rate(step, total) / self.base

    def rate(self, step: int, total: int) -> float:
        """The rate at `step` of `total`."""
        ends = math.log(self.lowest), math.log(self.highest)
        return math.exp(ends[0] + (ends[1] - ends[0]) * step / max(1, total - 1))


def range_test(checked: Checked, *, lowest: float, highest: float, steps: int) -> Sweep:
    """Trains a model as the config says, but for its rate and its length, and keeps nothing of it.

    One process, without validation, callbacks, loggers and `torch.compile`. The process's random
    numbers are as before, and no record is touched.

    Args:
        lowest, highest: the first step's rate and the last's.
        steps: at most; the test ends where the loss is no finite number, or smoothed above
            `TOO_MUCH` times its minimum.

    Raises:
        InvalidArguments: this is no range.
        RequestError: the config, the data or a path is wrong.
        Interrupted: a signal came.
        EtudeError: no step could be made.
    """
    check_range(lowest, highest, steps)
    with as_in_a_fresh_process("etude.find_learning_rate"), keeping_memory():
        try:
            return _tested(checked, lowest, highest, steps)
        except Exception as error:
            if isinstance(error, EtudeError) or not is_out_of_memory(error):
                raise
            raise EtudeError(f"{error}; a smaller trainer.micro_batch needs less") from error


def check_range(lowest: float, highest: float, steps: int) -> None:
    """Refuses what is no range.

    Raises:
        InvalidArguments: says what is wrong.
    """
    checks = Checks()
    checks.positive(lowest=lowest, highest=highest)
    if not checks.problems:
        checks.that(highest > lowest, "highest", highest, f"a rate above the lowest, {lowest:g}")
    checks.that(steps >= FEWEST, "steps", steps, f"{FEWEST} steps or more")
    checks.done()


def _tested(checked: Checked, lowest: float, highest: float, steps: int) -> Sweep:
    parts = build_parts(checked)
    parts.trainer = parts.trainer.alone()
    folder = Path(checked.run.root) / "_lr" / signature(checked.identity)[:DIGITS]
    parts.data.check()
    parts.trainer.check_machine()
    check_room(checked, parts)
    check_root(folder, unsafe=checked.run.unsafe_storage)
    parts.data.prepare(cache_folder(checked))
    check_room(checked, parts, parts.data.tokenizer_.vocab_size)
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    if checked.config.init_from.source is not None:
        Initial.fill(model, checked.config.init_from, Path(checked.run.root))
    base = _base_rate(parts.optimizer, model)
    parts.data.attach(
        seed=checked.seed,
        micro_batch=parts.trainer.micro_batch,
        total_steps=steps,
        start_step=0,
        rank=0,
        world=1,
    )
    rising = Rising(lowest, highest, base)
    task = task_of(checked, parts, model, total_steps=steps, schedule=rising)
    watch = Watch(rising, steps, Sweep(base, folder))
    with tempfile.TemporaryDirectory() as nothing:
        trainer = parts.trainer.build(total_steps=steps, callbacks=[watch], folder=Path(nothing))
        try:
            watch.signals.install()
            trainer.fit(task, datamodule=parts.data)
        finally:
            watch.close()
    if len(watch.sweep.losses) < FEWEST:
        found = watch.sweep.ended or "too few steps"
        raise EtudeError(f"nothing to see: {found}, after {len(watch.sweep.losses)} steps")
    return watch.sweep


def _base_rate(recipe: Any, model: Any) -> float:
    """`optimizer.lr`; of an optimizer that has none, the largest of its groups."""
    stated = getattr(recipe, "lr", None)
    if isinstance(stated, int | float):
        return float(stated)
    return float(max(group["lr"] for group in recipe(model).param_groups))


class Watch(pl.Callback):
    """Notes the loss of each step, and ends the test where it rises too far.

    Args:
        rising: the rate by step.
        steps: of the whole test.
        sweep: where it is noted.
    """

    def __init__(self, rising: Rising, steps: int, sweep: Sweep) -> None:
        self.rising, self.steps, self.sweep = rising, steps, sweep
        self.signals = StopSignals("stopping after this step")
        self._progress: Progress | None = None
        self._mean = 0.0
        self._least = math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()  # Lightning has put its own SIGTERM handler before ours
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
            self._end(trainer, f"the loss is {loss} at a rate of {rate:.3g}")
            return
        self.sweep.rates.append(rate)
        self.sweep.losses.append(loss)
        self._mean = KEPT * self._mean + (1 - KEPT) * loss
        smoothed = self._mean / (1 - KEPT ** (step + 1))
        self._least = min(self._least, smoothed)
        if smoothed > TOO_MUCH * self._least > 0:
            told = f"the loss is above {TOO_MUCH:g} times its minimum at a rate of {rate:.3g}"
            self._end(trainer, told)
        if self.signals.requested is not None:
            raise Interrupted(self.signals.requested)

    def close(self) -> None:
        """Gives the signals back, and takes the progress bar away."""
        self.signals.restore()
        if self._progress is not None:
            self._progress.close()

    def _end(self, trainer: pl.Trainer, told: str) -> None:
        self.sweep.ended = told
        trainer.should_stop = True
