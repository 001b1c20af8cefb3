"""x W^T + b, with the kernel that suits the number of rows when generating on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 3 * 2**19
"""Weights of a matrix from which on the other kernel is the faster one: 768 x 2304, but not
576 x 1536 (measured for 4, 8 and 12 rows on two cores)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., D), weight (F, D), bias (F,) to (..., F).

    In inference mode, on a CPU, in float32 and for 3 to 15 rows of x, a large product goes through
    oneDNN, which reads the weights once. MKL, which torch takes otherwise, needs up to three times
    as long for 8 rows as for 1 or 16 (measured with AVX-512). The sums are rounded differently.
    """
    if weight.numel() >= LARGE and _suits_onednn(x, weight):
        # torch's compiler uses this kernel too; it has no other name.
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and 3 <= x.numel() // x.shape[-1] < 16
        and x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
