"""Normalisation of the residual stream, vector by vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Frozen(NamedTuple):
    """A norm as an affine function, with the statistics of given vectors.

    Attributes:
        linear: the linear function of vectors (..., D).
        constant: vector (D,) that is added; None if there is none.
    """

    linear: Callable[[Tensor], Tensor]
    constant: Tensor | None = None


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last dimension: weight * (x - mean) / sqrt(variance + eps) +
    bias (Ba et al. 2016, arXiv:1607.06450).

    Args:
        dim: size of the last dimension.
        bias: whether there is a learned bias.
        eps: added to the variance.
    """

    def __init__(self, *, dim: int, bias: bool, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps, bias=bias)

    def frozen(self, x: Tensor) -> Frozen:
        """Returns the affine function that the norm is while the statistics are those of x.

        At x, it equals the norm.

        Args:
            x: vectors (..., D).
        """
        gain = (x.var(-1, correction=0, keepdim=True) + self.eps).rsqrt() * self.weight
        return Frozen(lambda part: (part - part.mean(-1, keepdim=True)) * gain, self.bias)


class RMSNorm(nn.RMSNorm):
    """RMS normalisation over the last dimension: weight * x / sqrt(mean(x^2) + eps) (Zhang &
    Sennrich 2019, arXiv:1910.07467, equation 4).

    Args:
        dim: size of the last dimension.
        bias: ignored: this norm has no bias.
        eps: added to the mean square.
    """

    def __init__(self, *, dim: int, bias: bool, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)

    def frozen(self, x: Tensor) -> Frozen:
        """Returns the linear function that the norm is while the statistics are those of x."""
        gain = _inverse_rms(x, self.eps) * self.weight
        return Frozen(lambda part: part * gain)


class OffsetRMSNorm(nn.RMSNorm):
    """RMS normalisation with the gain 1 + weight: (1 + weight) * x / sqrt(mean(x^2) + eps).

    The weight is initially 0 (Gemma Team 2024, arXiv:2403.08295, and Gemma's original code). The
    norm is computed in float32 or higher precision.

    Args:
        dim: size of the last dimension.
        bias: ignored: this norm has no bias.
        eps: added to the mean square.
    """

    def __init__(self, *, dim: int, bias: bool, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., D) to the same shape."""
        precise = torch.promote_types(x.dtype, torch.float32)
        gain = 1 + self.weight.to(precise)
        return F.rms_norm(x.to(precise), self.normalized_shape, gain, self.eps).to(x.dtype)

    def frozen(self, x: Tensor) -> Frozen:
        """Returns the linear function that the norm is while the statistics are those of x."""
        gain = _inverse_rms(x, self.eps) * (1 + self.weight)
        return Frozen(lambda part: part * gain)


class NoNorm(nn.Module):
    """Norm that returns its input unchanged, for models without normalisation.

    Args:
        dim, bias: not used.
    """

    def __init__(self, *, dim: int, bias: bool) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def frozen(self, x: Tensor) -> Frozen:
        """Returns the identity."""
        return Frozen(lambda part: part)


def _inverse_rms(x: Tensor, eps: float | None) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return (x.square().mean(-1, keepdim=True) + eps).rsqrt()


@torch.no_grad()
def multiply(norm: nn.Module, factor: float) -> None:
    """Changes the parameters of `norm` in place, so that the norm's output is multiplied by
    `factor`. A norm without parameters doesn't change.
    """
    for parameter in norm.parameters():
        if isinstance(norm, OffsetRMSNorm):
            parameter.copy_((1 + parameter) * factor - 1)
        else:
            parameter.mul_(factor)
