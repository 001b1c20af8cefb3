"""Callback that logs, validates, saves and stops between optimizer steps.

After each step the callback first writes metrics, then validates the model, then saves the state. A
checkpoint of a step therefore contains the validation of this step. A run that continues from it
neither repeats nor skips anything.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from etude.errors import EtudeError, Interrupted, Problem, RequestError
from etude.loggers.run_loggers import RunLoggers
from etude.records.integrity import manifest_name
from etude.records.record import Record
from etude.training.checkpoints import checkpoint_path, retain
from etude.training.compilation import eager
from etude.training.observer import current_observer
from etude.training.progress import Progress
from etude.training.signals import StopSignals
from etude.training.throughput import Throughput

log = logging.getLogger("etude")


class Diverged(EtudeError):
    """Raised when a metric or a weight becomes NaN or infinite.

    Args:
        metric: Name of the metric.
        step: First optimizer step (from 1) with such a value.
        value: NaN or an infinite value.
    """

    def __init__(self, metric: str, step: int, value: float) -> None:
        super().__init__(f"{metric} is {value} at step {step}")
        self.metric, self.step, self.value = metric, step, value


class Paused(EtudeError):
    """Raised when `run.stop_at_step` is reached or a sweep prunes the run; the state is saved."""


class _ValidationInterrupted(Exception):
    """Raised when a signal interrupts the validation."""


class RunLoop(pl.Callback):
    """Lightning callback that logs, validates, saves and stops between optimizer steps.

    Args:
        record: The run's folder as a `Record`, locked by this process.
        total_steps: Optimizer steps of the run.
        val_interval: Optimizer steps between validations.
        log_interval: Optimizer steps between rows of metrics.
        save_interval: Optimizer steps between regular checkpoints; None saves no regular
            checkpoints. A checkpoint is always saved after a validation with the best result so
            far, and at the end.
        keep_every: Checkpoints of steps that are multiples of this number are never deleted. None
            doesn't protect any.
        keep_last: Number of latest checkpoints to keep. Checkpoints saved because of a stop are not
            counted, so that a finished run has the same checkpoints with or without stops. None
            keeps the last two checkpoints, whatever the reason for which they were saved. The
            newest checkpoint and that of the best validation are always kept, too.
        stop_at_step: Optimizer step at which to pause; None doesn't pause.
        tokens_per_step: Number of target tokens in one optimizer step. If steps have different
            numbers of tokens, each batch contains the number of tokens of its step as
            `step_tokens`.
        watch_gradients: Whether training counts as diverged if a gradient norm is not finite; false
            with loss scaling, where non-finite norms are normal.
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
        self.loggers = RunLoggers()
        self.throughput = Throughput(tokens_per_step)
        self.tokens: int | None = None  # of all steps so far
        self._tokens_since = 0  # since the last row
        self._losses: list[Tensor | float] = []  # since the last row
        self._norms: list[Tensor | float] = []
        self._checked = 0  # number of losses known to be finite
        self._seconds = 0.0  # of training, over all starts
        self._clock = time.monotonic()
        self._row: dict[str, Any] | None = None  # waits for the validation of its step
        self._validation_due = False
        self._reported = False
        self._stopped_early = False
        self._given_up = False  # by the watcher
        self._saved_step = -1
        self._saves: list[int] = []  # steps of checkpoints that were not saved because of a stop
        self.best: dict[str, Any] | None = None

    # -- state in checkpoints, in addition to Lightning's own -------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns the callback's state for a checkpoint: the losses since the last row of metrics,
        the training time, and the state of validation and checkpoints.
        """
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
        """Restores the state returned by `state_dict`."""
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
        """Seconds of training over all starts of the run. Does not include the time of steps that
        were lost because a process was killed.
        """
        return self._seconds + time.monotonic() - self._clock

    def close(self) -> None:
        """Restores the signal handlers and removes the progress bar."""
        self.signals.restore()
        if self.progress is not None:
            self.progress.close()

    # -- hooks ------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.install()  # Lightning has installed its own SIGTERM handler
        self._clock = time.monotonic()
        step = self._saved_step = trainer.global_step
        # The row of this step exists if an earlier start validated it but was killed before saving.
        self.record.metrics.truncate_after(step - 1 if self._validation_due else step)
        if self.tokens is None:  # a new run, or a checkpoint of a version that didn't count tokens
            self.tokens = step * self.tokens_per_step
        self.loggers.start(self.record.rows)
        task: Any = trainer.lightning_module
        self.progress = Progress(self.total_steps, step, str(task.monitor))
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
            raise _ValidationInterrupted

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved_step != trainer.global_step:  # a callback stopped training early
            self._save(trainer, trainer.global_step)

    # -- steps of the loop ------------------------------------------------------------------

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
        self.loggers.metrics(row)
        if self.progress is not None:
            self.progress.row(row, self.best)

    def _check_finite(self, step: int) -> None:
        """Checks the losses and gradient norms since the last check, up to optimizer step `step`.
        Raises `Diverged` for the first one that is not finite.
        """
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
        self._check_finite(step)  # also waits until a GPU has finished its steps
        self.throughput.pause()
        try:
            metrics = _validate(trainer)
        except _ValidationInterrupted:
            # with `validation_due`: the run validates when it continues
            self._save(trainer, step, for_stop=True)
            raise Interrupted(self.signals.requested or 0) from None
        task: Any = trainer.lightning_module
        monitor = str(task.monitor)
        if monitor not in metrics:
            expected = "a metric that the validation computes"
            hint = f"choose from: {', '.join(metrics)}"
            raise RequestError(Problem(task.monitor_key(), expected, monitor, hint))
        self._warn_of_unlisted_metrics(task, metrics)
        for name, value in metrics.items():
            undefined = math.isnan(value) and not name.endswith("loss") and name != monitor
            if not undefined and not math.isfinite(value):
                raise Diverged(name, step, value)
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._validation_due = False
        row = self._row or {"step": step, "tokens": self.tokens}
        self._row = None
        improved = self.best is None or (
            metrics[monitor] > self.best["value"]
            if task.rises(monitor)
            else metrics[monitor] < self.best["value"]
        )
        if improved:
            self.best = {"metric": monitor, "value": metrics[monitor], "step": step}
        self._append(row | metrics)
        self._given_up = current_observer().validated(step, metrics)
        due = self.save_interval and step % self.save_interval == 0
        if improved or due or step >= self.total_steps:
            self._save(trainer, step)

    def _warn_of_unlisted_metrics(self, task: Any, metrics: dict[str, float]) -> None:
        """Logs one warning if the task computes metrics that its `metric_names` doesn't list."""
        if self._reported or not task.metric_names:
            return
        self._reported = True
        listed = {*task.metric_names, *(f"val/{each}/loss" for each in task.section_names)}
        known = ("inside/", *(f"{name}/" for name in listed))  # `inside/`: of `Measured`
        if new := [name for name in metrics if name not in listed and not name.startswith(known)]:
            kind = type(task).__name__
            message = "%s computes metrics that its metric_names doesn't list: %s"
            log.warning(message, kind, ", ".join(new))

    def _save(self, trainer: pl.Trainer, step: int, *, for_stop: bool = False) -> None:
        """Saves a checkpoint of the state; only rank 0 writes it.

        Args:
            trainer: Lightning's trainer.
            step: Current optimizer step.
            for_stop: Whether the checkpoint is saved because of a stop.
        """
        self._check_finite(step)
        self.throughput.pause()
        _check_weights(trainer.lightning_module, step)
        self._stopped_early = trainer.should_stop
        before, self._saved_step = self._saved_step, step
        if not for_stop:
            self._saves = [*(s for s in self._saves if s < step), step]
        if not trainer.is_global_zero:
            return
        folder: Path = self.record.path / "checkpoints"
        # Rows first, so that after a power cut each checkpoint has its rows.
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
                self._save(trainer, step, for_stop=True)
            number = signal.Signals(self.signals.requested).name
            text = f"interrupted at step {step:,} of {self.total_steps:,} ({number})"
            raise Interrupted(self.signals.requested, text)
        if step >= self.total_steps or trainer.should_stop:
            return
        if self._given_up:
            if self._saved_step != step:
                self._save(trainer, step, for_stop=True)
            raise Paused(f"pruned by the sweep at step {step} of {self.total_steps}")
        if self.stop_at_step is not None and step >= self.stop_at_step:
            if self._saved_step != step:
                self._save(trainer, step, for_stop=True)
            raise Paused(f"paused at step {step} of {self.total_steps} (run.stop_at_step)")


def _numbers(values: list[Tensor | float]) -> list[float]:
    """Returns `values` as floats; all tensors are copied from the device in one transfer.

    Values restored from a checkpoint are already floats; they precede all tensors in `values`.
    """
    floats = [value for value in values if not isinstance(value, Tensor)]
    tensors = [value for value in values if isinstance(value, Tensor)]
    return [*floats, *(torch.stack(tensors).cpu().double().tolist() if tensors else [])]


def _check_weights(module: torch.nn.Module, step: int) -> None:
    """Raises `Diverged` if a weight is not finite.

    Without clipping, gradients are not checked, so a weight may become NaN before a loss does. Such
    weights must not be saved in a checkpoint.
    """
    finite = [parameter.detach().isfinite().all() for parameter in module.parameters()]
    if not bool(torch.stack(finite).all()):
        raise Diverged("a weight", step, math.nan)


def _validate(trainer: pl.Trainer) -> dict[str, float]:
    """Runs Lightning's validation loop once, between two training steps.

    Returns a dict from the names of the validation metrics to their values.
    """
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
