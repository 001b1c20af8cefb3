from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from etude.nn.linear import LARGE, linear

D = 512
OTHER = "mkldnn::_linear_pointwise"


def kernels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> set[str]:
    with torch.profiler.profile() as profile:
        linear(x, weight, bias)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("shape", [(3,), (8,), (15,), (4, 2), (1, 5, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows_equal_the_exact_product(shape, biased):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, D), torch.randn(LARGE // D, D)
    bias = torch.randn(LARGE // D) if biased else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    with torch.inference_mode():
        mine = linear(x, weight, bias)
        assert OTHER in kernels(x, weight, bias)
    # D roundings of partial sums of size up to 60, at random: 60 * 2^-24 * sqrt(D) = 8e-5.
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=2e-4)


@pytest.mark.parametrize("rows", [1, 2, 16, 64])
def test_other_numbers_of_rows_are_left_to_torch(rows):
    x, weight = torch.randn(rows, D), torch.randn(LARGE // D, D)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        assert OTHER not in kernels(x, weight, None)


def test_so_are_small_weights_training_and_other_precisions():
    x, weight = torch.randn(8, D), torch.randn(LARGE // D, D, requires_grad=True)
    assert OTHER not in kernels(x, weight, None)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand_as(weight))
    with torch.inference_mode():
        assert OTHER not in kernels(x, weight[1:], None)
        assert OTHER not in kernels(x.double(), weight.double(), None)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
