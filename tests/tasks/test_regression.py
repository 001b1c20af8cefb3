"""Loss and errors of `task=regression`, compared with NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from measuring import measured
from torch import Tensor, nn

from etude.tasks.regression import NumberMetrics, Regression, squared_errors

NAN = math.nan
VALUES = np.array([[1.0, NAN, 2.0, NAN, -1.0], [NAN, 0.5, NAN, NAN, 3.0]])
PREDICTIONS = np.array([[0.5, 9.0, 2.5, 9.0, 1.0], [9.0, 0.0, 9.0, 9.0, 2.0]])


def test_metrics_by_hand() -> None:
    metrics = NumberMetrics(inputs=2)
    metrics.update({"values": torch.tensor(VALUES)}, torch.tensor(PREDICTIONS))
    found = metrics.compute()
    squared = (PREDICTIONS - VALUES) ** 2
    assert found["loss"] == pytest.approx(np.nanmean(squared), rel=1e-12)
    first, second, third = (0.25 + 0.25) / 2, (0.25 + 1) / 2, 4.0
    assert found["error/0"] == pytest.approx(first / 2)
    assert found["error/1"] == pytest.approx(second / 2)
    assert found["error/2"] == pytest.approx(third / 2)
    assert set(found) == {"loss", "error/0", "error/1", "error/2"}


def test_the_loss_and_its_gradient_are_those_of_what_is_asked() -> None:
    predictions = torch.tensor(PREDICTIONS, requires_grad=True)
    loss = squared_errors(predictions, torch.tensor(VALUES)).sum()
    loss.backward()
    assert loss.item() == pytest.approx(np.nansum((PREDICTIONS - VALUES) ** 2), rel=1e-12)
    expected = np.nan_to_num(2 * (PREDICTIONS - VALUES))
    assert predictions.grad is not None
    np.testing.assert_allclose(predictions.grad.numpy(), expected, rtol=1e-12)


class First(nn.Module):
    """Model that predicts the first number of each position."""

    inputs, max_length = 3, 8

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers[..., 0]


def test_scores_do_not_depend_on_how_batches_are_cut() -> None:
    torch.manual_seed(0)
    numbers, values = torch.randn(6, 5, 3), torch.randn(6, 5)
    values[:, 1::2] = NAN
    batches: list[dict[str, Any]] = [
        {"numbers": numbers[part], "values": values[part]} for part in (slice(0, 2), slice(2, 6))
    ]
    found = measured(Regression, First(), batches)
    squared = ((numbers[..., 0] - values) ** 2)[:, 0::2].double()
    assert found["loss"] == pytest.approx(squared.mean().item(), rel=1e-6)
    for number in range(3):
        expected = squared[:, number].mean().item() / 3
        assert found[f"error/{number}"] == pytest.approx(expected, rel=1e-6)
