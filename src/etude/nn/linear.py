"""Linear layer x W^T + b. In generation on a CPU, it uses the kernel that is fastest for the number
of rows of x.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 2**18
"""Number of weights below which no kernel is faster than torch's; 512 x 512 is not below."""
LARGE = 3 * 2**19
"""Number of weights from which oneDNN's kernel is faster for several rows; 768 x 2304 reaches it,
576 x 1536 does not (measured for 4, 8 and 12 rows on two cores).
"""
MAX_TRANSPOSED_ROWS = 5
"""Number of rows of x up to which the transposed product is faster on an AMD CPU."""

Kernel = Literal["turned", "onednn", "torch"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x W^T + b, of shape (..., F), like `F.linear`. The shapes are (..., D) for x, (F, D)
    for `weight` (W) and (F,) for `bias` (b).

    In inference mode, on a CPU, in float32, for 2 to 15 rows of x and at least `SMALL` weights, the
    fastest kernel for the shape is used; see `kernel_for`. Its sums may be rounded differently.
    """
    if weight.numel() < SMALL or not _generating(x, weight):
        return F.linear(x, weight, bias)
    kernel = kernel_for(x.numel() // x.shape[-1], weight.numel(), cpu_vendor())
    if kernel == "turned":
        return transposed_linear(x, weight, bias)
    if kernel == "onednn":
        # torch's compiler uses this kernel too; it has no public name.
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def transposed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x W^T + b, computed as (W x^T)^T + b, so that MKL reads the weights in memory
    order.
    """
    columns = x.reshape(-1, x.shape[-1]).contiguous().t()  # (D, R)
    y = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().contiguous().view(*x.shape[:-1], -1)


def kernel_for(rows: int, weights: int, vendor: str) -> Kernel:
    """Returns the fastest kernel for a product x W^T, according to measurements.

    `turned` means `transposed_linear`, `onednn` the kernel of oneDNN, and `torch` the kernel of
    `F.linear`.

    MKL, which computes torch's float32 products, needs up to three times as long for a few rows as
    for one row. On AMD CPUs MKL uses different kernels: there, the transposed product is 25 % to
    40 % faster for up to `MAX_TRANSPOSED_ROWS` rows (measured on a Zen 3 with the shapes of GPT-2,
    SmolLM2-135M and T5-small; not measured on Intel CPUs). oneDNN, which reads the weights only
    once, is faster for large matrices on AMD and Intel CPUs.

    Args:
        rows: number of rows of x.
        weights: number of weights, `SMALL` or more.
        vendor: vendor of the CPU; see `cpu_vendor`.
    """
    if vendor == "AuthenticAMD" and 2 <= rows <= MAX_TRANSPOSED_ROWS:
        return "turned"
    if weights >= LARGE and 3 <= rows < 16 and torch.backends.mkldnn.is_available():
        return "onednn"
    return "torch"


@cache
def cpu_vendor() -> str:
    """Returns the CPU's vendor identifier; empty if the system does not report it."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"^vendor_id\s*:\s*(\S+)", info.read_text() if info.exists() else "", re.M)
    return match[1] if match else platform.processor().rpartition(" ")[2]


def _generating(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
