"""Differential attention as a user extension: `extensions=[differential]` imports it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etude.nn.attention import MultiHeadAttention, fused_attention
from etude.nn.cache import LayerCache
from etude.nn.norm import RMSNorm
from etude.nn.position import Position


class DifferentialAttention(MultiHeadAttention):
    """Difference of two attention maps per head (Ye et al. 2024, arXiv:2410.05258, section 2.1).

    Args:
        dim, heads, bias, dropout: as for `MultiHeadAttention`; a head has two queries and two keys
            of width K, and values of width 2 K.
        head_dim: K; None is D / 2H. Rotary positions need it: set `model.head_dim`.
        layer: from 0; the learned lambda is initially 0.8 - 0.6 exp(-0.3 layer).
    """

    def __init__(
        self, *, dim: int, heads: int, bias: bool, dropout: float, layer: int,
        head_dim: int | None = None, base_head_dim: int | None = None,
    ) -> None:  # fmt: skip
        K = dim // (2 * heads) if head_dim is None else head_dim
        super().__init__(
            dim=dim, heads=2 * heads, bias=bias, dropout=dropout, head_dim=K,
            base_head_dim=base_head_dim,
        )  # fmt: skip
        self.first = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.lambdas = nn.ParameterList(0.1 * torch.randn(K) for _ in range(4))  # q1, k1, q2, k2
        self.head_norm = RMSNorm(dim=2 * K, bias=False, eps=1e-5)

    def project(
        self, x: Tensor, memory: Tensor | None, cache: LayerCache | None, position: Position,
        positions: int | Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        K, start = self.head_dim, 0 if cache is None else cache.length
        widths = (K, K, 2 * K)
        q, k, v = (
            each.unflatten(-1, (-1, width)).transpose(1, 2)
            for each, width in zip(self.qkv(x).chunk(3, dim=-1), widths, strict=True)
        )
        q, k = position.rotate(q, k, start=start if positions is None else positions)
        return (q, k, v) if cache is None else (q, *cache.append(k, v))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, bias: Tensor | None = None,
        scale: float | None = None, dropout: float = 0.0,
    ) -> Tensor:  # fmt: skip
        first, second = (
            fused_attention(q[:, i::2], k[:, i::2], v, causal=causal, bias=bias, scale=scale,
                            dropout=dropout)
            for i in (0, 1)
        )  # fmt: skip
        q1, k1, q2, k2 = self.lambdas
        factor = (q1 @ k1).exp() - (q2 @ k2).exp() + self.first
        return (1 - self.first) * self.head_norm(first - factor * second)
