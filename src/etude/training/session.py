"""Builds a run's loop, Lightning trainer and task, in the same way in each of its processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etude.config.checks import CheckedConfig
from etude.garbage_collection import restore_collection
from etude.records.record import Record
from etude.tasks.base import Setup, Task
from etude.training.build import Parts
from etude.training.compilation import FirstBatch, compiled
from etude.training.loop import RunLoop

log = logging.getLogger("etude")


@dataclass
class TrainingSession:
    """Objects that train a run.

    Attributes:
        loop: Callback that logs, validates and saves between steps.
        trainer: Lightning's trainer.
        task: Model with its loss and optimizer.
        compile: Whether to train with `torch.compile`.
    """

    loop: RunLoop
    trainer: Any
    task: Task
    compile: bool = False

    def fit(self, data: Any, checkpoint: Path | str | None) -> None:
        """Trains the task with `data`, continuing from `checkpoint` if it is not None."""
        restore_collection()
        with compiled(self.task.model, self.compile):
            self.trainer.fit(self.task, datamodule=data, ckpt_path=checkpoint)

    @property
    def devices(self) -> list[torch.device]:
        """Devices of the run, one per process."""
        strategy = self.trainer.strategy
        return list(getattr(strategy, "parallel_devices", None) or [strategy.root_device])


def build_session(
    checked: CheckedConfig, parts: Parts, model: Any, record: Record, *, step: int, rank: int = 0
) -> TrainingSession:
    """Builds the objects that train a run from `step` on.

    Args:
        checked: Checked config of the run.
        parts: Data (prepared), optimizer, task and other objects of the run.
        model: Model, initialised from the run's seed. `TrainingSession.fit` loads the weights of a
            checkpoint.
        record: The run's folder as a `Record`, to which the loop writes.
        step: Number of optimizer steps that are already trained.
        rank: Rank of this process, below `parts.trainer.processes`.

    Raises:
        RequestError: A step cannot be divided among the processes, or Lightning rejects an
            argument.
    """
    data, settings = parts.data, parts.trainer
    total = settings.total_steps(data.steps_per_epoch)
    data.attach(
        seed=checked.seed,
        micro_batch=settings.micro_batch,
        total_steps=total,
        start_step=step,
        rank=rank,
        world=settings.processes,
    )
    for key, step_of_change in data.changes():
        if step_of_change >= total and not rank:
            log.warning(
                "%s changes after step %s, but the run has only %s steps",
                key,
                step_of_change,
                total,
            )
    loop = RunLoop(
        record=record,
        total_steps=total,
        val_interval=settings.validation_interval(total),
        log_interval=settings.log_every_n_steps,
        save_interval=checked.run.save_every,
        keep_every=checked.run.keep_every,
        keep_last=checked.run.keep_last,
        stop_at_step=checked.run.stop_at_step,
        tokens_per_step=data.tokens_per_step,
        watch_gradients=settings.lightning["precision"] != "16-mixed",
    )
    trainer = settings.build(
        # A run that was stopped after its last step still has to validate and save.
        total_steps=total if step < total else step + 1,
        callbacks=[loop, *([FirstBatch()] if settings.compile else []), *parts.callbacks],
        folder=record.path,
        rank=rank,
    )
    task = build_task(checked, parts, model, total_steps=total, schedule=parts.schedule)
    return TrainingSession(loop, trainer, task, settings.compile)


def build_task(
    checked: CheckedConfig, parts: Parts, model: Any, *, total_steps: int, schedule: Any
) -> Task:
    """Builds the task of a config: the model with its loss and optimizer.

    Args:
        checked: Checked config of the run.
        parts: Objects of the run.
        model: Model; converted to double precision if the config sets `precision` to `64-true`.
        total_steps: Optimizer steps of the run.
        schedule: Schedule of the learning rate.
    """
    settings = parts.trainer
    if settings.lightning["precision"] == "64-true":
        model = model.double()  # before its weights are restored, which would round them
    task: Task = parts.task(
        setup=Setup(
            model=model,
            optimizer=parts.optimizer,
            schedule=schedule,
            total_steps=total_steps,
            seed=checked.seed,
            gradient_clip_val=settings.gradient_clip_val,
            ema_decay=settings.ema_decay,
            labels=parts.data.labels or (),
            tokenizer=parts.data.tokenizer_,
        )
    )
    return task
