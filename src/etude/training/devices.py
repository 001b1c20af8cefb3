"""Devices of a run: the number of processes, and checks that the devices exist."""

from __future__ import annotations

import os
from dataclasses import dataclass

from etude.errors import Checks, Problem, RequestError

_MULTI_DEVICE = ("auto", "ddp")
"""Strategies that support several devices."""

_GPU_ACCELERATORS = ("auto", "gpu", "cuda")


@dataclass(frozen=True)
class Devices:
    """Devices of one run, with one process per device.

    Args:
        accelerator: As in `pytorch_lightning.Trainer`.
        strategy: As in `pytorch_lightning.Trainer`.
        devices: `auto`, the number of devices, or a list of GPU indices. With the strategy
            `ddp`, `auto` is all GPUs of the machine, and one process if it has none; otherwise it
            is one device.
    """

    accelerator: str
    strategy: str
    devices: int | str | list[int]

    @property
    def stated(self) -> int | None:
        """Number of devices in the config; None for `auto`, 0 for an invalid value."""
        if self.devices == "auto":
            return None
        if isinstance(self.devices, list):
            distinct = len(set(self.devices)) == len(self.devices)
            return len(self.devices) if distinct and min(self.devices, default=-1) >= 0 else 0
        if isinstance(self.devices, str):
            return int(self.devices) if self.devices.isdecimal() else 0
        return max(0, self.devices)

    @property
    def processes(self) -> int:
        """Number of processes that share each optimizer step."""
        if self.stated is not None:
            return self.stated
        return (
            max(1, _gpu_count())
            if self.strategy == "ddp" and self.accelerator in _GPU_ACCELERATORS
            else 1
        )

    def check_arguments(self, checks: Checks, num_nodes: int) -> None:
        """Adds a problem for each invalid argument to `checks`; does not check which devices exist.

        Args:
            checks: Receives the problems.
            num_nodes: Value of `trainer.num_nodes`.
        """
        checks.that(
            self.stated != 0,
            "devices",
            self.devices,
            "auto, a number of devices (1 or more), or a list of different GPU indices, such as "
            "[0,1]",
        )
        if isinstance(self.devices, list):
            expected = "a number of devices, not a list, with trainer.accelerator=cpu"
            checks.that(self.accelerator != "cpu", "devices", self.devices, expected)
        if self.stated is None or self.stated <= 1:
            expected = "auto, or ddp to train on several devices"
            is_known = self.strategy in (*_MULTI_DEVICE, "single_device")
            checks.that(is_known, "strategy", self.strategy, expected)
        if self.stated is not None and self.stated > 1:
            checks.that(
                self.strategy in _MULTI_DEVICE,
                "strategy",
                self.strategy,
                f"ddp or auto, because devices is {self.devices}",
                "Étude supports only strategies in which each device has a copy of the whole model",
            )
        checks.that(
            num_nodes == 1,
            "num_nodes",
            num_nodes,
            "1, because a run uses only one machine",
            "to use N devices of this machine, set trainer=ddp trainer.devices=N",
        )

    def check(self) -> None:
        """Checks that this machine has the requested GPUs.

        Raises:
            RequestError: A requested GPU is missing.
        """
        by_index = isinstance(self.devices, list)
        if self.accelerator not in _GPU_ACCELERATORS or (self.processes == 1 and not by_index):
            return
        gpus = _gpu_count()
        if not gpus and self.accelerator == "auto" and not by_index:
            return  # the processes run on the CPU
        highest = max(self.devices) if isinstance(self.devices, list) else self.processes - 1
        if highest >= gpus:
            count = f"{gpus or 'no'} GPU{'' if gpus == 1 else 's'}"
            expected = "devices that exist on this machine"
            on_cpu = f"set trainer.accelerator=cpu trainer.devices={self.processes}"
            hint = f"torch can use {count} here; to run the processes on the CPU, {on_cpu}"
            raise RequestError(Problem("trainer.devices", expected, self.devices, hint))


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
