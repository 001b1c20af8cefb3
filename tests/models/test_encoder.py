"""The encoder and its heads, compared with torch's encoder and with manual results."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.errors import InvalidArguments
from etude.models.encoder import Encoder
from etude.models.heads import ClassificationHead, MaskedLanguageHead, TaggingHead
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock, PreNormBlock
from etude.nn.feedforward import GELU, ReLU
from etude.nn.mask import Bidirectional
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned, NoPosition

V, D, H, L = 23, 16, 4, 3


def make(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "vocab_size": V, "layers": L, "heads": H, "dim": D, "max_length": 12,
        "attention": MultiHeadAttention, "position": Learned, "norm": LayerNorm,
        "feedforward": GELU, "mask": Bidirectional, "block": PostNormBlock,
    }  # fmt: skip
    model = Encoder(**(arguments | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


LAYER = {
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.qkv.bias": "self_attn.in_proj_bias",
    "attention.out": "self_attn.out_proj",
    "attention_norm": "norm1",
    "feedforward.up": "linear1",
    "feedforward.down": "linear2",
    "feedforward_norm": "norm2",
}


def renamed(state: dict[str, Any], prefix: str, names: dict[str, str]) -> dict[str, Any]:
    """Returns the weights under `prefix`, by torch's names."""
    found = {}
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        if inner == name:
            continue
        stem, _, kind = inner.rpartition(".")
        found[names[inner] if inner in names else f"{names[stem]}.{kind}"] = value
    return found


@pytest.mark.parametrize("first", [False, True])
def test_the_stack_is_torchs_encoder(first: bool) -> None:
    mine = make(
        block=PreNormBlock if first else PostNormBlock, feedforward=ReLU, position=NoPosition
    )
    layer = nn.TransformerEncoderLayer(D, H, 4 * D, batch_first=True, norm_first=first)
    norm = nn.LayerNorm(D) if first else None
    theirs = nn.TransformerEncoder(layer, L, norm, enable_nested_tensor=False).double().eval()
    state = mine.state_dict()
    for i, each in enumerate(theirs.layers):
        each.load_state_dict(renamed(state, f"blocks.{i}.", LAYER))
    if norm is not None:
        theirs.norm.load_state_dict(renamed(state, "norm.", {"weight": "weight", "bias": "bias"}))
    tokens = torch.randint(V, (3, 9))
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[1, 5:] = False
    expected = theirs(mine.embedding(tokens), src_key_padding_mask=~keep)
    found = mine(tokens, keep=keep)
    torch.testing.assert_close(found[keep], expected[keep], rtol=0, atol=1e-10)


def test_what_is_added_to_the_embedding() -> None:
    model = make(token_types=2, embedding_norm=True, scale_embeddings=True)
    entered: list[Any] = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    tokens, kinds = torch.randint(V, (2, 5)), torch.randint(2, (2, 5))
    model(tokens, token_types=kinds)
    model(tokens)
    for found, kind in zip(entered, (kinds, torch.zeros_like(kinds)), strict=True):
        embedding = 4 * model.embedding.weight[tokens] + model.position.weight[:5]
        expected = model.embedding_norm(embedding + model.token_types.weight[kind])
        torch.testing.assert_close(found, expected)
    assert (entered[0] - entered[1]).abs().max() > 0.1


def test_a_model_with_one_type_has_it_for_both_texts() -> None:
    """As in RoBERTa: data with two texts has token types for which the model has no rows."""
    model = make(token_types=1)
    tokens, kinds = torch.randint(V, (2, 5)), torch.randint(2, (2, 5))
    assert torch.equal(model(tokens, token_types=kinds), model(tokens))


def test_heads_by_hand() -> None:
    tokens = torch.randint(V, (2, 5))
    bare = make()
    x = bare(tokens)
    labels = {MaskedLanguageHead: {}, ClassificationHead: {"labels": 3}, TaggingHead: {"labels": 4}}
    heads = {kind: make(head=partial(kind, **arguments)) for kind, arguments in labels.items()}
    for model in heads.values():  # separate bodies with the same weights
        model.load_state_dict(bare.state_dict(), strict=False)
    masked = heads[MaskedLanguageHead]
    head: Any = masked.head
    expected = head.norm(F.gelu(head.dense(x))) @ masked.embedding.weight.T + head.bias
    torch.testing.assert_close(masked(tokens), expected)
    classes = heads[ClassificationHead]
    head = classes.head
    torch.testing.assert_close(classes(tokens), head.classifier(head.dense(x[:, 0]).tanh()))
    assert classes(tokens).shape == (2, 3)
    tags = heads[TaggingHead]
    torch.testing.assert_close(tags(tokens), tags.head.classifier(x))
    assert tags(tokens).shape == (2, 5, 4)


def test_the_masked_head_shares_the_embedding_and_its_bias_is_learned() -> None:
    model = make(head=MaskedLanguageHead)
    names = [name for name, _ in model.named_parameters()]
    assert sum(name.endswith("embedding.weight") for name in names) == 1
    model(torch.randint(V, (2, 5))).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())


def test_bad_sizes_are_named() -> None:
    for changes, where in (
        ({"token_types": -1}, "token_types"),
        ({"head": partial(ClassificationHead, labels=0)}, "labels"),
        ({"head_dim": 0}, "head_dim"),
    ):
        with pytest.raises(InvalidArguments) as caught:
            make(**changes)
        assert [problem.where for problem in caught.value.problems] == [where]
