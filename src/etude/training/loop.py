"""What happens between two optimizer steps: rows, validation, checkpoints, stopping.

One callback does all of it, in one order, after each step: metrics are written, then the model is
validated, then the state is saved. A checkpoint therefore knows the validation of its own step,
and a run that goes on from it repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from etude.errors import EtudeError, Interrupted, Problem, RequestError
from etude.loggers.views import Views
from etude.records.integrity import manifest_name
from etude.records.record import Record
from etude.training.checkpoints import checkpoint_path, retain
from etude.training.compilation import eager
from etude.training.progress import Progress
from etude.training.signals import StopSignals
from etude.training.throughput import Throughput
from etude.training.watch import watcher

log = logging.getLogger("etude")


class Diverged(EtudeError):
    """A metric became NaN or infinite.

    Args:
        metric: its name.
        step: the optimizer step (from 1) at which it first was.
        value: what it was.
    """

    def __init__(self, metric: str, step: int, value: float) -> None:
        super().__init__(f"{metric} is {value} at step {step}")
        self.metric, self.step, self.value = metric, step, value


class Paused(EtudeError):
    """`run.stop_at_step` was reached; the state is saved."""


class _ValidationCut(Exception):
    """A signal came while the model was being validated."""


class RunLoop(pl.Callback):
    """Writes, validates, saves and stops at step boundaries.

    Args:
        record: where everything goes; its lock is held by this process.
        total_steps: optimizer steps of the run.
        val_interval, log_interval, save_interval: in optimizer steps; a save interval of None
            saves at improved validations and at the end.
        keep_every: checkpoints at its multiples are kept.
        keep_last: how many of the latest are, of those that no stop asked for: which ones a run
            ends with then depends on no stop. None keeps the last and the one before.
        stop_at_step: pause there.
        tokens_per_step: targets of one optimizer step; where steps differ, each batch says its own
            as `step_tokens`.
        watch_gradients: a gradient norm that is not finite means divergence; false where loss
            scaling makes it an everyday event.
    """

    def __init__(
        self,
        *,
        record: Record,
        total_steps: int,
        val_interval: int,
        log_interval: int,
        save_interval: int | None,
        keep_every: int | None,
        keep_last: int | None = None,
        stop_at_step: int | None,
        tokens_per_step: int,
        watch_gradients: bool,
    ) -> None:
        self.record = record
        self.total_steps = total_steps
        self.val_interval = val_interval
        self.log_interval = log_interval
        self.save_interval = save_interval
        self.keep_every = keep_every
        self.keep_last = keep_last
        self.stop_at_step = stop_at_step
        self.tokens_per_step = tokens_per_step
        self.watch_gradients = watch_gradients
        self.signals = StopSignals()
        self.progress: Progress | None = None
        self.views = Views()
        self.throughput = Throughput(tokens_per_step)
        self.tokens: int | None = None  # of all steps so far
        self._tokens_since = 0  # the last row
        self._losses: list[Tensor | float] = []  # since the last row
        self._norms: list[Tensor | float] = []
        self._checked = 0  # how many of them are known to be finite
        self._seconds = 0.0  # spent training, over all starts
        self._clock = time.monotonic()
        self._row: dict[str, Any] | None = None  # waits for the validation of its step
        self._validation_due = False
        self._reported = False
        self._stopped_early = False
        self._given_up = False  # by whoever looks on
        self._saved_step = -1
        self._saves: list[int] = []  # the steps of those that no stop asked for
        self.best: dict[str, Any] | None = None

    # -- what a checkpoint must hold beside Lightning's own state ---------------------------

    def state_dict(self) -> dict[str, Any]:
        """Sums since the last row, time so far, the best validation, and whether one is due."""
        return {
            "losses": [float(value) for value in self._losses],
            "norms": [float(value) for value in self._norms],
            "tokens": self.tokens,
            "tokens_since": self._tokens_since,
            "seconds": self.seconds,
            "row": self._row,
            "validation_due": self._validation_due,
            "stopped_early": self._stopped_early,
            "best": self.best,
            "saves": self._saves,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes all of that back."""
        self._losses = list(state_dict["losses"])
        self._norms = list(state_dict["norms"])
        self._checked = len(self._losses)
        self.tokens = state_dict.get("tokens")
        self._tokens_since = state_dict.get("tokens_since", 0)
        self._seconds = state_dict["seconds"]
        self._row = state_dict["row"]
        self._validation_due = state_dict["validation_due"]
        self._stopped_early = state_dict["stopped_early"]
        self.best = state_dict["best"]
        self._saves = list(state_dict.get("saves", []))

    @property
    def seconds(self) -> float:
        """Time spent training over all starts; what a kill threw away is not counted."""
        return self._seconds + time.monotonic() - self._clock

    def close(self) -> None:
        """Gives the signals back and takes the progress bar away, however training ended."""
        self.signals.restore()
        if self.progress is not None:
            self.progress.close()

    # -- hooks ------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()  # Lightning has put its own SIGTERM handler before ours
        self._clock = time.monotonic()
        step = self._saved_step = trainer.global_step
        # A row of this very step is there if its validation was made up for before, then lost.
        self.record.metrics.cut_after(step - 1 if self._validation_due else step)
        if self.tokens is None:  # it begins, or goes on from a record that didn't count
            self.tokens = step * self.tokens_per_step
        self.views.start(self.record.rows)
        self.progress = Progress(self.total_steps, step)
        if self._validation_due:
            trainer.fit_loop.epoch_loop.val_loop.restarting = False
            self._validate_and_save(trainer, step)
        if self._stopped_early or step >= self.total_steps:
            trainer.should_stop = True
        self.throughput.start(step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        *_: Any,
    ) -> None:
        self.signals.begun = True
        step = trainer.global_step
        tokens = batch[0].get("step_tokens", self.tokens_per_step)
        self.tokens = (self.tokens or 0) + tokens
        self._tokens_since += tokens
        self._losses.append(outputs["loss"])
        if "grad_norm" in outputs:
            self._norms.append(outputs["grad_norm"])
        assert self.progress is not None
        self.progress.advance(step)
        last = step >= self.total_steps
        if step % self.log_interval == 0 or last:
            self._write_row(trainer, step)
        if step % self.val_interval == 0 or last:
            self._validation_due = True
            self._validate_and_save(trainer, step)
        elif self.save_interval and step % self.save_interval == 0:
            self._save(trainer, step)
        self._stop_if_asked(trainer, step)
        self.throughput.resume()

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.signals.requested is not None:
            raise _ValidationCut

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved_step != trainer.global_step:  # a callback asked to stop early
            self._save(trainer, trainer.global_step)

    # -- one thing each ---------------------------------------------------------------------

    def _write_row(self, trainer: pl.Trainer, step: int) -> None:
        self._check_finite(step)
        losses = _numbers(self._losses)
        row: dict[str, Any] = {
            "step": step,
            "tokens": self.tokens,
            "time": round(self.seconds, 3),
            "train/loss": math.fsum(losses) / len(losses),
        }
        if self._norms:
            row["train/grad_norm"] = float(self._norms[-1])
        row["lr"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        row |= self.throughput.since_last_row(step, self._tokens_since)
        self._losses, self._norms, self._checked, self._tokens_since = [], [], 0, 0
        if step % self.val_interval == 0 or step >= self.total_steps:
            self._row = row
        else:
            self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        self.record.metrics.append(row)
        self.views.metrics(row)
        if self.progress is not None:
            self.progress.row(row)

    def _check_finite(self, step: int) -> None:
        """Raises `Diverged` at the first loss or gradient norm that is no finite number."""
        first = step - len(self._losses) + 1
        unchecked = self._losses[self._checked :]
        for offset, value in enumerate(_numbers(unchecked)):
            at = first + self._checked + offset
            if not math.isfinite(value):
                raise Diverged("train/loss", at, value)
            if self.watch_gradients and self._norms:
                norm = float(self._norms[self._checked + offset])
                if not math.isfinite(norm):
                    raise Diverged("train/grad_norm", at, norm)
        self._checked = len(self._losses)

    def _validate_and_save(self, trainer: pl.Trainer, step: int) -> None:
        self._check_finite(step)  # reads the losses: a GPU is done with its steps
        self.throughput.pause()
        try:
            metrics = _validate(trainer)
        except _ValidationCut:
            # with `validation_due`: it is made up for on the way on
            self._save(trainer, step, asked=True)
            raise Interrupted(self.signals.requested or 0) from None
        task: Any = trainer.lightning_module
        monitor = str(task.monitor)
        if monitor not in metrics:
            expected = "a metric that the validation gives"
            given = ", ".join(metrics)
            raise RequestError(Problem("task.monitor", expected, monitor, given))
        self._report_unannounced(task, metrics)
        for name, value in metrics.items():
            undefined = math.isnan(value) and not name.endswith("loss") and name != monitor
            if not undefined and not math.isfinite(value):
                raise Diverged(name, step, value)
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._validation_due = False
        row = self._row or {"step": step, "tokens": self.tokens}
        self._row = None
        self._append(row | metrics)
        self._given_up = watcher().validated(step, metrics)
        improved = self.best is None or (
            metrics[monitor] > self.best["value"]
            if task.rises(monitor)
            else metrics[monitor] < self.best["value"]
        )
        if improved:
            self.best = {"metric": monitor, "value": metrics[monitor], "step": step}
        due = self.save_interval and step % self.save_interval == 0
        if improved or due or step >= self.total_steps:
            self._save(trainer, step)

    def _report_unannounced(self, task: Any, metrics: dict[str, float]) -> None:
        """Metrics that a task gives and does not list, once."""
        if self._reported or not task.metric_names:
            return
        self._reported = True
        listed = {*task.metric_names, *(f"val/{each}/loss" for each in task.section_names)}
        known = tuple(f"{name}/" for name in listed)
        if new := [name for name in metrics if name not in listed and not name.startswith(known)]:
            kind = type(task).__name__
            log.warning("%s.metric_names does not list %s", kind, ", ".join(new))

    def _save(self, trainer: pl.Trainer, step: int, *, asked: bool = False) -> None:
        """Saves the state.

        Args:
            asked: by a stop.
        """
        self._check_finite(step)
        self.throughput.pause()
        _check_weights(trainer.lightning_module, step)
        self._stopped_early = trainer.should_stop
        before, self._saved_step = self._saved_step, step
        if not asked:
            self._saves = [*(s for s in self._saves if s < step), step]
        if not trainer.is_global_zero:
            return
        folder: Path = self.record.path / "checkpoints"
        # The rows first: after a power cut a checkpoint that is there has its rows.
        options = {"metrics": self.record.metrics.sync()}
        trainer.save_checkpoint(checkpoint_path(folder, step), storage_options=options)
        best = self.best["step"] if self.best else step
        self.record.note_files(manifest_name(checkpoint_path(folder, step)))
        self.record.update(step=step, best=self.best)
        latest = [before] if self.keep_last is None else self._saves[-self.keep_last :]
        retain(folder, {step, best, *latest}, self.keep_every)

    def _stop_if_asked(self, trainer: pl.Trainer, step: int) -> None:
        if self.signals.requested is not None:
            if self._saved_step != step:
                self._save(trainer, step, asked=True)
            raise Interrupted(self.signals.requested)
        if step >= self.total_steps or trainer.should_stop:
            return
        if self._given_up:
            if self._saved_step != step:
                self._save(trainer, step, asked=True)
            raise Paused(f"paused at step {step} of {self.total_steps}: others do better")
        if self.stop_at_step is not None and step >= self.stop_at_step:
            if self._saved_step != step:
                self._save(trainer, step, asked=True)
            raise Paused(f"paused at step {step} of {self.total_steps}, as run.stop_at_step asks")


def _numbers(values: list[Tensor | float]) -> list[float]:
    """Brings scalars to the host in one transfer; those of a checkpoint, which come first, are."""
    there = [value for value in values if not isinstance(value, Tensor)]
    here = [value for value in values if isinstance(value, Tensor)]
    return [*there, *(torch.stack(here).cpu().double().tolist() if here else [])]


def _check_weights(module: torch.nn.Module, step: int) -> None:
    """Raises `Diverged` for weights that are no finite numbers: a gradient's NaN, before any loss.

    Without clipping nobody looks at the gradients, and a checkpoint must not hold what they did.
    """
    finite = [parameter.detach().isfinite().all() for parameter in module.parameters()]
    if not bool(torch.stack(finite).all()):
        raise Diverged("a weight", step, math.nan)


def _validate(trainer: pl.Trainer) -> dict[str, float]:
    """Runs Lightning's validation loop once, from between two training steps."""
    connector = trainer._logger_connector
    first_iteration = connector._first_loop_iter
    trainer.validating = True
    task: Any = trainer.lightning_module
    try:
        with eager(task.model), task.for_use():
            trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        connector._first_loop_iter = first_iteration
    return dict(task.validation_metrics)
