"""Kinds of layers, compared with blocks called one by one with explicit masks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.errors import InvalidArguments
from etude.generation.generate import generate
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.kinds import LayerKind
from etude.models.regressor import Regressor
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import ParallelBlock, PreNormBlock
from etude.nn.documents import Documents
from etude.nn.feedforward import GELU, SwiGLU
from etude.nn.lora import LoRA, adapt
from etude.nn.mask import Bidirectional, Causal, Prefix, SlidingWindow
from etude.nn.norm import LayerNorm
from etude.nn.position import ALiBi, Learned, NoPosition, RelativeBias, Rotary, Sinusoidal
from etude.optim.groups import parameter_groups
from etude.training.compilation import compiled

V, T = 13, 12
KINDS = {
    "local": LayerKind(mask=partial(SlidingWindow, window=3)),
    "middle": LayerKind(
        mask=partial(SlidingWindow, window=5),
        attention=partial(MultiHeadAttention, kv_heads=2),
        position=RelativeBias,
        feedforward=SwiGLU,
        block=ParallelBlock,
    ),
    "whole": LayerKind(position=NoPosition),
}
PATTERN = ["local", "middle", "local", "whole"]
PARTS: dict[str, Any] = {
    "layers": 6, "heads": 4, "dim": 16, "max_length": 20, "attention": MultiHeadAttention,
    "position": Rotary, "norm": LayerNorm, "feedforward": GELU, "mask": Causal,
    "block": PreNormBlock, "pattern": PATTERN, "kinds": KINDS,
}  # fmt: skip


def build(kind: Any = Decoder, **changes: Any) -> Any:
    torch.manual_seed(0)
    size = {"inputs": 3} if kind is Regressor else {"vocab_size": V}
    model = kind(**size | PARTS | changes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(B: int = 2, T: int = T) -> Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))


def by_hand(model: Any, read: Tensor) -> Tensor:
    """Calls the same blocks; layers 1 and 5 are `middle`, 3 is `whole`, the others are `local`."""
    x, S = model.embedding(read), read.shape[1]
    i = torch.arange(S)
    distance = i[:, None] - i
    for n, block in enumerate(model.blocks):
        window = {1: 5, 5: 5, 3: S}.get(n, 3)
        hidden = (distance < 0) | (distance >= window)
        bias = torch.zeros(S, S).double().masked_fill(hidden, -torch.inf)
        position: Any = NoPosition(dim=1, heads=1, max_length=1)
        if window == 3:
            position = Rotary(dim=16, heads=4, max_length=20)
        if window == 5:
            table = model.get_parameter("kinds.middle.position.weight")
            assert S <= 16  # each distance has its own bucket
            bias = bias + table[distance.clamp(min=0)].permute(2, 0, 1)
        x = block(x, position=position, causal=False, bias=bias)
    return model.norm(x) @ model.embedding.weight.T


def test_against_blocks_called_by_hand() -> None:
    model = build()
    torch.testing.assert_close(model(tokens()), by_hand(model, tokens()), rtol=1e-10, atol=1e-10)
    kinds = [type(block) for block in model.blocks]
    assert kinds == [PreNormBlock, ParallelBlock, PreNormBlock, PreNormBlock, *kinds[:2]]
    assert [block.attention.kv_heads for block in model.blocks] == [4, 2, 4, 4, 4, 2]


def test_names_in_the_state() -> None:
    patterned, uniform = build().state_dict(), build(pattern=None, kinds=None).state_dict()
    assert "kinds.middle.position.weight" in patterned
    assert not any("kind" in name for name in uniform)
    alike = build(pattern=["one"], kinds={"one": LayerKind()})
    assert list(alike.state_dict()) == list(uniform)
    assert all(torch.equal(alike.state_dict()[name], uniform[name]) for name in uniform)
    assert torch.equal(alike(tokens()), build(pattern=None, kinds=None)(tokens()))


def test_with_a_cache() -> None:
    model, read = build(), tokens()
    cache = model.new_cache(2, T)
    steps = [model(part, cache) for part in (read[:, :5], *read[:, 5:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(read), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"greedy": True}, {"beams": 3}])
def test_generation_with_a_cache_is_that_without(options: dict[str, Any]) -> None:
    model = build()
    found = [
        generate(model, tokens(2, 6), max_new_tokens=8, use_cache=use, **options)
        for use in (True, False)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("length", [4, 20])
def test_packed_documents(length: int) -> None:
    """Short documents are separated by a mask, long ones by separate calls."""
    model, read = build(), tokens(2, 40)
    model.max_length = 40
    documents = Documents(torch.arange(40).remainder(length).eq(0).expand(2, 40))
    packed = model(read, documents=documents)
    alone = [model(part) for part in read.split(length, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-10, atol=1e-10)


def test_padding_before_a_text_changes_nothing() -> None:
    model, read = build(), tokens(1, 7)
    keep = (torch.arange(10) >= 3)[None]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), read], dim=1)
    positions = (torch.arange(10) - 3).clamp(min=0)[None]
    found = model(padded, keep=keep, positions=positions)[:, 3:]
    torch.testing.assert_close(found, model(read), rtol=1e-10, atol=1e-10)


def test_an_encoder_and_a_regressor() -> None:
    both = {
        "mask": Bidirectional, "pattern": ["near", "plain"],
        "kinds": {"near": LayerKind(position=ALiBi), "plain": LayerKind()},
    }  # fmt: skip
    encoder = build(Encoder, **both)
    assert encoder.kinds["near"].get_submodule("position").causal is False
    keep = torch.arange(T)[None] < 9
    found = encoder(tokens(1), keep=keep)[:, :9]
    torch.testing.assert_close(found, encoder(tokens(1)[:, :9]), rtol=1e-10, atol=1e-10)
    uniform = build(Encoder, mask=Bidirectional, pattern=None, kinds=None)
    assert (encoder(tokens(1)) - uniform(tokens(1))).abs().max() > 1e-3
    assert build(Regressor)(torch.randn(2, 9, 3)).shape == (2, 9)


def test_gradients_with_recomputation() -> None:
    gradients = []
    for recompute in (False, True):
        model = build(recompute=recompute).train()
        model(tokens()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_model_s_position_alone_embeds() -> None:
    model = build(position=Learned)
    assert (model(tokens()) - build(position=NoPosition)(tokens())).abs().max() > 1e-3
    no_turn = {**KINDS, "local": LayerKind(mask=partial(SlidingWindow, window=3))}
    assert (build(kinds=no_turn)(tokens()) - model(tokens())).abs().max() > 1e-3


def test_low_rank_changes_and_layer_decay() -> None:
    model = build()
    names = [name for name, _ in model.named_parameters()]
    groups = parameter_groups(model, 0.1, lr=1.0, layer_decay=0.5)
    bias = model.get_parameter("kinds.middle.position.weight")
    (rate,) = [g["lr"] for g in groups if any(p is bias for p in g["params"])]
    assert rate == 0.5**6  # below all blocks, as the model's own position
    assert len(names) == sum(len(group["params"]) for group in groups)
    assert len(adapt(model, LoRA(targets=("q", "gate")))) == 6 + 2


def test_mup_is_the_standard_parametrisation_at_the_base_width() -> None:
    same = build(mup_base_dim=16)
    assert torch.equal(same(tokens()), build()(tokens()))
    torch.manual_seed(0)
    wide = Decoder(vocab_size=V, **PARTS | {"dim": 64, "mup_base_dim": 16})
    table = wide.get_parameter("kinds.middle.position.weight")
    assert table.std().item() == pytest.approx(64**-0.5 * 2, rel=0.2)
    widths = wide.widths()
    assert widths is not None
    assert widths.roles["kinds.middle.position.weight"] == "fixed"


def test_fewer_layers_than_names() -> None:
    model = build(layers=1)
    assert list(model.masks) == ["kinds.local.mask"]
    assert not list(model.kinds)
    assert model(tokens()).shape == (2, T, V)


@pytest.mark.slow
def test_compiled_blocks() -> None:
    model = build().float().train()
    expected = model(tokens())
    with compiled(model):
        found = model(tokens())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        found.sum().backward()
        short = model(tokens(3, 7))
    torch.testing.assert_close(short, model(tokens(3, 7)), rtol=1e-4, atol=1e-4)


def causal_prefix() -> Any:
    return {"one": LayerKind(mask=Prefix), "two": LayerKind(mask=Bidirectional)}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"pattern": []}, ["pattern", *(f"kinds.{name}" for name in KINDS)]),
        ({"pattern": None}, [f"kinds.{name}" for name in KINDS]),
        ({"kinds": None}, ["pattern"] * 3),
        ({"pattern": ["local", "midle", "whole"]}, ["pattern", "kinds.middle"]),
        ({"pattern": ["keys"], "kinds": {"keys": LayerKind()}}, ["kinds.keys"]),
        ({"pattern": ["a.b"], "kinds": {"a.b": LayerKind()}}, ["kinds.a.b"]),
        (
            {"pattern": ["one", "two"], "kinds": causal_prefix()},
            ["kinds.one.mask", "kinds.two.mask"],
        ),
        (
            {
                "pattern": ["one", "two"],
                "kinds": {
                    "one": LayerKind(position=Learned),
                    "two": LayerKind(position=Sinusoidal),
                },
            },
            ["kinds.one.position", "kinds.two.position"],
        ),
    ],
)
def test_mistakes(changes: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(InvalidArguments) as refused:
        build(**changes)
    assert [problem.where for problem in refused.value.problems] == keys


def test_what_every_mask_must_be() -> None:
    prefixes = {"one": LayerKind(mask=Prefix), "two": LayerKind(attention=ReferenceAttention)}
    model = build(mask=Bidirectional, pattern=["one", "two"], kinds=prefixes)
    assert list(model.masks) == ["mask", "kinds.one.mask"]
    with pytest.raises(InvalidArguments, match="everywhere") as refused:
        model(tokens(), documents=Documents(torch.zeros(2, T, dtype=torch.bool)))
    assert "Prefix" in str(refused.value)
    with pytest.raises(InvalidArguments, match="mask"):
        model.new_cache(1, 4)
