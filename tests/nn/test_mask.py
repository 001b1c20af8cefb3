from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Bidirectional, Causal, hide_later
from etude.nn.norm import LayerNorm
from etude.nn.position import ALiBi, Position


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 4), (3, 3), (2, 5)])
def test_a_bias_hides_what_comes_later(T: int, S: int) -> None:
    bias = torch.randn(2, T, S)
    hidden = hide_later(bias, T, S)
    for i in range(T):
        for j in range(S):
            expected = bias[:, i, j] if j <= S - T + i else torch.full((2,), -torch.inf)
            assert torch.equal(hidden[:, i, j], expected)


def test_a_bias_that_is_broadcast() -> None:
    padding = torch.randn(2, 1, 1, 4)
    expected = hide_later(padding.expand(2, 1, 3, 4), 3, 4)
    assert torch.equal(hide_later(padding, 3, 4), expected)


class LearnedBias(Position):
    """Position part with a learned number for each head, query and key."""

    def __init__(self, *, dim: int, heads: int, max_length: int) -> None:
        super().__init__(dim=dim, heads=heads, max_length=max_length)
        self.weight = nn.Parameter(torch.randn(heads, max_length, max_length))

    def bias(self, T: int, S: int, like: Tensor) -> Tensor:
        return self.weight[:, S - T : S, :S]


def make(position: type[Position], attention: Any, mask: type) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        vocab_size=11,
        layers=3,
        heads=2,
        dim=8,
        max_length=6,
        attention=attention,
        position=position,
        norm=LayerNorm,
        feedforward=GELU,
        mask=mask,
        block=PreNormBlock,
    ).double()


@pytest.mark.parametrize("position", [ALiBi, LearnedBias])
def test_a_biased_model_sees_no_later_token(position: type[Position]) -> None:
    """Later tokens have no effect; the mask is combined with the bias once, not once per layer."""
    model = make(position, MultiHeadAttention, Causal)
    biases: list[Tensor] = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(
            lambda _, __, context: biases.append(context["bias"]), with_kwargs=True
        )
    tokens = torch.randint(11, (2, 6))
    logits = model(tokens)
    assert len({id(bias) for bias in biases}) == 1
    assert bool((biases[0] == -torch.inf).any())
    for t in range(1, 6):
        torch.testing.assert_close(model(tokens[:, :t]), logits[:, :t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", [Causal, Bidirectional])
def test_a_learned_bias_is_learned_in_every_attention(mask: type) -> None:
    tokens = torch.randint(11, (2, 6))
    gradients = []
    for attention in (MultiHeadAttention, ReferenceAttention):
        model = make(LearnedBias, attention, mask)
        model(tokens).square().sum().backward()
        gradients.append(model.position.weight.grad)
    assert bool((gradients[0].triu(1) != 0).any()) == (mask is Bidirectional)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)
