"""Normalisation of the residual stream, a vector at a time."""

from __future__ import annotations

from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """weight * (x - mean) / sqrt(variance + eps) + bias, over the last dimension (Ba et al. 2016,
    arXiv:1607.06450).

    Args:
        dim: D.
        bias: whether the shift is learned; without it there is none.
    """

    def __init__(self, *, dim: int, bias: bool, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps, bias=bias)


class RMSNorm(nn.RMSNorm):
    """weight * x / sqrt(mean(x^2) + eps), over the last dimension (Zhang & Sennrich 2019,
    arXiv:1910.07467, equation 4).

    Args:
        dim: D.
        bias: the model's, and without effect: this norm has no shift.
    """

    def __init__(self, *, dim: int, bias: bool, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)


class NoNorm(nn.Module):
    """The vector as it is."""

    def __init__(self, *, dim: int, bias: bool) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
