"""Losses, compared with formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from etude.data.objective import IGNORE
from etude.tasks.losses import cross_entropy

C = 5


def by_hand(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    z: float = 0.0,
    weights: list[float] | None = None,
) -> float:
    total = 0.0
    for n, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if label == IGNORE:
            continue
        log_z = math.log(math.fsum(map(math.exp, row)))
        log_p = [value - log_z for value in row]
        target = [smoothing / C + (1 - smoothing) * (place == label) for place in range(C)]
        loss = -math.fsum(t * p for t, p in zip(target, log_p, strict=True))
        total += loss * (1.0 if weights is None else weights[n]) + z * log_z**2
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z", [0.0, 1e-2])
def test_sums_over_the_targets_that_count(smoothing: float, z: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, C, dtype=torch.double)
    labels = torch.tensor([0, 4, IGNORE, 2, 2, IGNORE, 1])
    found = cross_entropy(logits, labels, label_smoothing=smoothing, z_loss=z)
    assert found.item() == pytest.approx(by_hand(logits, labels, smoothing, z), rel=1e-12)


def test_weights() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, C, dtype=torch.double), torch.tensor([1, 0, 3, IGNORE])
    weights = [0.5, 2.0, 1.5, 9.0]
    found = cross_entropy(logits, labels, weights=torch.tensor(weights, dtype=torch.double))
    assert found.item() == pytest.approx(by_hand(logits, labels, weights=weights), rel=1e-12)


def test_half_precision_is_summed_in_single() -> None:
    logits = torch.randn(3, 4, C).to(torch.bfloat16)
    assert cross_entropy(logits, torch.zeros(3, 4, dtype=torch.long)).dtype == torch.float32
