from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.nn import feedforward as ff
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import PostNormBlock, PreNormBlock, SandwichBlock
from etude.nn.mask import Bidirectional, Causal
from etude.nn.norm import LayerNorm, NoNorm, OffsetRMSNorm, RMSNorm
from etude.nn.position import ALiBi, Learned, NoPosition, Rotary, Sinusoidal

POSITIONS = [Learned, Sinusoidal, Rotary, ALiBi, NoPosition]
ATTENTIONS = [
    MultiHeadAttention,
    partial(MultiHeadAttention, kv_heads=2),
    partial(MultiHeadAttention, kv_heads=1),
    ReferenceAttention,
]
NORMS = [LayerNorm, RMSNorm, OffsetRMSNorm, NoNorm]
FEEDFORWARDS = [
    ff.GELU, ff.GELUTanh, ff.ReLU, ff.SquaredReLU, ff.SwiGLU, ff.GEGLU, ff.NoFeedForward
]  # fmt: skip
V = 11


def make(**changes: Any) -> Decoder:
    """Returns a tiny model in float64 whose weights are large enough to matter."""
    torch.manual_seed(0)
    parts = {
        "attention": MultiHeadAttention,
        "position": Learned,
        "norm": LayerNorm,
        "feedforward": ff.GELUTanh,
        "mask": Causal,
        "block": PreNormBlock,
    }
    sizes = {"vocab_size": V, "layers": 2, "heads": 4, "dim": 16, "max_length": 12}
    model = Decoder(**(parts | sizes | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def draw_tokens(B: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def gpt2_like(**changes: Any) -> Decoder:
    sizes = {"vocab_size": 50257, "layers": 12, "heads": 12, "dim": 768, "max_length": 1024}
    with torch.device("meta"):
        return make(**(sizes | changes))


def test_gpt2_has_its_published_number_of_parameters():
    assert gpt2_like().num_parameters() == 124_439_808
    medium = gpt2_like(layers=24, heads=16, dim=1024)
    assert medium.num_parameters() == 354_823_168


def test_a_head_of_its_own_adds_its_weights():
    assert gpt2_like(tie_embeddings=False).num_parameters() == 124_439_808 + 50257 * 768


def test_nano_has_0_8_million_parameters():
    model = make(vocab_size=65, layers=4, heads=4, dim=128, max_length=64, bias=False)
    blocks = 4 * (128 * 384 + 128 * 128 + 2 * 128 * 512 + 2 * 128)
    assert model.num_parameters() == 65 * 128 + 64 * 128 + blocks + 128


@pytest.mark.parametrize("tied", [True, False])
def test_names_in_the_state_are_stable(tied):
    model = make(layers=1, norm=RMSNorm, feedforward=ff.SwiGLU, bias=False, tie_embeddings=tied)
    names = [
        "embedding.weight",
        "position.weight",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feedforward_norm.weight",
        "blocks.0.feedforward.gate.weight",
        "blocks.0.feedforward.up.weight",
        "blocks.0.feedforward.down.weight",
        "norm.weight",
    ]
    assert list(model.state_dict()) == names + ([] if tied else ["head.weight"])


def test_tied_logits_are_products_with_the_embedding():
    model = make()
    captured = {}
    model.norm.register_forward_hook(lambda m, i, output: captured.update(output=output))
    logits = model(draw_tokens(2, 5))
    torch.testing.assert_close(logits, captured["output"] @ model.embedding.weight.T)


def test_a_post_norm_stack_has_no_final_norm():
    assert isinstance(make(block=PreNormBlock).norm, LayerNorm)
    assert isinstance(make(block=PostNormBlock).norm, torch.nn.Identity)


def test_last_only_is_the_last_column():
    model, tokens = make(), draw_tokens(2, 5)
    torch.testing.assert_close(model(tokens, last_only=True), model(tokens)[:, -1:])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("block", [PreNormBlock, PostNormBlock, SandwichBlock])
def test_every_combination_trains_and_agrees_with_the_reference(position, block):
    """Loss and gradients of the fused model equal those of the reference attention."""
    tokens = draw_tokens(2, 7)
    for attention, norm, feedforward in itertools.product(ATTENTIONS[:3], NORMS, FEEDFORWARDS):
        parts = {"position": position, "block": block, "norm": norm, "feedforward": feedforward}
        kv_heads = getattr(attention, "keywords", {})
        model = make(layers=1, attention=attention, **parts)
        reference = make(layers=1, attention=partial(ReferenceAttention, **kv_heads), **parts)
        reference.load_state_dict(model.state_dict())
        for either in (model, reference):
            logits = either(tokens[:, :-1])
            F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        for (name, mine), theirs in zip(
            model.named_parameters(), reference.parameters(), strict=True
        ):
            where = f"{name} of {attention}, {norm}, {feedforward}"
            assert mine.grad is not None, where
            assert torch.isfinite(mine.grad).all(), where
            assert mine.grad.abs().max() > 0, where
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mask", [Causal, Bidirectional])
def test_a_causal_model_cannot_see_ahead(position, attention, mask):
    """The gradient of the logits at t with respect to later embeddings is exactly zero."""
    model = make(position=position, attention=attention, mask=mask)
    embedded = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.embedding.register_forward_hook(keep)
    T = 6
    tokens = draw_tokens(1, T)
    felt = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        model(tokens)[0, t].square().sum().backward()
        felt[t] = (embedded[-1].grad[0] != 0).any(dim=-1)
    expected = torch.ones(T, T, dtype=torch.bool)
    assert torch.equal(felt, expected.tril() if mask is Causal else expected)


@pytest.mark.parametrize("position", POSITIONS)
def test_without_positions_order_means_nothing_to_a_bidirectional_model(position):
    model = make(position=position, mask=Bidirectional)
    tokens = torch.arange(8)[None]
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    difference = (model(tokens[:, order]) - model(tokens)[:, order]).abs().max().item()
    if position is NoPosition:
        assert difference < 1e-12
    else:
        assert difference > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pieces", [[5, 1, 1, 1, 1], [1] * 9, [3, 4, 2], [1, 8]])
def test_with_a_cache_the_logits_are_the_same(position, attention, pieces):
    model, tokens = make(position=position, attention=attention).eval(), draw_tokens(2, 9)
    cache = model.new_cache(batch=2, length=9)
    with torch.no_grad():
        logits = [model(piece, cache) for piece in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=0, atol=1e-12)
    assert cache.length == 9


def test_a_bidirectional_model_has_no_cache():
    with pytest.raises(InvalidArguments, match="mask"):
        make(mask=Bidirectional).new_cache(1, 4)


def test_dropout_follows_the_mode():
    model, tokens = make(dropout=0.3), draw_tokens(2, 6)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    assert torch.equal(model(tokens), make(dropout=0.0)(tokens))


@pytest.mark.parametrize("feedforward", [ff.GELU, ff.SwiGLU])
def test_dropout_reaches_every_branch(feedforward):
    model = make(dropout=0.3, feedforward=feedforward)
    found = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert found == [0.3] * (1 + 2 * 2)  # the embedding; two branches in each of two blocks
    assert [block.attention.dropout for block in model.blocks] == [0.3, 0.3]


def test_dropout_acts_on_the_embedding():
    model, tokens = make(dropout=0.25, dim=64), draw_tokens(8, 12)
    entered: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    model(tokens)
    model.eval()(tokens)
    dropped, whole = entered
    retained = dropped != 0
    assert retained.double().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped[retained], whole[retained] / 0.75)


def test_the_same_seed_makes_the_same_model():
    first, second = make().state_dict(), make().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("position", POSITIONS)
def test_beyond_the_trained_length(position):
    model, tokens = make(position=position, max_length=4), draw_tokens(1, 9)
    if position is Learned:
        with pytest.raises(InvalidArguments, match="at most 4 tokens, the number of learned"):
            model(tokens)
    else:
        torch.testing.assert_close(model(tokens)[:, :4], model(tokens[:, :4]))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", [ATTENTIONS[1], ReferenceAttention])
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_is_close(position, attention, way):
    model = make(position=position, attention=attention).float()
    exact = model(draw_tokens(2, 9))
    if way == "weights":
        rounded = model.bfloat16()(draw_tokens(2, 9))
    else:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(draw_tokens(2, 9))
            cached = model(draw_tokens(2, 9), model.new_cache(2, 9))
        torch.testing.assert_close(cached, rounded)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def problems(**changes: Any) -> dict[str, Any]:
    with pytest.raises(InvalidArguments) as caught:
        make(**changes)
    return {problem.where: problem for problem in caught.value.problems}


def test_all_mistakes_in_the_sizes_are_reported_together():
    found = problems(vocab_size=0, layers=-1, heads=5, dim=16, max_length=0, dropout=1.0)
    assert set(found) == {"vocab_size", "layers", "heads", "max_length", "dropout"}
    assert found["heads"].expected == "a divisor of dim = 16"
    assert found["heads"].hint == "try 4 or 8"


def test_a_size_that_is_not_positive_is_reported_once():
    assert set(problems(dim=0)) == {"dim"}
    assert set(problems(heads=0)) == {"heads"}
    assert set(problems(vocab_size=None)) == {"vocab_size"}


def test_what_a_part_finds_wrong_is_passed_on():
    assert set(problems(attention=partial(MultiHeadAttention, kv_heads=3))) == {"kv_heads"}
    assert set(problems(feedforward=partial(ff.GELU, hidden=0))) == {"hidden"}
    assert set(problems(position=Rotary, heads=16)) == {"dim"}
