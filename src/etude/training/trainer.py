"""Config of a `pytorch_lightning.Trainer`, without the arguments that Étude sets itself."""

from __future__ import annotations

import logging
import math
import warnings
from copy import copy
from pathlib import Path
from typing import Any, Literal

from etude.errors import Checks, Problem, RequestError
from etude.records.missing_rows import validation_interval
from etude.training.devices import Devices
from etude.training.machine import missing_accelerator, missing_compiler, select_accelerator

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"]

_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}

_LENGTH_HINT = "set one of them to null: trainer.max_steps=null or trainer.max_epochs=null"

_ELSEWHERE = "set by another key of the config: "


class Trainer:
    """Config of the training loop: its length, the intervals of validation and logging, and the
    devices.

    Args:
        max_steps: Length of the run in optimizer steps; set exactly one of `max_steps` and
            `max_epochs`.
        max_epochs: Length of the run in passes over the training data, rounded up to steps.
        val_check_interval: Optimizer steps between validations, or a fraction of the run; None
            validates only at the end. The end is always validated.
        gradient_clip_val: Maximum global norm of the gradient; None doesn't clip.
        ema_decay: Decay of an exponential moving average of the weights (`etude.tasks.averaging`),
            which is validated and saved in checkpoints; None disables it.
        micro_batch: Examples in one forward pass; None uses the whole batch of a step.
        log_every_n_steps: Optimizer steps between two rows of training metrics.
        accelerator: As in `pytorch_lightning.Trainer`.
        strategy: `ddp`, or `auto`, which is `ddp` if `devices` sets several devices. With `ddp`,
            each device has its own process, which computes a part of every optimizer step.
        devices: Number of devices, list of GPU indices, or `auto`: with `strategy=ddp`, all GPUs of
            the machine, and one process if it has none; otherwise one device. `trainer=ddp` sets 2:
            two GPUs, or two processes on a machine without GPUs.
        num_nodes: Must be 1.
        precision: As in `pytorch_lightning.Trainer`.
        deterministic: As in `pytorch_lightning.Trainer`.
        benchmark: As in `pytorch_lightning.Trainer`.
        detect_anomaly: As in `pytorch_lightning.Trainer`.
        profiler: Name of a Lightning profiler; its report is written to the run's folder.
        compile: Whether to train with `torch.compile`; see `etude.training.compilation`.
    """

    aliases = {"precision": _PRECISIONS}  # noqa: RUF012 (used by the config's checks, before hashing)

    refused = {  # noqa: RUF012 (used by the config's checks)
        "logger": "Étude writes the metrics itself; to add loggers, set logger=...",
        "callbacks": _ELSEWHERE + "callbacks=...",
        "enable_checkpointing": "set run.save_every and run.keep_every",
        "default_root_dir": "set run.root",
        "accumulate_grad_batches": "set trainer.micro_batch; data.batch is the batch of a step",
        "limit_train_batches": "set trainer.max_steps",
        "limit_val_batches": "validation uses the whole split",
        "overfit_batches": "set trainer.max_steps",
        "fast_dev_run": "try experiment=debug",
        "min_steps": "set trainer.max_steps",
        "min_epochs": "set trainer.max_epochs",
        "max_time": "the length of a run must not depend on time; to pause, set run.stop_at_step",
        "check_val_every_n_epoch": "set trainer.val_check_interval",
        "num_sanity_val_steps": "not needed: Étude checks the config before training",
        "reload_dataloaders_every_n_epochs": "the data order depends only on seed and step",
        "use_distributed_sampler": "the data order depends only on seed and step",
        "gradient_clip_algorithm": "gradients are always clipped by their global norm",
        "enable_progress_bar": "Étude shows its own progress bar",
        "enable_model_summary": "run.json contains the number of parameters",
        "plugins": "Étude writes the checkpoints itself",
        "barebones": "Étude always writes metrics and checkpoints",
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
            _LENGTH_HINT if lengths else None,
        )
        optional = {
            "max_steps": max_steps,
            "max_epochs": max_epochs,
            "gradient_clip_val": gradient_clip_val,
            "micro_batch": micro_batch,
            "log_every_n_steps": log_every_n_steps,
            "val_check_interval": val_check_interval,
        }
        checks.positive(**{key: value for key, value in optional.items() if value is not None})
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
        self.devices.check_arguments(checks, num_nodes)
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
            # with several devices, `build` sets the strategy
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
        """Number of processes that share each optimizer step, one per device."""
        return self.devices.processes

    def alone(self) -> Trainer:
        """Returns a copy of this config for a single process, which uses the first of the devices
        and no profiler.
        """
        same = copy(self)
        devices = self.lightning["devices"]
        one = devices[:1] if isinstance(devices, list) else 1
        same.devices = Devices(self.lightning["accelerator"], "auto", one)
        same.lightning = {**self.lightning, "strategy": "auto", "devices": one, "num_nodes": 1}
        same.profiler = None
        return same

    def check_machine(self) -> None:
        """Checks that this machine has the devices, the precision and the compiler that are set.

        Raises:
            RequestError: The accelerator or a GPU is missing, the precision isn't supported, or
                there is no compiler.
        """
        accelerator = self.lightning["accelerator"]
        missing = missing_accelerator(accelerator)
        if missing is not None:
            raise RequestError(missing)
        self.devices.check()
        kind = select_accelerator(accelerator)
        assert kind is not None
        problems = []
        if (kind, self.precision) in _UNSUPPORTED:
            expected = f"a precision that {kind} supports"
            hint = _UNSUPPORTED[kind, self.precision]
            problems.append(Problem("trainer.precision", expected, self.precision, hint))
        lacking = missing_compiler(kind) if self.compile else None
        if lacking is not None:
            problems.append(
                Problem("trainer.compile", f"false, because this machine lacks {lacking}", True)
            )
        if problems:
            raise RequestError(problems)

    def total_steps(self, steps_per_epoch: float) -> int:
        """Returns the number of optimizer steps of the run.

        Args:
            steps_per_epoch: Optimizer steps in one pass over the training data.
        """
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_epochs is not None
        return max(1, math.ceil(self.max_epochs * steps_per_epoch))

    def validation_interval(self, total_steps: int) -> int:
        """Returns the number of optimizer steps between validations."""
        return validation_interval(self.val_check_interval, total_steps)

    def build(self, *, total_steps: int, callbacks: list[Any], folder: Path, rank: int = 0) -> Any:
        """Builds the `pytorch_lightning.Trainer`, without Lightning's output, logs and checkpoints.

        Args:
            total_steps: Optimizer step at which Lightning stops.
            callbacks: Lightning callbacks.
            folder: The run's folder.
            rank: Rank of this process, below `processes`.

        Raises:
            RequestError: Lightning rejects the accelerator, the devices or the precision.
        """
        import pytorch_lightning as pl
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        from etude.training.checkpoints import FolderCheckpointIO
        from etude.training.ddp import SettledBuckets, SharedSteps, disable_sigterm_handling

        _silence()
        arguments = dict(self.lightning)
        # Under SLURM or torchrun, Lightning would read the number of processes from variables,
        # load any `hpc_ckpt_*` as a checkpoint of this run, and save one in the middle of a step.
        plugins: list[Any] = [FolderCheckpointIO()]
        if self.processes == 1:
            plugins.append(LightningEnvironment())
        else:
            arguments["strategy"] = SharedSteps(rank, self.processes)
            if not isinstance(arguments["devices"], list):
                arguments["devices"] = self.processes
            callbacks = [*callbacks, SettledBuckets()]
        try:
            trainer = pl.Trainer(
                **arguments,
                max_steps=total_steps,
                max_epochs=-1,
                # RunLoop validates, between logging and saving
                val_check_interval=total_steps + 1,
                check_val_every_n_epoch=None,
                logger=False,
                default_root_dir=folder,
                profiler=_profiler(self.profiler, folder) if rank == 0 else None,
                callbacks=callbacks,
                plugins=plugins,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            stated = {k: v for k, v in self.lightning.items() if v not in ("auto", None, False)}
            raise RequestError(
                Problem("trainer", "arguments that Lightning accepts", stated, str(error))
            ) from error
        if self.processes > 1:
            disable_sigterm_handling(trainer)
        return trainer


_UNSUPPORTED = {
    ("cpu", "16-mixed"): "a CPU would silently use bfloat16; set trainer.precision=bf16-mixed",
    ("mps", "64-true"): "Apple GPUs don't support double precision",
}


def _profiler(name: str | None, folder: Path) -> Any:
    """Returns the Lightning profiler with a given name; its report is written to `folder`.

    Args:
        name: `simple`, `advanced` or `pytorch`; None returns None.
        folder: Folder for the report.
    """
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
    """Suppresses Lightning's banners, and its advice about settings that only Étude can change."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*You're resuming from a checkpoint that ended before.*",
        ".*GPU available but not used.*",
        ".*`srun` command is available.*",
        ".*`training_step` returned `None`.*",
        ".*is not a Python built-in.*",
        ".*IterableDataset.*__len__.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*You have overridden `transfer_batch_to_device`.*",
        ".*sync_dist=True.*when logging on epoch level.*",
    ):
        warnings.filterwarnings("ignore", message=message)
