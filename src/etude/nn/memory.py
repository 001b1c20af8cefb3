"""Memory of the machine that this process may use, and memory of a GPU."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch


def memory_of_machine() -> int | None:
    """Returns the bytes of memory and swap that this process may use; None if unknown."""
    limits = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {
            key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)
        }
        limits.append(1024 * (kib["MemTotal"] + kib.get("SwapTotal", 0)))
    if not limits:
        with suppress(OSError, ValueError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in _cgroup_limits():
        with suppress(OSError, ValueError):
            limits.append(int(limit.read_text(encoding="ascii")))
    return min(limits, default=None)


def _cgroup_limits() -> list[Path]:
    """Returns the files with the memory limits of this process's control group and its parents.

    Only existing files are returned, so the list is empty where there are no control groups.
    """
    root = Path("/sys/fs/cgroup")
    paths = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                group = root / path.lstrip("/")
                paths += [each / "memory.max" for each in (group, *group.parents) if each != root]
    return [path for path in paths if path.is_file()]


def memory_for(device: torch.device) -> int | None:
    """Returns the size in bytes of the memory of a device; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_of_machine()
