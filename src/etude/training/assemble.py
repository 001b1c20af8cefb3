"""A run's loop, Lightning trainer and task, put together alike in each of its processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etude.collecting import collect_as_usual
from etude.config.checks import Checked
from etude.records.record import Record
from etude.tasks.base import Setup, Task
from etude.training.build import Parts
from etude.training.compilation import FirstBatch, compiled
from etude.training.loop import RunLoop

log = logging.getLogger("etude")


@dataclass
class Assembly:
    """What trains.

    Attributes:
        loop: what happens between two steps.
        trainer: Lightning's.
        task: the model with its loss and optimizer.
        compile: whether training goes through `torch.compile`.
    """

    loop: RunLoop
    trainer: Any
    task: Task
    compile: bool = False

    def fit(self, data: Any, checkpoint: Path | str | None) -> None:
        """Trains, from a checkpoint on if there is one."""
        collect_as_usual()
        with compiled(self.task.model, self.compile):
            self.trainer.fit(self.task, datamodule=data, ckpt_path=checkpoint)

    @property
    def devices(self) -> list[torch.device]:
        """One for each process of the run."""
        strategy = self.trainer.strategy
        return list(getattr(strategy, "parallel_devices", None) or [strategy.root_device])


def assemble(
    checked: Checked, parts: Parts, model: Any, record: Record, *, step: int, rank: int = 0
) -> Assembly:
    """Puts together what trains a run from `step` on.

    Args:
        checked, parts: the run's config, and what it describes; the data is prepared.
        model: drawn from the run's seed.
        record: where the loop writes.
        step: optimizer steps that are done already.
        rank: this process, of `parts.trainer.processes`.

    Raises:
        RequestError: the step can't be shared among the processes, or Lightning refuses something.
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
    for what, at in data.changes():
        if at >= total and not rank:
            log.warning("%s changes after step %s: the run has %s", what, at, total)
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
        # A run that was stopped at its end starts once more, for what was left undone there.
        total_steps=total if step < total else step + 1,
        callbacks=[loop, *([FirstBatch()] if settings.compile else []), *parts.callbacks],
        folder=record.path,
        rank=rank,
    )
    task = task_of(checked, parts, model, total_steps=total, schedule=parts.schedule)
    return Assembly(loop, trainer, task, settings.compile)


def task_of(checked: Checked, parts: Parts, model: Any, *, total_steps: int, schedule: Any) -> Task:
    """The task that a config describes, for so many steps.

    Args:
        model: its weights may become double.
        schedule: of the learning rate.
    """
    settings = parts.trainer
    if settings.lightning["precision"] == "64-true":
        model = model.double()  # before its weights are restored, or they are rounded
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
