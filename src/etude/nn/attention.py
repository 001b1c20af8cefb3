"""Attention: the formula, the same thing fused, and the multi-head module around them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.cache import LayerCache
from etude.nn.mask import causal_mask, hide_later
from etude.nn.position import Position


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q k^T * scale + bias + mask) v, in plain operations.

    Vaswani et al. 2017, equation 1; with fewer key-value heads than heads, grouped-query
    attention (Ainslie et al. 2023, arXiv:2305.13245, section 2.2): heads h * H/G to
    (h + 1) * H/G - 1 share the key-value head h.

    Args:
        q: queries (B, H, T, K), the last T of the S positions.
        k, v: keys and values (B, G, S, K); G divides H.
        causal: hide the keys that stand after a query.
        bias: added to the scores; broadcasts to (B, H, T, S).
        scale: 1 / sqrt(K) unless given.
        dropout: the probability with which an attention weight is dropped, now: a module that
            is evaluating passes 0.

    Returns:
        (B, H, T, K).
    """
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        seen = causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # (B, H, T, S)
    return weights.to(v.dtype) @ v


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`reference_attention` by torch's fused kernels; the same arguments and result.

    The kernels are fastest without an explicit mask, so one is made only where it says
    something that `is_causal` (which counts the queries from position 0) cannot.
    """
    T, S = q.shape[-2], k.shape[-2]
    mask = bias
    if causal and T == 1:
        causal = False  # the only query is the last position: it sees every key
    elif causal and (bias is not None or T != S):
        mask = causal_mask(T, S, q.device) if bias is None else hide_later(bias, T, S)
        causal = False
    if mask is not None:
        # Without the batch dimension the CPU takes its unfused path, four times slower.
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


class MultiHeadAttention(nn.Module):
    """Self-attention of several heads (Vaswani et al. 2017, section 3.2.2).

    One projection `qkv` makes queries, keys and values, in this order along its output; `out`
    writes back into the residual stream. Dropout acts on the attention weights and on the
    output, as in GPT-2.

    Args:
        dim: D.
        heads: H, which divides D.
        bias: whether the projections have a bias.
        dropout: probability, for the attention weights and the output.
        kv_heads: G, which divides H; None is H. Fewer is grouped-query attention (Ainslie et
            al. 2023), one is multi-query attention (Shazeer 2019, arXiv:1911.02150).

    Raises:
        InvalidArguments: sizes that don't divide each other.
    """

    attend = staticmethod(fused_attention)

    def __init__(
        self, *, dim: int, heads: int, bias: bool, dropout: float, kv_heads: int | None = None
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.positive(dim=dim)
        checks.probability(dropout=dropout)
        check_divides(checks, "heads", heads, "dim", dim)
        if kv_heads is not None:
            check_divides(checks, "kv_heads", kv_heads, "heads", heads)
        checks.done()
        kv_heads = heads if kv_heads is None else kv_heads
        self.heads, self.kv_heads, self.dropout = heads, kv_heads, dropout
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        position: Position,
        causal: bool,
        bias: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) to (B, T, D).

        Args:
            position: turns queries and keys before they meet (`Rotary`).
            causal: hide later keys.
            bias: added to the scores; broadcasts to (B, H, T, S).
            cache: keys and values of the positions before x; those of x are appended to it.
        """
        B, T, D = x.shape
        H, G, K = self.heads, self.kv_heads, self.head_dim
        heads = self.qkv(x).view(B, T, H + 2 * G, K).split_with_sizes((H, G, G), dim=2)
        # Split first: so the gradients of the three come back side by side, in the layout of `qkv`.
        q, k, v = (each.transpose(1, 2) for each in heads)
        q, k = position.rotate(q, k, start=0 if cache is None else cache.length)
        if cache is not None:
            k, v = cache.append(k, v)
        dropout = self.dropout if self.training else 0.0
        y = self.attend(q, k, v, causal=causal, bias=bias, dropout=dropout)  # (B, H, T, K)
        return self.residual_dropout(self.out(y.transpose(1, 2).reshape(B, T, D)))


class ReferenceAttention(MultiHeadAttention):
    """`MultiHeadAttention` by the formula instead of the fused kernels: slow and readable."""

    attend = staticmethod(reference_attention)


def check_divides(checks: Checks, key: str, value: int, of_key: str, of: int) -> None:
    """Notes a problem unless `value` is positive and divides `of`; `of` is checked elsewhere."""
    if not checks.that(value > 0, key, value, "a positive number") or of <= 0:
        return
    if of % value == 0:
        return
    small = [n for n in range(1, min(math.isqrt(of), 100_000) + 1) if of % n == 0]
    divisors = small + [of // n for n in small]
    below = max(n for n in divisors if n <= value)
    above = min((n for n in divisors if n >= value), default=below)
    nearest = " or ".join(str(n) for n in sorted({below, above}))
    expected = f"a divisor of {of_key} = {of}"
    checks.that(False, key, value, expected, f"the nearest: {nearest}")
