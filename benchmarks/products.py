"""Products of a few rows with matrices of several shapes: each way that `etude.nn.linear` knows.

    python benchmarks/products.py [--quick] [--cpu-time]

Which way is the fastest depends on the machine: `etude.nn.linear.kernel_for` says what was found.
The matrices are more than a cache holds, as they are in a model. `--cpu-time` takes one thread and
counts the seconds that it was given a processor, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rows import Row, table
from torch import Tensor

from etude.nn.linear import cpu_vendor, kernel_for, linear, transposed_linear

SHAPES = {
    "GPT-2": ((768, 2304), (768, 768), (768, 3072), (3072, 768), (768, 50257)),
    "SmolLM2-135M": ((576, 960), (576, 576), (576, 1536), (1536, 576), (576, 49152)),
    "T5-small": ((512, 1536), (512, 512), (512, 2048), (2048, 512), (512, 32128)),
}
"""Inputs and outputs."""
ROWS = (1, 2, 4, 5, 8, 12)
APART = 2**27
"""Bytes of the matrices that are gone through."""
NOTES = """\
The sums over the matrices of a model, each shape once. MKL's float32 product, which torch takes, is
not made for few rows, and has other kernels for CPUs of AMD's than for Intel's. On AMD's it reads
the weights as they lie if asked for (W x^T)^T, and up to five rows cost not much more than one; on
Intel's that was not measured, and `etude.nn.linear.kernel_for` leaves it. From six rows on no way
is much faster than the others for the matrices of a block; for those of `etude.nn.linear.LARGE`
weights and more oneDNN's is.
"""


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    """oneDNN's kernel."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return found


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": linear,
    "torch": F.linear,
    "turned": transposed_linear,
    "onednn": onednn,
}


@torch.inference_mode()
def seconds(
    shape: tuple[int, int], rows: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """The median of each way, all in turn."""
    inputs, outputs = shape
    copies = max(2, APART // (4 * inputs * outputs))
    weights = [torch.randn(outputs, inputs) for _ in range(copies)]
    x = torch.randn(rows, inputs)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for way in WAYS.values():  # takes the memory, and finds the kernel
        way(x, weights[0])
    for _ in range(repeats):
        for name, way in WAYS.items():
            for weight in weights:
                began = clock()
                way(x, weight)
                found[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about products."""
    return compared(quick, time.perf_counter)


def compared(quick: bool, clock: Callable[[], float]) -> list[Row]:
    """The same by another clock."""
    found = []
    for model, shapes in SHAPES.items():
        for rows in ROWS:
            each = {shape: seconds(shape, rows, 1 if quick else 5, clock) for shape in shapes}
            sums = {name: sum(times[name] for times in each.values()) for name in WAYS}
            others = ", ".join(f"{name} {1e3 * sums[name]:.2f}" for name in WAYS if name != "ours")
            ratio = sums["torch"] / sums["ours"]
            chosen = {kernel_for(rows, a * b, cpu_vendor()) for a, b in shapes}
            note = "" if chosen == {"torch"} else f"taken: {', '.join(sorted(chosen))}"
            what = f"{model}'s matrices, {rows} {'row' if rows == 1 else 'rows'}"
            mine = f"{1e3 * sums['ours']:.2f} ms"
            found.append(Row(what, mine, f"{others} ms", ratio, "", None, note))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    asked = parser.parse_args()
    if asked.cpu_time:
        torch.set_num_threads(1)
    print(table(compared(asked.quick, time.thread_time if asked.cpu_time else time.perf_counter)))


if __name__ == "__main__":
    main()
