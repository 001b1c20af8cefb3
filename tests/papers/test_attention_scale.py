"""Compares the measurement of softmax saturation with NumPy and with theory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import etude_papers.attention_scale as attention_scale
from etude.errors import InvalidArguments
from etude_papers.attention_scale import AttentionScale, softmax_statistics


def small(**changes: object) -> AttentionScale:
    settings: dict[str, Any] = {
        "widths": [1, 16, 64],
        "heads": 2,
        "queries": 16,
        "keys": 128,
    } | changes
    return AttentionScale(**settings)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_what_is_seen_of_a_softmax_is_what_numpy_computes(scale: float | None) -> None:
    q, k = small().draw(16, torch.Generator().manual_seed(0))
    seen = softmax_statistics(small().attend(q, k, scale=scale))

    logits = q.numpy() @ np.swapaxes(k.numpy(), -2, -1) * (1 / 4 if scale is None else scale)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropies = -(weights * np.log(weights)).sum(-1)
    assert seen.variance == pytest.approx(logits.var(-1, ddof=1).mean(), rel=1e-9)
    assert seen.entropy == pytest.approx(entropies.mean(), rel=1e-9)
    ordered = np.sort((weights * (1 - weights)).ravel())
    assert seen.gradient == pytest.approx(ordered[(ordered.size - 1) // 2], rel=1e-9)


def test_the_gradient_is_the_diagonal_of_softmax_s_jacobian() -> None:
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: z.softmax(-1), x)
    weights = x.softmax(-1)[None, None, None]
    assert softmax_statistics(weights).gradient == pytest.approx(
        jacobian.diagonal().median().item()
    )


def test_the_extremes_of_entropy() -> None:
    equal = torch.full((1, 1, 1, 8), 1 / 8, dtype=torch.float64)
    assert softmax_statistics(equal).entropy == pytest.approx(math.log(8))
    assert softmax_statistics(equal).variance == pytest.approx(0, abs=1e-12)
    one_hot = torch.eye(8, dtype=torch.float64)[None, None]
    assert softmax_statistics(one_hot).entropy == 0
    assert softmax_statistics(one_hot).gradient == 0


def test_scaled_logits_leave_an_entropy_of_ln_s_minus_a_half(tmp_path: Path) -> None:
    measurement = small(heads=8, queries=64, keys=512)
    q, k = measurement.draw(64, torch.Generator().manual_seed(0))
    seen = softmax_statistics(measurement.attend(q, k, scale=None))
    assert seen.entropy == pytest.approx(math.log(512) - 0.5, abs=0.03)


def test_readings_and_controls(tmp_path: Path) -> None:
    found = small().measure([0, 1], tmp_path)
    assert set(found) == {
        f"{what}/{width}"
        for what in ("variance", "scaled_variance", "entropy_gap", "gradient_ratio")
        for width in (16, 64)
    }
    variance = found["variance/64"]
    # The logits are scaled by 1/8, so the variances differ by a factor of 64, up to rounding.
    assert [v / c for v, c in zip(variance.values, variance.controls, strict=True)] == (
        pytest.approx([64, 64])
    )
    assert found["scaled_variance/64"].values == variance.controls
    # At d_k = 1 the scale is 1, so scaled and unscaled attention are equal.
    assert found["entropy_gap/64"].controls == [0, 0]
    assert found["gradient_ratio/64"].controls == [1, 1]
    assert found["variance/16"].values[0] != found["variance/16"].values[1]


def test_equal_seeds_give_equal_readings(tmp_path: Path) -> None:
    assert small().measure([7], tmp_path) == small().measure([7], tmp_path)


def test_an_attention_without_its_scale_shows_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = attention_scale.reference_attention
    monkeypatch.setattr(
        attention_scale,
        "reference_attention",
        lambda q, k, v, *, causal, scale: honest(q, k, v, causal=causal, scale=1.0),
    )
    found = small().measure([0], tmp_path)
    assert found["entropy_gap/64"].values == [0]
    assert found["scaled_variance/64"].values[0] > 30


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    small().measure([0], tmp_path)
    pixels = imread(tmp_path / "softmax.png")
    assert pixels.shape[0] > 300
    colours = {tuple(row) for row in (pixels[..., :3].reshape(-1, 3) * 255).round().astype(int)}
    for colour in (attention_scale.SCALED, attention_scale.UNSCALED):
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in colours


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"widths": [16, 64]}, "widths"),
        ({"widths": []}, "widths"),
        ({"widths": [0, 1]}, "widths"),
        ({"keys": 1}, "keys"),
        ({"heads": 0}, "heads"),
        ({"queries": -1}, "queries"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], key: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        small(**changes)
    assert [problem.where for problem in refusal.value.problems] == [key]
