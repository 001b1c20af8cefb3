"""Modules compute the same inside `fast_decoding`, and are restored afterwards."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.generation.model_modes import fast_decoding
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock, PreNormBlock
from etude.nn.feedforward import GELU, NoFeedForward, SwiGLU
from etude.nn.linear import LARGE
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm, NoNorm, RMSNorm
from etude.nn.position import ALiBi, Learned, Rotary


def make(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "vocab_size": 17,
        "layers": 2,
        "heads": 4,
        "dim": 16,
        "max_length": 8,
        "attention": partial(MultiHeadAttention, kv_heads=2),
        "position": Learned,
        "norm": LayerNorm,
        "feedforward": GELU,
        "mask": Causal,
        "block": PreNormBlock,
        "dropout": 0.5,
    }
    return Decoder(**(arguments | changes))


def state_of(model: nn.Module) -> list[dict[str, Any]]:
    return [dict(module.__dict__) for module in model.modules()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": Rotary, "norm": RMSNorm, "feedforward": SwiGLU, "bias": False},
        {"position": ALiBi, "block": PostNormBlock, "tie_embeddings": False},
        {"norm": partial(LayerNorm, eps=0.1), "feedforward": NoFeedForward, "bias": False},
        {"norm": NoNorm},
    ],
)
def test_the_same_numbers_as_in_evaluation_mode(changes: dict[str, Any]) -> None:
    model = make(**changes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(17, (3, 8))
    expected = model.eval()(tokens)
    model.train()
    with torch.inference_mode(), fast_decoding(model):
        assert torch.equal(model(tokens), expected)


def test_every_module_is_given_back_as_it_was() -> None:
    model = make()
    model.blocks[0].eval()
    before, names = state_of(model), list(model.state_dict())

    def fail() -> None:
        with fast_decoding(model):
            assert state_of(model) != before
            assert list(model.state_dict()) == names
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state_of(model) == before
    for module in model.modules():
        assert "forward" not in module.__dict__


def test_one_within_another() -> None:
    model = make()
    before = state_of(model)
    with fast_decoding(model):
        with fast_decoding(model):
            pass
        assert not model.training
        model(torch.zeros(1, 3, dtype=torch.long))
    assert state_of(model) == before


def test_hooks_see_what_they_see_without_it() -> None:
    model, tokens = make().eval(), torch.zeros(1, 4, dtype=torch.long)
    seen: list[Tensor] = []
    for module in model.modules():
        module.register_forward_hook(lambda _, __, out: seen.append(out))
    model(tokens)
    expected, seen[:] = list(seen), []
    with fast_decoding(model):
        model(tokens)
    assert len(seen) == len(expected) > 20
    for mine, theirs in zip(seen, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_modules_of_ones_own_keep_their_forward() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Quiet(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    class Shifted(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return x + 3

    model = nn.Sequential(Doubled(4, 4), Quiet(0.5), Shifted(4))
    x = torch.randn(2, 4)
    expected = model.eval()(x)
    with fast_decoding(model):
        assert torch.equal(model(x), expected)


def test_a_weight_that_is_computed_at_each_call() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.utils.weight_norm(nn.Linear(3, 3))
    x = torch.randn(2, 3)
    with torch.no_grad():
        model.weight_g.mul_(2)
        with fast_decoding(model):
            mine = model(x)
        assert torch.equal(mine, model(x))


def test_what_is_no_module_is_left_alone() -> None:
    with fast_decoding(lambda tokens: tokens):
        pass


def test_large_products_of_few_rows_take_the_other_kernel() -> None:
    """The outputs are equal up to rounding."""
    size = int(LARGE**0.5) + 1
    module = nn.Linear(size, size)
    x = torch.randn(8, 1, size)
    exact = nn.functional.linear(x.double(), module.weight.double(), module.bias.double())
    with torch.inference_mode(), fast_decoding(module), torch.profiler.profile() as profile:
        mine = module(x)
    assert "mkldnn::_linear_pointwise" in {event.key for event in profile.key_averages()}
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=1e-5)
