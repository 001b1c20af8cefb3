"""A part that names `layer` or `layers` receives it; other parts don't."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from etude.config.nodes import Factory
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.parts import accepted_arguments
from etude.nn.position import NoPosition


class Placed(GELU):
    def __init__(self, *, layer: int, layers: int = 0, step: int = 1, **given: Any) -> None:
        super().__init__(**given)
        self.place = (layer * step, layers)


class DepthScaled(LayerNorm):
    """A norm divided by the root of the depth (arXiv:2502.05795), in blocks."""

    def __init__(self, *, dim: int, bias: bool, layer: int | None = None) -> None:
        super().__init__(dim=dim, bias=bias)
        self.factor = 1.0 if layer is None else (layer + 1) ** -0.5


class Numbered(PreNormBlock):
    def __init__(self, *, layer: int, **branches: Any) -> None:
        super().__init__(**branches)
        self.number = layer


def function(*, dim: int, bias: bool, dropout: float, layers: int) -> nn.Module:
    return Placed(dim=dim, bias=bias, dropout=dropout, layer=9, layers=layers)


def make(**parts: Any) -> Any:
    usual: dict[str, Any] = {
        "attention": MultiHeadAttention, "position": NoPosition, "norm": LayerNorm,
        "feedforward": GELU, "mask": Causal, "block": PreNormBlock,
    }  # fmt: skip
    with torch.device("meta"):
        return Decoder(vocab_size=7, layers=3, heads=2, dim=8, max_length=5, **usual | parts)


def test_by_each_kind_of_factory() -> None:
    for factory, places in {
        Placed: [(0, 3), (1, 3), (2, 3)],
        partial(Placed, step=2): [(0, 3), (2, 3), (4, 3)],
        partial(Placed, layer=5): [(5, 3)] * 3,
        function: [(9, 3)] * 3,
    }.items():
        model = make(feedforward=factory)
        assert [block.feedforward.place for block in model.blocks] == places
    stated = Factory("model.feedforward", Placed, {"step": 3, "layers": 8})
    model = make(feedforward=stated)
    assert [block.feedforward.place for block in model.blocks] == [(0, 8), (3, 8), (6, 8)]


def test_norms_of_blocks_and_blocks_themselves() -> None:
    model = make(norm=DepthScaled, block=Numbered)
    assert [block.number for block in model.blocks] == [0, 1, 2]
    factors = [block.feedforward_norm.factor for block in model.blocks]
    assert factors == [1, 2**-0.5, 3**-0.5]
    assert model.norm.factor == 1.0


def test_what_takes_anything_has_asked_for_nothing() -> None:
    assert accepted_arguments(lambda **given: given, layer=1) == {}
    assert accepted_arguments(dict, layer=1) == {}
    assert accepted_arguments(partial(partial(Placed, layers=1), step=2), layer=1, layers=2) == {
        "layer": 1
    }
