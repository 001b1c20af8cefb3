"""Tests of the suggested learning rates, on curves with known steepest point and minimum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from etude.analysis.learning_rates import LearningRates, smooth, suggest_rates, write_range_test
from etude.training.range_test import RangeTestResult

N = 100
LOGS = np.linspace(-6, 0, N)  # of the rates


def found(losses: np.ndarray, ended: str | None = None, steps: int = N) -> LearningRates:
    rates = [float(10**x) for x in LOGS[: len(losses)]]
    return suggest_rates(
        RangeTestResult(1e-3, Path("folder"), rates, losses.tolist(), ended), steps
    )


def curve(middle: float, cliff: float) -> np.ndarray:
    """Returns a curve that falls by 2 around `middle`, where it is steepest, and rises after
    `cliff`.
    """
    return 3 - 2 / (1 + np.exp(-(LOGS - middle) / 0.25)) + np.exp(6 * (LOGS - cliff))


@pytest.mark.parametrize("middle", [-4.5, -3.0, -2.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_steepest_and_minimum(middle: float, noise: float) -> None:
    clean = curve(middle, cliff=middle + 2.0)
    losses = clean + noise * np.random.default_rng(0).standard_normal(N)
    losses = losses[clean < 12]  # where the test ends
    read = found(losses, ended="the loss is above")
    assert read.steepest is not None
    assert read.tenth_of_minimum is not None
    assert abs(np.log10(read.steepest) - middle) < 0.2
    assert abs(np.log10(read.tenth_of_minimum) + 1 - LOGS[clean.argmin()]) < 0.35
    assert read.suggestion == read.steepest
    assert read.notes == [f"stopped after {len(losses)} of {N} steps: the loss is above"]


def test_nothing_to_see_is_said() -> None:
    flat = 3 + 0.05 * np.random.default_rng(1).standard_normal(N)
    for losses in (flat, 3 + np.exp(4 * LOGS) * 5, np.full(N, 2.5)):
        read = found(losses)
        assert read.suggestion is None
        assert read.tenth_of_minimum is None
        assert "no suggestion: the loss falls by" in read.notes[0]
        assert "--from" in read.notes[0]


def test_a_range_that_ends_too_early_or_begins_too_late() -> None:
    falling = found(3 - 1.5 / (1 + np.exp(-(LOGS + 0.5) / 0.5)))
    assert falling.suggestion is not None
    assert "try a higher --to" in falling.notes[0]
    begun = found(1 + 2 * np.exp(-(LOGS + 6) * 3) + np.exp(6 * (LOGS + 2)))
    assert begun.suggestion is not None
    assert "try a lower --from" in begun.notes[0]


def test_smoothing_is_scipys_away_from_the_ends() -> None:
    values = np.random.default_rng(2).standard_normal(N)
    ours, theirs = smooth(values, 3.0), gaussian_filter1d(values, 3.0, truncate=10)
    np.testing.assert_allclose(ours[30:-30], theirs[30:-30], rtol=1e-9)
    np.testing.assert_allclose(smooth(np.full(N, 1.7), 3.0), 1.7, rtol=1e-12)


def test_files(tmp_path: Path) -> None:
    read = found(curve(-3.0, -1.0))
    read = LearningRates(**{**vars(read), "folder": tmp_path / "_lr" / "x"})
    for file in write_range_test(read, {"name": "n"}):
        assert file.stat().st_size > 0
    told = json.loads((tmp_path / "_lr" / "x" / "lr.json").read_text())
    assert told["name"] == "n"
    assert told["suggestion"] == read.steepest
    assert (told["rates"], told["losses"]) == (read.rates, read.losses)
    assert (tmp_path / "_lr" / "x" / "lr.png").read_bytes()[:4] == b"\x89PNG"
