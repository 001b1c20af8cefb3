from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from etude.errors import InvalidArguments
from etude.nn.feedforward import GEGLU, GELU, FeedForward, GELUTanh, ReLU, SquaredReLU, SwiGLU

ACTIVATION = {
    ReLU: lambda x: max(0.0, x),
    SquaredReLU: lambda x: max(0.0, x) ** 2,
    GELU: lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    GELUTanh: lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    SwiGLU: lambda x: x / (1 + math.exp(-x)),
    GEGLU: lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}


def affine(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize("cls", ACTIVATION)
@pytest.mark.parametrize("bias", [False, True])
def test_is_its_formula(cls, bias):
    torch.manual_seed(0)
    module = cls(dim=6, bias=bias, dropout=0.0, hidden=10).double()
    x = 3 * torch.randn(2, 4, 6, dtype=torch.float64)
    inner = affine(module.up if issubclass(cls, FeedForward) else module.gate, x)
    inner = inner.detach().apply_(ACTIVATION[cls])
    if not issubclass(cls, FeedForward):
        inner = inner * affine(module.up, x)
    torch.testing.assert_close(module(x), affine(module.down, inner))


@pytest.mark.parametrize(
    ("cls", "dim", "hidden"),
    [(GELU, 768, 3072), (ReLU, 10, 40), (SwiGLU, 768, 2048), (SwiGLU, 128, 344), (GEGLU, 1, 8)],
)
def test_hidden_width_by_default(cls, dim, hidden):
    module = cls(dim=dim, bias=False, dropout=0.0)
    assert module.up.weight.shape == (hidden, dim)
    assert module.down.weight.shape == (dim, hidden)


@pytest.mark.parametrize("dim", range(1, 200, 7))
def test_gated_width_is_the_next_multiple_of_eight(dim):
    hidden = SwiGLU(dim=dim, bias=False, dropout=0.0).up.out_features
    assert hidden % 8 == 0
    assert 0 <= hidden - 8 * dim / 3 < 8


@pytest.mark.parametrize("cls", [GELU, SwiGLU])
def test_dropout_acts_on_the_output(cls):
    torch.manual_seed(0)
    module = cls(dim=64, bias=True, dropout=0.25)
    x = torch.randn(8, 16, 64)
    dropped, whole = module(x), module.eval()(x)
    retained = dropped != 0
    torch.testing.assert_close(dropped[retained], whole[retained] / 0.75)
    assert retained.float().mean().item() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("cls", [GELU, SwiGLU])
def test_bad_arguments_are_reported_together(cls):
    with pytest.raises(InvalidArguments) as caught:
        cls(dim=8, bias=True, dropout=1.5, hidden=0)
    assert {problem.where for problem in caught.value.problems} == {"hidden", "dropout"}
