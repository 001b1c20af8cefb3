"""How much memory there is: of the machine, within what this process may take, or of a GPU."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch


def memory_of_machine() -> int | None:
    """Bytes of memory and swap that processes here may take; None where nothing says so."""
    found = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {
            key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)
        }
        found.append(1024 * (kib["MemTotal"] + kib.get("SwapTotal", 0)))
    if not found:
        with suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in _cgroup_limits():
        with suppress(OSError, ValueError):
            found.append(int(limit.read_text(encoding="ascii")))
    return min(found, default=None)


def _cgroup_limits() -> list[Path]:
    """The files with the limits of this process's control group and of those around it."""
    root = Path("/sys/fs/cgroup")
    paths = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                here = root / path.lstrip("/")
                paths += [each / "memory.max" for each in (here, *here.parents) if each != root]
    return [path for path in paths if path.is_file()]


def memory_for(device: torch.device) -> int | None:
    """Bytes of the memory in which tensors on a device lie; None where nothing says so."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_of_machine()
