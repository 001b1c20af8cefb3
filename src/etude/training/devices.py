"""Which devices a config asks for: how many processes that makes, and whether they are there."""

from __future__ import annotations

import os
from dataclasses import dataclass

from etude.errors import Checks, Problem, RequestError

_SHARED = ("auto", "ddp")
"""Strategies that may stand beside several devices."""

_GPUS = ("auto", "gpu", "cuda")


@dataclass(frozen=True)
class Devices:
    """The devices of one run: each has a process of its own.

    Args:
        accelerator, strategy: as `pytorch_lightning.Trainer` takes them.
        devices: `auto`, how many, or the numbers of GPUs. `auto` is one device, but for the
            strategy `ddp` all GPUs of the machine.
    """

    accelerator: str
    strategy: str
    devices: int | str | list[int]

    @property
    def stated(self) -> int | None:
        """How many are asked for; None for `auto`, 0 for what cannot be understood."""
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
        """Processes that share each optimizer step."""
        if self.stated is not None:
            return self.stated
        return max(1, _gpus()) if self.strategy == "ddp" and self.accelerator in _GPUS else 1

    def note(self, checks: Checks, num_nodes: int) -> None:
        """Notes what is wrong with the arguments, on whatever machine."""
        checks.that(
            self.stated != 0,
            "devices",
            self.devices,
            "auto, a number of devices from 1 on, or a list of GPUs such as [0,1]",
        )
        if isinstance(self.devices, list):
            expected = "a number: only GPUs are told apart"
            checks.that(self.accelerator != "cpu", "devices", self.devices, expected)
        if self.stated is None or self.stated <= 1:
            expected = "auto, or ddp for several devices"
            known = self.strategy in (*_SHARED, "single_device")
            checks.that(known, "strategy", self.strategy, expected)
        if self.stated is not None and self.stated > 1:
            checks.that(
                self.strategy in _SHARED,
                "strategy",
                self.strategy,
                f"ddp or auto beside devices = {self.devices}",
                "each of several devices holds the whole model",
            )
        checks.that(
            num_nodes == 1,
            "num_nodes",
            num_nodes,
            "1: the processes of a run share one machine",
            "trainer=ddp trainer.devices=N takes several of its devices",
        )

    def check(self) -> None:
        """Looks whether this machine has the GPUs that are asked for.

        Raises:
            RequestError: it has fewer.
        """
        numbered = isinstance(self.devices, list)
        if self.accelerator not in _GPUS or (self.processes == 1 and not numbered):
            return
        found = _gpus()
        if not found and self.accelerator == "auto" and not numbered:
            return  # they are processes on the CPU
        highest = max(self.devices) if isinstance(self.devices, list) else self.processes - 1
        if highest >= found:
            expected = f"devices of this machine, which has {found or 'no'} GPUs that torch can use"
            hint = "trainer.accelerator=cpu takes processes on the CPU"
            raise RequestError(Problem("trainer.devices", expected, self.devices, hint))


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
