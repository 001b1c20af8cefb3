"""What the machine is and what it can do at most, measured here and now.

python benchmarks/machine.py
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

from etude.training.throughput import matmul_peak


def described() -> list[str]:
    """Lines of Markdown: machine, versions, and what was measured of the machine itself."""
    import transformers

    model, flags, memory = _cpu()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16")
    known = ", ".join(flag for flag in wanted if flag in flags) or platform.machine()
    cores = f"{os.cpu_count()} cores ({known})"
    threads = torch.get_num_threads()
    float32, bfloat16 = (
        matmul_peak("cpu", dtype, threads) / 1e9 for dtype in (torch.float32, torch.bfloat16)
    )
    return [
        f"- {model}, {cores}, {memory:.0f} GB of memory; {threads} threads",
        f"- Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        f"- at most {float32:.0f} GFLOP/s in float32 products, {bfloat16:.0f} in bfloat16; "
        f"{memory_bandwidth() / 1e9:.1f} GB/s read from memory",
    ]


def memory_bandwidth() -> float:
    """Bytes a second in reading a tensor of a gigabyte; the best of five."""
    tensor = torch.ones(2**28)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        tensor.sum()
        seconds.append(time.perf_counter() - began)
    return tensor.nbytes / min(seconds)


def _cpu() -> tuple[str, set[str], float]:
    """Model, flags and gigabytes of memory, as Linux tells them; elsewhere what Python knows."""
    info, memory = Path("/proc/cpuinfo"), 0.0
    if not info.exists():
        return platform.processor() or platform.machine(), set(), memory
    found = dict(
        (part.strip() for part in line.split(":", 1))
        for line in info.read_text().splitlines()
        if ":" in line
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    flags = found.get("flags", found.get("Features", "")).split()
    return found.get("model name", platform.machine()), set(flags), memory


if __name__ == "__main__":
    print("\n".join(described()))
