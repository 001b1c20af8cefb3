"""Attention: the reference formula, the fused kernels, and the multi-head module."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.cache import LayerCache
from etude.nn.documents import Documents
from etude.nn.linear import linear
from etude.nn.mask import causal_mask, hide_later
from etude.nn.matrices import Matrix, queries_keys_values, whole
from etude.nn.norm import OffsetRMSNorm, RMSNorm, multiply
from etude.nn.position import Position
from etude.nn.sites import Tap, site

SCALES: dict[str, Callable[[float], float]] = {
    "inverse_sqrt": lambda K: 1 / math.sqrt(K),
    "inverse": lambda K: 1 / K,
    "one": lambda K: 1.0,
}
"""Factor of the scores as a function of the head width K, by name: `inverse_sqrt` (Vaswani et al.
2017, equation 1), `inverse` (muP; Yang et al. 2022, arXiv:2203.03466, definition 4.1) and `one`
(T5; Raffel et al. 2019).
"""


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    observe: Callable[[str, Tensor], Tensor] = lambda name, value: value,
) -> Tensor:
    """Computes softmax(q k^T * scale + bias + mask) v with elementary operations.

    Vaswani et al. 2017, equation 1; with fewer key-value heads than heads, grouped-query attention
    (Ainslie et al. 2023, arXiv:2305.13245, section 2.2): heads h * H/G to (h + 1) * H/G - 1 share
    the key-value head h. Shapes: B sequences, H heads, G key-value heads, T queries, S keys, K
    dimensions of a head.

    Args:
        q: queries (B, H, T, K) at the last T of the keys' S positions.
        k, v: keys and values (B, G, S, K); G divides H.
        causal: whether to hide the keys after a query.
        bias: added to the scores; broadcasts to (B, H, T, S). A boolean bias is a mask that is true
            where a key is visible.
        scale: factor of the scores; None uses 1 / sqrt(K).
        dropout: dropout probability of the attention weights; always applied, so pass 0 in
            evaluation.
        softcap: c; if set, each score is replaced by c tanh(score / c), which is between -c and c,
            before bias and mask are applied (Gemma Team 2024, arXiv:2408.00118, section 2).
        observe: function that receives the name and the value of `scores` (after the mask) and
            `pattern` (the softmax, before dropout), both (B, H, T, S), and returns the value to
            continue with.

    Returns:
        The outputs of the heads, (B, H, T, K).
    """
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None and bias.dtype == torch.bool:
        scores = scores.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        scores = scores + bias
    if causal:
        visible = causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
        scores = scores.masked_fill(~visible, -torch.inf)
    scores = observe("scores", scores)
    pattern = observe("pattern", scores.softmax(dim=-1))  # (B, H, T, S)
    return F.dropout(pattern, dropout).to(v.dtype) @ v


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
    """Computes the same as `reference_attention`, with torch's fused kernels.

    Arguments and result are those of `reference_attention`, except that there is no `softcap`.

    The kernels are fastest without an explicit mask. Their argument `is_causal` hides later keys,
    but assumes that the first query is at position 0. A mask is created only where this argument is
    not sufficient.
    """
    T, S = q.shape[-2], k.shape[-2]
    mask = bias
    if causal and T == 1:
        causal = False  # the only query is at the last position, so every key is visible
    elif causal and (bias is not None or T != S):
        mask = causal_mask(T, S, q.device) if bias is None else hide_later(bias, T, S)
        causal = False
    if mask is not None:
        # Without the batch dimension the CPU uses the unfused kernel, which is four times slower.
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


class _SameGradient(torch.autograd.Function):
    """Returns the values of one tensor, with the gradient of another that is equal but for
    rounding.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, differentiated: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

    One projection `qkv` computes queries, keys and values, in this order along its output; `out`
    writes to the residual stream. Dropout acts on the attention weights and on the output, as in
    GPT-2. If a memory (another sequence, such as the output of an encoder) is given, the module
    computes cross-attention: queries from x, keys and values from the memory, without position
    information.

    The computation has three steps, and a subclass overrides one or two of them: `project` computes
    queries, keys and values, `attend` averages the values, `merge` joins the heads. Between the
    steps only the number of positions is fixed: `project` may return keys and values of other
    widths and numbers of heads, if `attend` supports them and `merge` supports the result.

    Args:
        dim: D, the model width.
        heads: H, the number of heads, which divides D.
        bias: whether the projections have a bias.
        dropout: dropout probability of the attention weights and of the output.
        kv_heads: G, the number of key-value heads, which divides H; None uses H. With G < H, this
            is grouped-query attention (Ainslie et al. 2023); with G = 1, multi-query attention
            (Shazeer 2019, arXiv:1911.02150).
        head_dim: K, the head dimension; None uses D / H.
        qkv_bias: whether the `qkv` projection has a bias; None uses `bias`.
        out_bias: whether the `out` projection has a bias; None uses `bias`.
        qk_norm: whether each head's query and key are RMS-normalised over the K dimensions, with a
            learned weight, before the position module rotates them (Henry et al. 2020,
            arXiv:2010.04245; the form of Qwen3, arXiv:2505.09388).
        qk_norm_eps: epsilon of these norms.
        qk_norm_offset: whether the gain of these norms is 1 + weight (`OffsetRMSNorm`; Gemma).
        scale: scale of the scores: `inverse_sqrt` is 1 / sqrt(K), `inverse` 1 / K, `one` 1.
        scale_dim: replaces K in the scale (Gemma's `query_pre_attn_scalar`); None uses K (in muP, K
            at the base width).
        softcap: see `reference_attention`. No fused kernel supports it, so it is slower.
        attention_dropout: dropout probability of the attention weights; None uses `dropout`. On a
            CPU there is no fused kernel with dropout, and 0 is several times faster.
        base_head_dim: K at muP's base width; None uses K. The scale is that of the base width,
            multiplied by base_head_dim / K, because q . k of learned vectors grows with K, not with
            sqrt(K) (Yang et al. 2022, arXiv:2203.03466, definition 4.1).

    Attributes:
        fused: whether to use torch's fused kernels where possible.
        standard_scale: the scale in the standard parametrisation.
        base_ratio: base_head_dim / K.

    Raises:
        InvalidArguments: an argument is out of range, or the number of heads does not divide the
            model width.
    """

    fused: ClassVar[bool] = True
    tap: Tap | None = None
    given = frozenset(  # by the model
        {"dim", "heads", "bias", "dropout", "head_dim", "base_head_dim", "layer", "layers"}
    )

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        bias: bool,
        dropout: float,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        qkv_bias: bool | None = None,
        out_bias: bool | None = None,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        scale: Literal["inverse_sqrt", "inverse", "one"] = "inverse_sqrt",
        softcap: float | None = None,
        attention_dropout: float | None = None,
        base_head_dim: int | None = None,
        qk_norm_offset: bool = False,
        scale_dim: float | None = None,
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.positive(dim=dim)
        checks.positive(qk_norm_eps=qk_norm_eps)
        checks.probability(dropout=dropout)
        if attention_dropout is not None:
            checks.probability(attention_dropout=attention_dropout)
        check_heads(checks, heads, head_dim, dim)
        if kv_heads is not None:
            check_divides(checks, "kv_heads", kv_heads, "heads", heads)
        if softcap is not None:
            checks.positive(softcap=softcap)
        checks.that(scale in SCALES, "scale", scale, f"one of {', '.join(SCALES)}")
        if base_head_dim is not None:
            checks.positive(base_head_dim=base_head_dim)
        if scale_dim is not None:
            checks.positive(scale_dim=scale_dim)
        checks.done()
        kv_heads = heads if kv_heads is None else kv_heads
        self.heads, self.kv_heads = heads, kv_heads
        self.dropout = dropout if attention_dropout is None else attention_dropout
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.standard_scale = SCALES[scale](self.head_dim if scale_dim is None else scale_dim)
        base = self.head_dim if base_head_dim is None else base_head_dim
        self.base_ratio = base / self.head_dim
        self.scale = SCALES[scale](base if scale_dim is None else scale_dim) * self.base_ratio
        self.softcap = softcap
        H, G, K = self.heads, self.kv_heads, self.head_dim
        self.qkv = nn.Linear(dim, (H + 2 * G) * K, bias=bias if qkv_bias is None else qkv_bias)
        self.out = nn.Linear(H * K, dim, bias=bias if out_bias is None else out_bias)
        head_norm = OffsetRMSNorm if qk_norm_offset else RMSNorm
        self.q_norm = head_norm(dim=K, bias=False, eps=qk_norm_eps) if qk_norm else None
        self.k_norm = head_norm(dim=K, bias=False, eps=qk_norm_eps) if qk_norm else None
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        position: Position,
        causal: bool,
        bias: Tensor | None = None,
        cache: LayerCache | None = None,
        positions: int | Tensor | None = None,
        documents: Documents | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Returns the attention's output for x; both have shape (B, T, D).

        Args:
            x: (B, T, D), T vectors of the model width D for each of B sequences.
            position: position module, which may rotate queries and keys before the scores are
                computed, as `Rotary` does.
            causal: whether to hide later keys.
            bias: added to the scores; broadcasts to (B, H, T, S). A boolean bias is a mask that is
                true where a key is visible.
            cache: keys and values of the positions before x; those of x are appended to the cache.
            positions: positions of x, (B, T), or the position of its first vector. If None, x
                follows the positions in the cache, or starts at 0 without a cache.
            documents: the documents packed in x, which don't attend to each other. They cannot be
                combined with a cache.
            memory: (B, S, D), the sequence that x attends to instead of itself, such as the output
                of an encoder. It may be None if the cache already contains the memory's keys and
                values.
        """
        q, k, v = self.project(x, memory, cache, position, positions)
        dropout = self.dropout if self.training else 0.0
        options: dict[str, Any] = {"causal": causal, "scale": self.scale, "dropout": dropout}
        if documents is None:
            y = self.attend(q, k, v, bias=bias, **options)
        elif self.tap is not None and self.tap.wants("scores", "pattern"):
            whole_bias = documents.bias(q.shape[2], like=x, causal=causal, bias=bias)
            y = self.attend(q, k, v, bias=whole_bias, **options | {"causal": False})
        else:
            y = documents.attend(self.attend, q, k, v, bias=bias, **options)
        return self.merge(site(self, "mixed", y))

    def project(
        self,
        x: Tensor,
        memory: Tensor | None,
        cache: LayerCache | None,
        position: Position,
        positions: int | Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (B, H, T, K) of x (B, T, D), and the keys and values (B, G, S, K) that
        they attend to.

        If a memory is given, or the cache contains the keys and values of a memory, keys and values
        are those of the memory. Otherwise they are those in the cache (if there is one), followed
        by those of x, and queries and keys are rotated. The arguments are those of `forward`.
        """
        if memory is not None or (cache is not None and cache.memory is not None):
            return self._project_cross(x, memory, cache)
        q, k, v = self._project_self(x)
        start = 0 if cache is None else cache.length
        q, k = position.rotate(q, k, start=start if positions is None else positions)
        if self.tap is not None:
            q, k, v = self.tap("q", q), self.tap("k", k), self.tap("v", v)
        if cache is not None:
            k, v = cache.append(k, v)
        return q, k, v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool,
        bias: Tensor | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Returns the weighted average of the values for each query, with shape (B, H, T, K).

        The arguments are those of `reference_attention`.

        If `forward` receives `documents`, it calls this method for each document separately.
        """
        options: dict[str, Any] = {"causal": causal, "bias": bias, "scale": scale}
        options["dropout"] = dropout
        reference: Callable[..., Tensor] = partial(
            reference_attention, softcap=self.softcap, **options
        )
        is_fused = self.fused and self.softcap is None
        tap = self.tap
        if tap is None or not tap.wants("scores", "pattern"):
            return fused_attention(q, k, v, **options) if is_fused else reference(q, k, v)
        if not is_fused or tap.replaces("scores", "pattern"):
            return reference(q, k, v, observe=tap)
        # the fused kernel's values, so that observing changes no bit
        fused = fused_attention(q, k, v, **options)
        if torch.is_grad_enabled() and not dropout:
            return _SameGradient.apply(fused, reference(q, k, v, observe=tap))
        reference(q, k, v[..., :0], observe=tap, dropout=0.0)  # scores and pattern, no outputs
        return fused

    def merge(self, y: Tensor) -> Tensor:
        """Returns the module's output (B, T, D), given the outputs of the heads (B, H, T, K)."""
        B, _, T, _ = y.shape
        return self.residual_dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)))

    def _project_self(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (B, H, T, K), keys and values (B, G, T, K) of x."""
        B, T, _ = x.shape
        H, G, K = self.heads, self.kv_heads, self.head_dim
        heads = self.qkv(x).view(B, T, H + 2 * G, K).split_with_sizes((H, G, G), dim=2)
        # Split first, so that the gradients of the three are adjacent, in the layout of `qkv`.
        q, k, v = (each.transpose(1, 2) for each in heads)
        return self._normed(self.q_norm, q), self._normed(self.k_norm, k), v

    def _project_cross(
        self, x: Tensor, memory: Tensor | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries (B, H, T, K) of x, and keys and values (B, G, S, K) of the memory.

        If the cache contains the keys and values of the memory, these are returned, and `memory`
        may be None. Otherwise the cache, if there is one, stores them.
        """
        G, K = self.kv_heads, self.head_dim
        rows = (self.heads * K, 2 * G * K)
        weights = self.qkv.weight.split_with_sizes(rows)
        biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split_with_sizes(rows)
        q = linear(x, weights[0], biases[0]).unflatten(-1, (-1, K)).transpose(1, 2)
        q = site(self, "q", self._normed(self.q_norm, q))
        if cache is not None and cache.memory is not None:
            return q, *cache.memory
        assert memory is not None
        both = linear(memory, weights[1], biases[1]).unflatten(-1, (2 * G, K))
        k, v = (each.transpose(1, 2) for each in both.split_with_sizes((G, G), dim=2))
        k, v = site(self, "k", self._normed(self.k_norm, k)), site(self, "v", v)
        if cache is not None:
            k, v = cache.memory = (k.contiguous(), v.contiguous())
        return q, k, v

    @property
    def own_sites(self) -> dict[str, str]:
        """The module's sites, except its output; see `etude.nn.sites`.

        A subclass that overrides a step lacks the sites of this step, unless it lists them.
        """
        steps = {
            "project": {"q": "B H T K", "k": "B G S K", "v": "B G S K"},
            "attend": {"scores": "B H T S", "pattern": "B H T S"},
            "forward": {"mixed": "B H T K"},
        }
        return {
            name: letters
            for step, sites in steps.items()
            if getattr(type(self), step) is getattr(MultiHeadAttention, step)
            for name, letters in sites.items()
        }

    def matrices(self) -> dict[str, Matrix]:
        """Returns a dict from the names of the linear layers to their purposes, such as whether a
        layer writes to the residual stream; see `etude.nn.matrices`.
        """
        H, G, K = self.heads, self.kv_heads, self.head_dim
        return {
            "qkv": queries_keys_values(H * K, G * K, K * self.base_ratio),
            "out": whole("out", self.out, writes=True),
        }

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Replaces muP's scale of the scores by the standard scale, without changing the output.

        The ratio of the two scales is multiplied into the weights of the queries, or into the gain
        of their norm.
        """
        factor = self.scale / self.standard_scale
        if self.q_norm is not None:
            multiply(self.q_norm, factor)
        else:
            for parameter in self.qkv.parameters():
                parameter[: self.heads * self.head_dim].mul_(factor)
        self.scale, self.base_ratio = self.standard_scale, 1.0

    @staticmethod
    def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
        return x if norm is None else norm(x)


class ReferenceAttention(MultiHeadAttention):
    """`MultiHeadAttention` without fused kernels: slow, but readable.

    The arguments have the same effect; what they say about fused kernels does not apply.
    """

    fused = False


def check_heads(checks: Checks, heads: int, head_dim: int | None, dim: int) -> None:
    """Adds a problem to `checks` if the number of heads doesn't divide the model width `dim`.

    If `head_dim` is set, any positive `heads` and `head_dim` are valid.

    Args:
        checks: receives the problem.
        heads: number of heads.
        head_dim: the head dimension that the config sets; None if it is `dim` / `heads`.
        dim: the model width.
    """
    if head_dim is None:
        check_divides(checks, "heads", heads, "dim", dim)
    else:
        checks.positive(heads=heads, head_dim=head_dim)


def check_divides(checks: Checks, key: str, value: int, of_key: str, of: int) -> None:
    """Adds a problem to `checks` unless `value` is positive and divides `of`.

    Args:
        checks: receives the problem.
        key, value: name and value of the checked argument.
        of_key, of: name and value of the argument that `value` must divide; the caller checks that
            it is positive.
    """
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
    checks.that(False, key, value, expected, f"try {nearest}")
