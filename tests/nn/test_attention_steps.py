"""Variants of attention that override one of three steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.nn.attention import MultiHeadAttention, reference_attention
from etude.nn.position import NoPosition

NOWHERE = NoPosition(dim=1, heads=1, max_length=1)


def make(kind: type[MultiHeadAttention], **options: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    return kind(dim=16, heads=4, bias=True, dropout=0.0, **options).double()


def run(module: MultiHeadAttention, T: int = 6) -> Tensor:
    x = torch.randn(2, T, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return module(x, position=NOWHERE, causal=True)


def only_the_largest(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, **options: Any) -> Tensor:
    scores = q @ k.mT
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return F.one_hot(scores.masked_fill(later, -torch.inf).argmax(-1), k.shape[2]).to(v) @ v


class Largest(MultiHeadAttention):
    attend = staticmethod(only_the_largest)  # type: ignore[assignment]


class Doubled(MultiHeadAttention):
    def project(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(*arguments)
        return q, k, 2 * v


class Gated(MultiHeadAttention):
    def merge(self, y: Tensor) -> Tensor:
        return super().merge(y * y.sigmoid())


def test_a_function_may_stand_for_the_middle_step() -> None:
    module = make(Largest)
    module.out.bias.data.zero_()
    first = run(module)[:, 0]  # sees itself alone, as with any weights
    standard = make(MultiHeadAttention)
    standard.out.bias.data.zero_()
    torch.testing.assert_close(first, run(standard)[:, 0])
    assert (run(module) - run(standard)).abs().max() > 1e-3


def test_the_other_steps_are_overridden_alone() -> None:
    standard, doubled, gated = make(MultiHeadAttention), make(Doubled), make(Gated)
    q, k, v = standard.project(
        torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        None, None, NOWHERE, None,
    )  # fmt: skip
    y = reference_attention(q, k, v, causal=True)
    torch.testing.assert_close(run(doubled), standard.merge(2 * y))
    torch.testing.assert_close(run(gated), standard.merge(y * y.sigmoid()))
