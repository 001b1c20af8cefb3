"""A `pytorch_lightning.Trainer` described by a config: its arguments, but for those we own."""

from __future__ import annotations

import logging
import math
import warnings
from copy import copy
from pathlib import Path
from typing import Any, Literal

from etude.errors import Checks, Problem, RequestError
from etude.records.gaps import validation_interval
from etude.training.devices import Devices
from etude.training.machine import chosen, missing_accelerator, missing_compiler

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"]

_FULL = {"32": "32-true", "64": "64-true"}

_STATED = "stated by another part of the config: "


class Trainer:
    """How long to train, how often to look, and on what.

    Args:
        max_steps, max_epochs: the length of the run, exactly one; epochs become steps when the
            data is known.
        val_check_interval: optimizer steps between validations, or a fraction of the run;
            None validates at the end alone. The end is always validated.
        gradient_clip_val: the largest global gradient norm.
        ema_decay: keep a running average of the weights (`etude.tasks.averaging`): it is what is
            validated, and what a checkpoint's weights are; None does not.
        micro_batch: examples in one forward pass; None takes the whole batch of a step.
        log_every_n_steps: steps between two rows of training metrics.
        strategy, devices: with several devices each has a process of its own, which takes its
            share of every step (`ddp`); see `etude.training.devices.Devices`.
        accelerator, num_nodes, precision, deterministic, benchmark, detect_anomaly: as
            `pytorch_lightning.Trainer` takes them.
        profiler: Lightning's, by name; its report goes into the run's folder.
        compile: whether training runs through `torch.compile`; see `training/compilation.py`.
    """

    aliases = {"precision": _FULL}  # noqa: RUF012 (read by the config's checks, before hashing)

    refused = {  # noqa: RUF012 (read by the config's checks)
        "logger": "records are written by Étude",
        "callbacks": _STATED + "callbacks=...",
        "enable_checkpointing": "see run.save_every and run.keep_every",
        "default_root_dir": "see run.root",
        "accumulate_grad_batches": "set trainer.micro_batch; data.batch is the whole step",
        "limit_train_batches": "set trainer.max_steps",
        "limit_val_batches": "validation covers the whole split",
        "overfit_batches": "set trainer.max_steps",
        "fast_dev_run": "try experiment=debug",
        "min_steps": "set trainer.max_steps",
        "min_epochs": "set trainer.max_epochs",
        "max_time": "a run is a function of its config; run.stop_at_step pauses it",
        "check_val_every_n_epoch": "set trainer.val_check_interval",
        "num_sanity_val_steps": "the config is checked before training",
        "reload_dataloaders_every_n_epochs": "data order is a function of (seed, step)",
        "use_distributed_sampler": "data order is a function of (seed, step)",
        "gradient_clip_algorithm": "gradients are clipped by their global norm",
        "enable_progress_bar": "progress is shown by Étude",
        "enable_model_summary": "the number of parameters is in run.json",
        "plugins": "checkpoints are written by Étude",
        "barebones": "records are written by Étude",
    }

    def __init__(
        self,
        max_steps: int | None = None,
        max_epochs: float | None = None,
        val_check_interval: int | float | None = None,
        gradient_clip_val: float | None = None,
        ema_decay: float | None = None,
        micro_batch: int | None = None,
        log_every_n_steps: int = 10,
        accelerator: Accelerator = "auto",
        strategy: str = "auto",
        devices: int | str | list[int] = "auto",
        num_nodes: int = 1,
        precision: Precision = "32-true",
        deterministic: bool | Literal["warn"] | None = None,
        benchmark: bool | None = None,
        detect_anomaly: bool = False,
        profiler: Literal["simple", "advanced", "pytorch"] | None = None,
        compile: bool = False,
    ) -> None:
        checks = Checks()
        lengths = [value for value in (max_steps, max_epochs) if value is not None]
        checks.that(
            len(lengths) == 1,
            "max_steps",
            max_steps,
            "exactly one of max_steps and max_epochs",
            "trainer.max_steps=null leaves it to the epochs" if lengths else None,
        )
        given = {
            "max_steps": max_steps,
            "max_epochs": max_epochs,
            "gradient_clip_val": gradient_clip_val,
            "micro_batch": micro_batch,
            "log_every_n_steps": log_every_n_steps,
            "val_check_interval": val_check_interval,
        }
        checks.positive(**{key: value for key, value in given.items() if value is not None})
        if max_steps is not None:
            checks.that(max_steps < 2**40, "max_steps", max_steps, "fewer than 2**40 steps")
        if isinstance(val_check_interval, float) and not val_check_interval.is_integer():
            checks.that(
                val_check_interval < 1,
                "val_check_interval",
                val_check_interval,
                "a whole number of steps, or a fraction of the run below 1",
            )
        if ema_decay is not None:
            checks.probability(ema_decay=ema_decay)
        self.devices = Devices(accelerator, strategy, devices)
        self.devices.note(checks, num_nodes)
        checks.done()
        self.max_steps = max_steps
        self.max_epochs = max_epochs
        self.val_check_interval = val_check_interval
        self.gradient_clip_val = gradient_clip_val
        self.ema_decay = ema_decay
        self.micro_batch = micro_batch
        self.log_every_n_steps = log_every_n_steps
        self.precision = precision
        self.profiler = profiler
        self.compile = compile
        self.lightning: dict[str, Any] = {
            "accelerator": accelerator,
            # one process needs no strategy for several
            "strategy": "auto" if strategy == "ddp" else strategy,
            "devices": 1 if devices == "auto" else devices,
            "num_nodes": num_nodes,
            "precision": precision,
            "deterministic": deterministic,
            "benchmark": benchmark,
            "detect_anomaly": detect_anomaly,
        }

    @property
    def processes(self) -> int:
        """Processes that share each optimizer step, one a device."""
        return self.devices.processes

    def alone(self) -> Trainer:
        """The same on the first of its devices, in this process alone, without a profiler."""
        same = copy(self)
        devices = self.lightning["devices"]
        one = devices[:1] if isinstance(devices, list) else 1
        same.devices = Devices(self.lightning["accelerator"], "auto", one)
        same.lightning = {**self.lightning, "strategy": "auto", "devices": one, "num_nodes": 1}
        same.profiler = None
        return same

    def check_machine(self) -> None:
        """Looks whether this machine has what the config asks for.

        Raises:
            RequestError: no such accelerator, too few GPUs, a precision that it cannot compute in,
                nothing to compile with.
        """
        accelerator = self.lightning["accelerator"]
        missing = missing_accelerator(accelerator)
        if missing is not None:
            raise RequestError(missing)
        self.devices.check()
        kind = chosen(accelerator)
        assert kind is not None
        problems = []
        if (kind, self.precision) in _CANNOT:
            expected, hint = f"one for {kind}", _CANNOT[kind, self.precision]
            problems.append(Problem("trainer.precision", expected, self.precision, hint))
        needed = missing_compiler(kind) if self.compile else None
        if needed is not None:
            problems.append(
                Problem("trainer.compile", f"false on a machine without {needed}", True)
            )
        if problems:
            raise RequestError(problems)

    def total_steps(self, steps_per_epoch: float) -> int:
        """The run's optimizer steps, given how many one pass over the data takes."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_epochs is not None
        return max(1, math.ceil(self.max_epochs * steps_per_epoch))

    def validation_interval(self, total_steps: int) -> int:
        """Optimizer steps between validations."""
        return validation_interval(self.val_check_interval, total_steps)

    def build(self, *, total_steps: int, callbacks: list[Any], folder: Path, rank: int = 0) -> Any:
        """The `pytorch_lightning.Trainer`, quiet, writing nothing of its own.

        Args:
            total_steps: where Lightning stops.
            callbacks: what happens between steps.
            folder: the run's; under SLURM, Lightning would take any `hpc_ckpt_*` in its default,
                the working folder, for a checkpoint of this run.
            rank: this process, of `processes`.

        Raises:
            RequestError: Lightning refuses the accelerator, the devices or the precision.
        """
        import pytorch_lightning as pl
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        from etude.training.checkpoints import FolderCheckpointIO
        from etude.training.ddp import SettledBuckets, SharedSteps, mute

        _silence()
        arguments = dict(self.lightning)
        if self.processes > 1:
            arguments["strategy"] = SharedSteps(rank, self.processes)
            if not isinstance(arguments["devices"], list):
                arguments["devices"] = self.processes
            callbacks = [*callbacks, SettledBuckets()]
        try:
            trainer = pl.Trainer(
                **arguments,
                max_steps=total_steps,
                max_epochs=-1,
                # our own callback validates: it has to come before saving, and after logging
                val_check_interval=total_steps + 1,
                check_val_every_n_epoch=None,
                logger=False,
                default_root_dir=folder,
                profiler=_profiler(self.profiler, folder) if rank == 0 else None,
                callbacks=callbacks,
                plugins=[FolderCheckpointIO()],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            told = {k: v for k, v in self.lightning.items() if v not in ("auto", None, False)}
            raise RequestError(
                Problem("trainer", "arguments that Lightning accepts", told, str(error))
            ) from error
        cluster = trainer._accelerator_connector.cluster_environment
        if isinstance(cluster, SLURMEnvironment):
            cluster.auto_requeue = False  # it saves in the middle of a step
        if self.processes > 1:
            mute(trainer)
        return trainer


_CANNOT = {
    ("cpu", "16-mixed"): "a CPU would quietly compute in bfloat16: bf16-mixed says so",
    ("mps", "64-true"): "an Apple GPU has no double precision",
}


def _profiler(name: str | None, folder: Path) -> Any:
    """Lightning's profiler, its report in the run's folder instead of among the messages."""
    if name is None:
        return None
    from pytorch_lightning import profilers

    kinds = {
        "simple": profilers.SimpleProfiler,
        "advanced": profilers.AdvancedProfiler,
        "pytorch": profilers.PyTorchProfiler,
    }
    return kinds[name](dirpath=folder, filename="profile")


def _silence() -> None:
    """Lightning's banners and advice are about choices that are made here, not by the user."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*You're resuming from a checkpoint that ended before.*",
        ".*GPU available but not used.*",
        ".*`training_step` returned `None`.*",
        ".*is not a Python built-in.*",
        ".*IterableDataset.*__len__.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*You have overridden `transfer_batch_to_device`.*",
        ".*sync_dist=True.*when logging on epoch level.*",
    ):
        warnings.filterwarnings("ignore", message=message)
