from __future__ import annotations

import pytest
import torch

from etude.nn.norm import LayerNorm, NoNorm, RMSNorm


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.double()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at 1e-3, eps has an effect
def test_layer_norm_is_its_formula(bias, scale):
    torch.manual_seed(0)
    norm = randomised(LayerNorm(dim=6, bias=bias))
    x = scale * torch.randn(2, 3, 6, dtype=torch.float64)
    mean = x.sum(-1, keepdim=True) / 6
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / 6
    expected = norm.weight * (x - mean) / (variance + 1e-5).sqrt()
    expected = expected + norm.bias if bias else expected
    torch.testing.assert_close(norm(x), expected)
    assert (norm.bias is not None) == bias


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rms_norm_is_its_formula_and_has_no_bias(bias, scale):
    torch.manual_seed(0)
    norm = randomised(RMSNorm(dim=6, bias=bias))
    x = scale * torch.randn(2, 3, 6, dtype=torch.float64)
    mean_square = (x**2).sum(-1, keepdim=True) / 6
    torch.testing.assert_close(norm(x), norm.weight * x / (mean_square + 1e-6).sqrt())
    assert list(norm.state_dict()) == ["weight"]


def test_no_norm_is_the_identity():
    x = torch.randn(2, 3, 6)
    assert NoNorm(dim=6, bias=True)(x) is x


@pytest.mark.parametrize("cls", [LayerNorm, RMSNorm])
def test_eps_is_taken(cls):
    x = torch.full((1, 4), 1e-3, dtype=torch.float64)
    x[0, 0] = -1e-3
    small, large = (cls(dim=4, bias=False, eps=eps).double()(x) for eps in (1e-12, 1.0))
    assert small.abs().max() > 0.8
    assert large.abs().max() < 0.01
