"""Numbers that are a function of (key, index): uniform, independent, and in any order the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from etude.data.synthetic.draws import Draws, stream_key

KEY = stream_key(1, 0)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.integers(0, 2**32))
def test_an_index_has_its_numbers_wherever_it_stands(indices: list[int], seed: int) -> None:
    key = stream_key(3, seed)
    together = Draws(key, np.array(indices, dtype=np.int64))
    first, second = together.words(5), together.uniform(3)
    for place, index in enumerate(indices):
        alone = Draws(key, np.array([index]))
        assert (alone.words(5) == first[place]).all()
        assert (alone.uniform(3) == second[place]).all()


def test_uniform_over_examples_places_and_keys() -> None:
    over_indices = Draws(KEY, np.arange(100_000)).uniform(1).ravel()
    over_places = Draws(KEY, np.array([7])).uniform(100_000).ravel()
    keys = [stream_key(1, s) for s in range(3000)]
    over_keys = np.array([Draws(key, np.array([0])).uniform(1)[0, 0] for key in keys])
    for sample in (over_indices, over_places, over_keys):
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
    bits = np.unpackbits(Draws(KEY, np.arange(20_000)).words(1).view(np.uint8))
    ones = bits.reshape(-1, 64).sum(0).astype(int)
    assert (abs(ones - 10_000) < 5 * 70.7).all()  # each of the 64 is a fair coin


def test_neighbours_are_independent() -> None:
    grid = Draws(KEY, np.arange(2000)).uniform(50)
    for a, b in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:])):
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(a.size)
    pairs = np.histogram2d(grid[:, 0], grid[:, 1], bins=8)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_below_order_normal_and_chosen() -> None:
    draws = Draws(KEY, np.arange(24_000))
    counts = np.bincount(draws.below(6, 1).ravel(), minlength=6)
    assert stats.chisquare(counts).pvalue > 1e-3
    orders = draws.order(4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    kinds, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(kinds) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(draws.normal(1).ravel(), "norm").pvalue > 1e-3


def test_chosen_without_replacement_by_weight() -> None:
    """Two of three places with weights 1, 2, 5: the chance of an ordered pair by hand."""
    weights = np.array([1.0, 2.0, 5.0])
    found = Draws(KEY, np.arange(40_000)).weighted_choice(weights, 2)
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    chances = [w[a] * w[b] / (8 - w[a]) / 8 for w in [weights] for a, b in pairs]
    assert sum(chances) == pytest.approx(1)
    assert stats.chisquare(counts, 40_000 * np.array(chances)).pvalue > 1e-3
