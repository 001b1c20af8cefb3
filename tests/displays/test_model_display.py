"""Displays of models: numbers of parameters, shared weights, equal blocks, sites and one line."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from html_reader import HOSTILE, Parsed, check_hostile
from torch import nn

from etude.activations.inspectable import Inspectable
from etude.activations.model_tree import model_html, model_line
from etude.data.tokenizer import Char
from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.kinds import LayerKind
from etude.models.language_model import LanguageModel
from etude.models.regressor import NumberModel, Regressor
from etude.models.seq2seq import Seq2Seq
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Causal, SlidingWindow
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned, Rotary

PARTS: dict[str, Any] = {
    "layers": 3, "heads": 2, "dim": 16, "max_length": 20, "attention": MultiHeadAttention,
    "position": Learned, "norm": LayerNorm, "feedforward": GELU, "mask": Causal,
    "block": PreNormBlock,
}  # fmt: skip


def decoder(**more: Any) -> Decoder:
    return Decoder(**PARTS | {"vocab_size": 13, **more})


def lines(html: str) -> list[str]:
    """The line of each node."""
    parsed = Parsed(html)
    return [
        each["text"]
        for each in parsed.elements
        if each["tag"] == "summary" or each["attributes"].get("class") == "etude-leaf"
    ]


def line(html: str, start: str) -> str:
    """The first line that begins with a text."""
    return next(each for each in lines(html) if each.startswith(start))


def numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_numbers_are_those_of_torch() -> None:
    model = decoder(tie_embeddings=False)
    html, total = model._repr_html_(), numel(model)
    for name in ("embedding", "position", "blocks", "norm", "head"):
        count = numel(model.get_submodule(name))
        shown = line(html, f"{name} ")
        assert f" {count:,} ({count / total:.1%})" in shown
    block = numel(model.blocks[0])
    assert f"0 to 2, equal PreNormBlock 3 × {block:,} ({3 * block / total:.1%})" in lines(html)
    assert line(html, "qkv ").endswith("weight 48×16, bias 48")
    assert ["parameters", f"{total:,}"] in Parsed(html).rows()
    assert ["data type", "float32"] in Parsed(html).rows()
    assert ["device", "cpu"] in Parsed(html).rows()


def test_a_shared_weight_counts_once() -> None:
    model = decoder(tie_embeddings=False)
    assert model.head is not None
    model.head.weight = model.embedding.weight
    html, total = model._repr_html_(), len({id(p): p for p in model.parameters()})
    assert total == len(list(model.parameters()))
    assert line(html, "head ") == "head Linear weight 13×16 (shared: embedding.weight)"
    counts = [int(c.replace(",", "")) for c in re.findall(r"([\d,]+) \(<?[\d.]+%\)", html)]
    assert max(counts) < numel(model)
    top = [line(html, f"{name} ") for name in ("embedding", "position", "blocks", "norm")]
    found = [re.search(r" ([\d,]+) \(", each) for each in top]
    assert sum(int(m[1].replace(",", "")) for m in found if m) == numel(model)


def test_a_module_in_two_places_counts_once() -> None:
    model = EncoderDecoder(**PARTS | {"vocab_size": 13})
    html = model._repr_html_() if hasattr(model, "_repr_html_") else model_html(model)
    shared = [each for each in lines(html) if each.startswith("embedding ")]
    assert shared[0].startswith("embedding Embedding 208 (")
    assert shared[1] == "embedding Embedding shared: encoder.embedding"


def test_only_equal_blocks_are_one_line() -> None:
    kinds = {"local": LayerKind(mask=partial(SlidingWindow, window=3)), "other": LayerKind()}
    pattern = ["local", "other"]
    model = decoder(layers=4, position=Rotary, pattern=pattern, kinds=kinds)
    html = model._repr_html_()
    assert [each[:14] for each in lines(html) if "PreNormBlock" in each] == [
        "0 PreNormBlock", "1 PreNormBlock", "2 PreNormBlock", "3 PreNormBlock"
    ]  # fmt: skip
    assert [each.endswith("layer kind local") for each in lines(html) if "NormBlock" in each] == [
        True, False, True, False
    ]  # fmt: skip
    model = decoder()
    model.blocks[1].feedforward.dropout.p = 0.5
    assert not any("equal PreNormBlock" in each for each in lines(model._repr_html_()))
    model.blocks[2].feedforward.dropout.p = 0.5
    assert any(each.startswith("1 to 2, equal") for each in lines(model._repr_html_()))


def test_sites_are_those_of_each_part() -> None:
    model = decoder()
    shown = [each for each in lines(model._repr_html_()) if each.startswith("sites: ")]
    assert shown == [
        "sites: in mid out",
        "sites: q k v scores pattern mixed out",
        "sites: hidden out",
        "sites: embed final logits",
    ]
    assert len(model.sites()) == 3 + 3 * (3 + 7 + 2)


def test_frozen_weights_and_several_data_types() -> None:
    model = decoder()
    model.embedding.requires_grad_(False)
    model.norm.to(torch.bfloat16)
    rows = Parsed(model._repr_html_()).rows()
    trainable = numel(model) - model.embedding.weight.numel()
    assert ["parameters", f"{numel(model):,}, {trainable:,} trainable"] in rows
    assert ["data type", "float32, bfloat16"] in rows


def test_wrappers_are_one_line() -> None:
    tokenizer = Char().train(["abc"])
    plain, pair = decoder(), EncoderDecoder(**PARTS | {"vocab_size": 13, "decoder_layers": 1})
    assert repr(LanguageModel(plain, tokenizer)) == (
        f"LanguageModel(Decoder, layers 3, width 16, heads 2, vocabulary 13, "
        f"{numel(plain):,} parameters)"
    )
    assert repr(Seq2Seq(pair, tokenizer)) == (
        f"Seq2Seq(EncoderDecoder, encoder layers 3, decoder layers 1, width 16, heads 2, "
        f"vocabulary 13, {numel(pair):,} parameters)"
    )
    numbers = Regressor(**PARTS | {"inputs": 5})
    assert str(NumberModel(numbers)) == (
        f"NumberModel(Regressor, layers 3, width 16, heads 2, inputs 5, "
        f"{numel(numbers):,} parameters)"
    )
    assert "(embedding): Embedding(13, 16)" in repr(plain)  # a module is printed as by torch
    assert Parsed(NumberModel(numbers)._repr_html_()).texts("strong") == ["NumberModel"]


class Custom(Inspectable, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.note = HOSTILE
        self.inner = nn.ModuleDict({"part": nn.Identity()})
        self.inner["part"].text = HOSTILE


def test_a_model_without_weights_or_sizes() -> None:
    model = Custom()
    check_hostile(model._repr_html_())
    assert model_line(model) == "Custom, 0 parameters"


@pytest.mark.parametrize("depth", [400])
def test_a_deep_model(depth: int) -> None:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(depth // 4):
        model = nn.Sequential(model)
    assert "2 (100.0%)" in model_html(model)
