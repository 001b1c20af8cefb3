"""x W^T + b, with the kernel that suits the number of rows when generating on a CPU."""

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
"""Weights of a matrix below which torch's own way is as fast as any: 512 x 512 is not."""
LARGE = 3 * 2**19
"""Weights from which on oneDNN's kernel is the faster one for several rows: 768 x 2304, but not
576 x 1536 (measured for 4, 8 and 12 rows on two cores)."""
TURNED = 5
"""Rows up to which the product is faster the other way round, on a CPU of AMD's."""

Kernel = Literal["turned", "onednn", "torch"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., D), weight (F, D), bias (F,) to (..., F).

    In inference mode, on a CPU, in float32 and for 2 to 15 rows of x, a product that is not small
    goes the way that is fastest for its shape; see `kernel_for`. The sums are rounded differently.
    """
    if weight.numel() < SMALL or not _generating(x, weight):
        return F.linear(x, weight, bias)
    kernel = kernel_for(x.numel() // x.shape[-1], weight.numel(), maker())
    if kernel == "turned":
        return turned(x, weight, bias)
    if kernel == "onednn":
        # torch's compiler uses this kernel too; it has no other name.
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def turned(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` as (W x^T)^T: MKL then reads the weights as they lie."""
    columns = x.reshape(-1, x.shape[-1]).contiguous().t()  # (D, R)
    y = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().contiguous().view(*x.shape[:-1], -1)


def kernel_for(rows: int, weights: int, maker: str) -> Kernel:
    """The fastest way of a product, as measured.

    MKL, from which torch takes its float32 products, needs up to three times as long for a few rows
    as for one. It has other kernels for CPUs of AMD's: there up to `TURNED` rows are faster the
    other way round, by a quarter to two fifths (a Zen 3, the shapes of GPT-2, SmolLM2-135M and
    T5-small; on Intel's that was not measured). oneDNN, which reads the weights once, is faster
    for large matrices on both.

    Args:
        rows: of x.
        weights: their number, `SMALL` or more.
        maker: of the CPU; see `maker`.
    """
    if maker == "AuthenticAMD" and 2 <= rows <= TURNED:
        return "turned"
    if weights >= LARGE and 3 <= rows < 16 and torch.backends.mkldnn.is_available():
        return "onednn"
    return "torch"


@cache
def maker() -> str:
    """Whose CPU this is, as it says itself; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^vendor_id\s*:\s*(\S+)", info.read_text() if info.exists() else "", re.M)
    return found[1] if found else platform.processor().rpartition(" ")[2]


def _generating(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
