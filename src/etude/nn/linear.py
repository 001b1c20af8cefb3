"""x W^T + b, with the kernel that suits the number of rows when generating on a CPU."""

from __future__ import annotations

from functools import cache
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
"""Rows up to which the product is faster the other way round, with AVX2."""

Kernel = Literal["turned", "onednn", "torch"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., D), weight (F, D), bias (F,) to (..., F).

    In inference mode, on a CPU, in float32 and for 2 to 15 rows of x, a product that is not small
    goes the way that is fastest for its shape; see `kernel_for`. The sums are rounded differently.
    """
    if weight.numel() < SMALL or not _generating(x, weight):
        return F.linear(x, weight, bias)
    kernel = kernel_for(x.numel() // x.shape[-1], weight.numel(), capability())
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


def kernel_for(rows: int, weights: int, capability: str) -> Kernel:
    """The fastest way of a product, as measured.

    MKL, from which torch takes its float32 products, needs up to three times as long for a few rows
    as for one. With AVX2, up to `TURNED` rows are faster the other way round, by a quarter to two
    fifths (the shapes of GPT-2, SmolLM2-135M and T5-small; not measured with AVX-512). oneDNN,
    which reads the weights once, is faster for large matrices.

    Args:
        rows: of x.
        weights: their number, `SMALL` or more.
        capability: of the CPU, as torch names it.
    """
    if capability == "AVX2" and 2 <= rows <= TURNED:
        return "turned"
    if weights >= LARGE and 3 <= rows < 16 and torch.backends.mkldnn.is_available():
        return "onednn"
    return "torch"


@cache
def capability() -> str:
    """The vector instructions that torch's kernels use here."""
    return torch.backends.cpu.get_cpu_capability()


def _generating(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
