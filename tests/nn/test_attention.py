from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.nn.attention import (
    MultiHeadAttention,
    ReferenceAttention,
    fused_attention,
    reference_attention,
)
from etude.nn.position import NoPosition

BOTH = pytest.mark.parametrize("attend", [reference_attention, fused_attention])
NOWHERE = NoPosition(dim=1, heads=1, max_length=1)


def draw(
    B: int, H: int, G: int, T: int, S: int, K: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((B, H, T, K), (B, G, S, K), (B, G, S, K))
    )


def by_hand(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float | None
) -> Tensor:
    """Computes the formula, one number at a time."""
    (B, H, T, K), (_, G, S, _) = q.shape, k.shape
    scale = K**-0.5 if scale is None else scale
    added = np.zeros((B, H, T, S)) if bias is None else bias.expand(B, H, T, S).numpy()
    out = np.zeros((B, H, T, K))
    for b, h, i in np.ndindex(B, H, T):
        g = h // (H // G)
        keys = range(S - T + i + 1) if causal else range(S)
        scores = [scale * float(q[b, h, i] @ k[b, g, j]) + added[b, h, i, j] for j in keys]
        powers = [math.exp(score) for score in scores]
        for j, power in zip(keys, powers, strict=True):
            out[b, h, i] += power / sum(powers) * v[b, g, j].numpy()
    return torch.from_numpy(out)


@BOTH
@given(
    B=st.integers(1, 2),
    G=st.integers(1, 3),
    shared=st.integers(1, 3),
    T=st.integers(1, 4),
    cached=st.integers(0, 3),
    K=st.integers(1, 4),
    causal=st.booleans(),
    bias=st.sampled_from([None, "heads", "full", "padding"]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_formula(attend, B, G, shared, T, cached, K, causal, bias, scale, seed):
    H, S = G * shared, T + cached
    q, k, v = draw(B, H, G, T, S, K, seed)
    added = None
    if bias is not None:
        shape = {"heads": (H, T, S), "full": (B, H, T, S), "padding": (B, 1, 1, S)}[bias]
        added = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    expected = by_hand(q, k, v, causal, added, scale)
    actual = attend(q, k, v, causal=causal, bias=added, scale=scale)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries_are_repeated_heads(attend, causal):
    q, k, v = draw(2, 6, 2, 5, 5, 4)
    repeated = [torch.stack([x[:, h // 3] for h in range(6)], dim=1) for x in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated, is_causal=causal)
    torch.testing.assert_close(attend(q, k, v, causal=causal), expected)


@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_of_fused_and_reference_agree(T, biased):
    inputs = draw(2, 4, 2, T, 8, 4)
    bias = torch.randn(4, T, 8, dtype=torch.float64) if biased else None
    gradients = []
    for attend in (reference_attention, fused_attention):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        attend(q, k, v, causal=True, bias=bias).square().sum().backward()
        gradients.append((q.grad, k.grad, v.grad))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_learned_bias_gets_its_gradient():
    q, k, v = draw(1, 2, 2, 4, 4, 3)
    gradients = []
    for attend in (reference_attention, fused_attention):
        bias = torch.zeros(2, 4, 4, dtype=torch.float64, requires_grad=True)
        attend(q, k, v, causal=True, bias=bias).square().sum().backward()
        gradients.append(bias.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


@BOTH
def test_dropout_drops_weights_and_scales_the_rest(attend):
    """With the identity as values, the output is the matrix of attention weights."""
    torch.manual_seed(0)
    q, k = torch.randn(4, 2, 32, 8), torch.randn(4, 2, 32, 8)
    v = torch.eye(32).expand(4, 2, 32, 32)
    whole = attend(q, k, v, causal=True)
    dropped = attend(q, k, v, causal=True, dropout=0.25)
    retained = dropped != 0
    torch.testing.assert_close(dropped[retained], whole[retained] / 0.75)
    assert retained[whole > 0].float().mean().item() == pytest.approx(0.75, abs=0.03)


@BOTH
def test_mixed_precision_of_queries_and_bias(attend):
    q, k, v = (x.bfloat16() for x in draw(1, 2, 2, 4, 4, 4))
    bias = torch.randn(2, 4, 4)
    actual = attend(q, k, v, causal=True, bias=bias)
    assert actual.dtype == torch.bfloat16
    exact = by_hand(q.double(), k.double(), v.double(), True, bias.double(), None)
    torch.testing.assert_close(actual.double(), exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("cls", [MultiHeadAttention, ReferenceAttention])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_module_equals_torch(cls, bias, causal):
    torch.manual_seed(0)
    mine = cls(dim=12, heads=3, bias=bias, dropout=0.0).double()
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(mine.qkv.weight)
        theirs.out_proj.weight.copy_(mine.out.weight)
        if bias:
            theirs.in_proj_bias.copy_(mine.qkv.bias)
            theirs.out_proj.bias.copy_(mine.out.bias)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(mine(x, position=NOWHERE, causal=causal), expected)


def test_fewer_key_value_heads_make_fewer_weights():
    sizes = {kv: sum(p.numel() for p in make(kv_heads=kv).parameters()) for kv in (None, 4, 2, 1)}
    # dim 16, head width 4: q 16x16, k and v 16x4 for each kv head, out 16x16; biases.
    assert sizes == {None: 1088, 4: 1088, 2: 1088 - 2 * 2 * 4 * 17, 1: 1088 - 2 * 3 * 4 * 17}


def make(**changes: object) -> MultiHeadAttention:
    arguments = {"dim": 16, "heads": 4, "bias": True, "dropout": 0.0} | changes
    return MultiHeadAttention(**arguments)  # type: ignore[arg-type]


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = make(dropout=0.5)
    x = torch.randn(2, 6, 16)
    call = {"position": NOWHERE, "causal": True}
    assert not torch.equal(module(x, **call), module(x, **call))
    # Half of the outputs are dropped; the rest are also affected by dropped attention weights.
    assert (module(x, **call) == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    module.eval()
    torch.testing.assert_close(module(x, **call), module(x, **call), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "where", "hint"),
    [
        ({"heads": 5}, "heads", "4 or 8"),
        ({"heads": 32}, "heads", "16"),
        ({"heads": 0}, "heads", None),
        ({"heads": 8, "kv_heads": 3}, "kv_heads", "2 or 4"),
        ({"kv_heads": 0}, "kv_heads", None),
        ({"kv_heads": -1}, "kv_heads", None),
        ({"dropout": 1.0}, "dropout", None),
    ],
)
def test_bad_arguments_are_named_once(changes, where, hint):
    with pytest.raises(InvalidArguments) as caught:
        make(**changes)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert problem.value == changes[where]
    assert hint is None or (problem.hint or "").endswith(hint)


def test_all_mistakes_are_reported_together():
    with pytest.raises(InvalidArguments) as caught:
        make(heads=3, kv_heads=2, dropout=-0.1)
    assert {p.where for p in caught.value.problems} == {"heads", "kv_heads", "dropout"}
