from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from etude.nn import linear as module
from etude.nn.linear import LARGE, MAX_TRANSPOSED_ROWS, SMALL, kernel_for, linear, transposed_linear

D = 512
ONEDNN = "mkldnn::_linear_pointwise"


def kernels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> set[str]:
    with torch.profiler.profile() as profile:
        linear(x, weight, bias)
    return {event.key for event in profile.key_averages()}


@pytest.fixture(params=["AuthenticAMD", "GenuineIntel"])
def vendor(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Simulates either vendor's CPU on any machine."""
    monkeypatch.setattr(module, "cpu_vendor", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize("shape", [(2,), (3,), (8,), (15,), (4, 2), (1, 5, 3)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("weights", [SMALL, LARGE])
def test_few_rows_equal_the_exact_product(vendor, shape, biased, weights):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, D), torch.randn(weights // D, D)
    bias = torch.randn(weights // D) if biased else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    with torch.inference_mode():
        mine = linear(x, weight, bias)
    assert mine.is_contiguous()
    # D roundings of partial sums of size up to 60, at random: 60 * 2^-24 * sqrt(D) = 8e-5.
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=2e-4)


def test_the_other_way_round_takes_rows_as_they_lie():
    x, weight, bias = torch.randn(6, 4, 3).double(), torch.randn(5, 3).double(), torch.randn(5)
    for each in (x, x.transpose(0, 1), x[::2, :1]):
        torch.testing.assert_close(transposed_linear(each, weight), each @ weight.T)
        with_bias = transposed_linear(each, weight, bias.double())
        torch.testing.assert_close(with_bias, each @ weight.T + bias)


@pytest.mark.parametrize(
    ("rows", "weights", "on", "kernel"),
    [
        (1, LARGE, "AuthenticAMD", "torch"),
        (2, SMALL, "AuthenticAMD", "turned"),
        (MAX_TRANSPOSED_ROWS, LARGE, "AuthenticAMD", "turned"),
        (MAX_TRANSPOSED_ROWS + 1, LARGE, "AuthenticAMD", "onednn"),
        (8, LARGE - 1, "AuthenticAMD", "torch"),
        (16, LARGE, "AuthenticAMD", "torch"),
        (2, LARGE, "GenuineIntel", "torch"),
        (4, SMALL, "GenuineIntel", "torch"),
        (4, LARGE, "GenuineIntel", "onednn"),
        (15, LARGE, "GenuineIntel", "onednn"),
        (16, LARGE, "GenuineIntel", "torch"),
    ],
)
def test_the_measured_kernel_of_each_shape(monkeypatch, rows, weights, on, kernel):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert kernel_for(rows, weights, on) == kernel


def test_the_kernel_that_was_chosen_runs(vendor):
    x, weight = torch.randn(4, D), torch.randn(LARGE // D, D)
    with torch.inference_mode():
        found = kernels(x, weight, None)
        assert (ONEDNN in found) == (vendor == "GenuineIntel")
        assert ONEDNN in kernels(torch.randn(8, D), weight, None)
        assert torch.equal(linear(x, weight), transposed_linear(x, weight)) == (
            vendor == "AuthenticAMD"
        )


@pytest.mark.parametrize("rows", [1, 16, 64])
def test_other_numbers_of_rows_are_left_to_torch(vendor, rows):
    x, weight = torch.randn(rows, D), torch.randn(LARGE // D, D)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        assert ONEDNN not in kernels(x, weight, None)


def test_so_are_small_weights_training_and_other_precisions(vendor, monkeypatch):
    def refused(*_: Any) -> Any:
        raise AssertionError("asked for a kernel")

    monkeypatch.setattr(module, "kernel_for", refused)
    x, weight = torch.randn(4, D), torch.randn(LARGE // D, D, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand_as(weight))
    with torch.inference_mode():
        linear(x, weight[: SMALL // D - 1])
        linear(x.double(), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
