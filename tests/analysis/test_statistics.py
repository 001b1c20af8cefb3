"""Tests of intervals and tests, against hand-computed values, scipy, and simulation."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from etude.analysis import statistics
from etude.analysis.significance import significance_table
from etude.analysis.statistics import holm, interval, paired_tests, seed_test
from etude.errors import InvalidArguments, RequestError


def test_no_interval_of_fewer_than_three() -> None:
    assert interval([]) is None
    assert interval([1.0]) is None
    assert interval([1.0, 2.0]) is None
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_the_interval_is_the_expanded_percentile_of_all_resamples() -> None:
    """Four values have 256 resamples, which can be enumerated; 9999 draws come close."""
    values = [1.0, 2.0, 4.0, 8.0]
    tail = stats.norm.cdf(stats.t.ppf(0.025, 3) * math.sqrt(4 / 3))
    means = [sum(drawn) / 4 for drawn in itertools.product(values, repeat=4)]
    expected = np.quantile(means, [tail, 1 - tail])
    found = interval(values)
    assert found is not None
    assert found == pytest.approx(expected, abs=0.13)  # a resample's mean moves by quarters


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=8),
    st.floats(-5, 5),
    st.floats(0.1, 10),
)
def test_the_interval_moves_and_grows_with_the_values(
    values: list[float], shift: float, scale: float
) -> None:
    found = interval(values)
    assert found is not None
    low, high = found
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = interval([shift + scale * value for value in values])
    if len(set(values)) > 1:
        assert moved == pytest.approx((shift + scale * low, shift + scale * high), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "least", "most"), [(3, 0.66, 0.80), (5, 0.85, 0.97), (10, 0.9, 0.98)]
)
def test_coverage_in_simulation(
    monkeypatch: pytest.MonkeyPatch, n: int, least: float, most: float
) -> None:
    """The fraction of intervals of normal values that contain the mean; n = 3 cannot do better."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    draw = np.random.default_rng(n)
    covered = 0
    rounds = 300
    for _ in range(rounds):
        found = interval(draw.normal(size=n).tolist())
        assert found is not None
        covered += found[0] <= 0 <= found[1]
    assert least <= covered / rounds <= most


def test_holm_by_hand() -> None:
    """Example: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_mcnemar_by_hand() -> None:
    """Eight examples only the second gets right, one only the first: 2 x (1 + 9) / 2**9."""
    first = [0.0] * 8 + [1.0] + [1.0] * 20
    second = [1.0] * 8 + [0.0] + [1.0] * 20
    found = paired_tests(first, second)
    assert found.mcnemar == pytest.approx(2 * (1 + 9) / 2**9)
    assert found.mean == pytest.approx(7 / 29)
    assert paired_tests([0.0, 1.5], [1.0, 1.0]).mcnemar is None
    same = paired_tests([0.0, 1.0], [0.0, 1.0])
    assert (same.mcnemar, same.permutation, same.bootstrap) == (1.0, 1.0, 1.0)


def test_the_permutation_test_by_hand() -> None:
    """Of the 2**6 signs of six positive differences, two are as extreme: all plus, all minus."""
    second = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert paired_tests([0.0] * 6, second).permutation == pytest.approx(2 / 64)


def test_against_a_t_test_where_that_is_right() -> None:
    draw = np.random.default_rng(0)
    first = draw.normal(size=400)
    second = first + draw.normal(0.08, 1, size=400)
    found = paired_tests(first, second)
    expected = stats.ttest_rel(second, first)
    assert found.permutation == pytest.approx(expected.pvalue, abs=0.015)
    assert found.bootstrap == pytest.approx(expected.pvalue, abs=0.02)
    ends = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.012)


def test_equal_systems_are_told_apart_as_often_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The false positive rate is about one in twenty at the 5 % level."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
    draw = np.random.default_rng(7)
    rounds = 300
    alarms = {"permutation": 0, "bootstrap": 0, "mcnemar": 0}
    for _ in range(rounds):
        first, second = (draw.random((2, 60)) < 0.7).astype(float)
        found = paired_tests(first, second)
        for name in alarms:
            alarms[name] += getattr(found, name) < 0.05
    assert 0.02 <= alarms["bootstrap"] / rounds <= 0.10
    assert 0.01 <= alarms["permutation"] / rounds <= 0.08  # conservative where ties are many
    assert alarms["mcnemar"] / rounds <= 0.06  # an exact test is conservative


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.0], [1.0, 2.0], "scores = '1 scores and 2 scores': expected two lists of equal length"),
        ([1.0], [2.0], "at least two scores"),
        ([1.0, math.nan], [1.0, 2.0], "finite numbers"),
    ],
)
def test_what_cannot_be_compared(first: list[float], second: list[float], said: str) -> None:
    with pytest.raises(InvalidArguments, match=said):
        paired_tests(first, second)


def test_runs_on_other_data_are_refused_before_anything_is_scored() -> None:
    class Unscored:
        def __init__(self, name: str, data: str) -> None:
            self.path, self.label = Path(name), name
            self.summary: dict[str, Any] = {"data": {"fingerprint": data}}

        def scores(self, split: str) -> list[float]:
            raise AssertionError(split)

    runs = [Unscored("a", "x"), Unscored("b", "x"), Unscored("c", "y"), Unscored("d", "z")]
    with pytest.raises(RequestError) as caught:
        significance_table(runs, "val")
    assert [problem.where for problem in caught.value.problems] == ["c: data", "d: data"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=5),
    st.lists(st.floats(-10, 10), min_size=2, max_size=5),
    st.booleans(),
)
def test_the_seed_test_is_scipys(first: list[float], second: list[float], paired: bool) -> None:
    if paired:
        second = second[: len(first)]
        first = first[: len(second)]
    found = seed_test(first, second, paired=paired)

    def exact_difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        """The difference of the means, in whole numbers, so that ties are equal."""
        return a.sum(axis) * b.shape[axis] - b.sum(axis) * a.shape[axis]

    expected = stats.permutation_test(
        (np.round(np.multiply(second, 1e6)), np.round(np.multiply(first, 1e6))),
        exact_difference,
        permutation_type="samples" if paired else "independent",
        n_resamples=np.inf,
        vectorized=True,
    )
    rounded = seed_test(
        np.round(np.multiply(first, 1e6)), np.round(np.multiply(second, 1e6)), paired=paired
    )
    assert rounded.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert found.exact
    assert found.p >= found.smallest


def test_the_seed_test_by_hand() -> None:
    """Three runs each, no overlap: of 20 assignments, the observed and the opposite are extreme."""
    apart = seed_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert (apart.difference, apart.p, apart.smallest) == (3.0, 2 / 20, 2 / 20)
    # assignments with a sum of the second of at least 14 of 21: {3,5,6} and {4,5,6} are 2 of 20
    assert seed_test([1.0, 2.0, 4.0], [3.0, 5.0, 6.0]).p == 2 * 2 / 20
    pairs = seed_test([1.0, 5.0, 9.0, 2.0], [2.0, 7.0, 12.0, 6.0], paired=True)
    assert (pairs.difference, pairs.p, pairs.smallest) == (2.5, 2 / 16, 2 / 16)
    assert seed_test([1.0], [2.0]).p == 1.0


def test_too_many_permutations_are_sampled() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=15), rng.normal(size=15) + 0.7
    found = seed_test(first, second)
    assert not found.exact
    assert found.p == pytest.approx(float(stats.ttest_ind(first, second).pvalue), abs=0.03)
