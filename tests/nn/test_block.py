from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from etude.nn.attention import MultiHeadAttention
from etude.nn.block import Block, PostNormBlock, PreNormBlock, SandwichBlock
from etude.nn.feedforward import GELU, NoFeedForward
from etude.nn.norm import LayerNorm
from etude.nn.position import NoPosition

CONTEXT = {"position": NoPosition(dim=8, heads=2, max_length=4), "causal": True}


def make(cls: type[Block], feedforward: type[nn.Module] = GELU) -> Block:
    torch.manual_seed(0)
    size = {"dim": 8, "bias": True}
    block = cls(
        attention=partial(MultiHeadAttention, heads=2, dropout=0.0, **size),
        norm=partial(LayerNorm, **size),
        feedforward=partial(feedforward, dropout=0.0, **size),
    ).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    return block


@pytest.mark.parametrize(("cls", "norm_first"), [(PreNormBlock, True), (PostNormBlock, False)])
def test_equals_torch(cls, norm_first):
    mine = make(cls)
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    ).double()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "feedforward.up.",
        "linear2.": "feedforward.down.",
        "norm1.": "attention_norm.",
        "norm2.": "feedforward_norm.",
    }
    state = mine.state_dict()
    assert len(state) == 2 * len(names)
    theirs.load_state_dict(
        {a + kind: state[b + kind] for a, b in names.items() for kind in ("weight", "bias")}
    )
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    torch.testing.assert_close(mine(x, **CONTEXT), theirs(x, src_mask=hidden))


@pytest.mark.parametrize("cls", [PreNormBlock, PostNormBlock])
def test_without_feedforward_there_is_one_branch_and_one_norm(cls):
    block = make(cls, NoFeedForward)
    assert {name.split(".")[0] for name in block.state_dict()} == {"attention", "attention_norm"}
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    if cls is PreNormBlock:
        expected = x + block.attention(block.attention_norm(x), **CONTEXT)
    else:
        expected = block.attention_norm(x + block.attention(x, **CONTEXT))
    torch.testing.assert_close(block(x, **CONTEXT), expected)


def test_a_sandwich_has_norms_before_and_after_each_branch() -> None:
    block, x = make(SandwichBlock), torch.randn(2, 4, 8).double()
    y = x + block.attention_post_norm(block.attention(block.attention_norm(x), **CONTEXT))
    y = y + block.feedforward_post_norm(block.feedforward(block.feedforward_norm(y)))
    torch.testing.assert_close(block(x, **CONTEXT), y)
    names = {
        name.partition(".")[0] for name, _ in make(SandwichBlock, NoFeedForward).named_modules()
    }
    assert names == {"", "attention", "attention_norm", "attention_post_norm"}
