from __future__ import annotations

from collections import Counter
from math import ceil, isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.order import EveryExampleOnce, RandomWindows, permute
from etude.errors import InvalidArguments

KINDS = [RandomWindows, EveryExampleOnce]
KEYS = np.array([3, 1 << 63, 5, 7, 2**64 - 1, 11], dtype=np.uint64)


def permute_one(index: int, size: int, keys: list[int]) -> int:
    """The same cipher in Python's unlimited integers, one value at a time."""
    mask = 2**64 - 1

    def f(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x >> 31

    a = next(root for root in range(isqrt(size), size + 1) if root * root >= size)
    b = ceil(size / a)
    while True:
        left, right = divmod(index, b)
        for number in range(0, len(keys), 2):
            left = (left + f(right ^ keys[number])) % a
            right = (right + f(left ^ keys[number + 1])) % b
        index = left * b + right
        if index < size:
            return index


class TestPermutation:
    @given(size=st.integers(1, 3000))
    def test_every_value_comes_once(self, size: int) -> None:
        values = permute(np.arange(size, dtype=np.uint64), size, KEYS)
        assert sorted(values.tolist()) == list(range(size))

    @given(size=st.integers(1, 10**12), data=st.data())
    def test_equals_the_scalar_formula(self, size: int, data: st.DataObject) -> None:
        places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
        ours = permute(np.array(places, dtype=np.uint64), size, KEYS).tolist()
        assert ours == [permute_one(place, size, KEYS.tolist()) for place in places]

    @given(size=st.integers(10**17, 2**62), data=st.data())
    def test_a_huge_domain_needs_no_list_and_keeps_values_apart(
        self, size: int, data: st.DataObject
    ) -> None:
        places = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=9, unique=True))
        values = permute(np.array(places, dtype=np.uint64), size, KEYS).tolist()
        assert len(set(values)) == len(values)
        assert max(values) < size

    def test_all_orders_of_four_are_equally_frequent(self) -> None:
        trials = 4800
        counts = Counter(
            tuple(EveryExampleOnce(5, 1, 4, seed).starts(0).tolist()) for seed in range(trials)
        )
        assert len(counts) == 24
        expected = trials / 24
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 49.7  # the 0.1 % point of chi-square with 23 degrees of freedom

    def test_neighbours_are_scattered(self) -> None:
        # The correlation of place and value over a shuffled list is about 1 / sqrt(n) = 0.01.
        values = EveryExampleOnce(10_001, 1, 10_000, seed=0).starts(0)
        assert abs(np.corrcoef(np.arange(10_000), values)[0, 1]) < 0.04
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.04


class TestEveryExampleOnce:
    @settings(deadline=None)
    @given(
        tokens=st.integers(2, 500),
        length=st.integers(1, 60),
        batch=st.integers(1, 40),
        seed=st.integers(0, 2**40),
    )
    def test_each_example_once_an_epoch(
        self, tokens: int, length: int, batch: int, seed: int
    ) -> None:
        tokens = max(tokens, length + 1)
        order = EveryExampleOnce(tokens, length, batch, seed)
        examples = (tokens - 1) // length
        assert order.examples == examples
        steps = ceil(3 * examples / batch)
        starts = np.concatenate([order.starts(step) for step in range(steps)])
        for epoch in range(3):
            seen = starts[epoch * examples : (epoch + 1) * examples]
            assert sorted(seen.tolist()) == [length * i for i in range(examples)]

    def test_epochs_and_seeds_have_orders_of_their_own(self) -> None:
        starts = [
            EveryExampleOnce(101, 1, 100, seed).starts(epoch) for seed in (0, 1) for epoch in (0, 1)
        ]
        assert len({tuple(order.tolist()) for order in starts}) == 4


class TestRandomWindows:
    def test_every_place_is_met_equally_often(self) -> None:
        order = RandomWindows(tokens=30, length=10, batch=100, seed=5)
        counts = np.bincount(np.concatenate([order.starts(step) for step in range(200)]))
        assert len(counts) == 20  # places 0 to 19: the last window ends with token 29
        chi_square = float((((counts - 1000) ** 2) / 1000).sum())
        assert chi_square < 43.8  # the 0.1 % point with 19 degrees of freedom

    def test_steps_and_seeds_are_independent(self) -> None:
        orders = [RandomWindows(10_000, 8, 16, seed) for seed in (0, 1)]
        starts = {tuple(order.starts(step).tolist()) for order in orders for step in range(50)}
        assert len(starts) == 100


@pytest.mark.parametrize("kind", KINDS)
class TestBoth:
    def test_steps_can_be_asked_in_any_order(
        self, kind: type[RandomWindows] | type[EveryExampleOnce]
    ) -> None:
        forwards = [kind(1000, 7, 5, 3).starts(step).tolist() for step in range(60)]
        order = kind(1000, 7, 5, 3)
        backwards = [order.starts(step).tolist() for step in reversed(range(60))]
        assert forwards == backwards[::-1]

    def test_the_global_random_state_is_left_alone(
        self, kind: type[RandomWindows] | type[EveryExampleOnce]
    ) -> None:
        np.random.seed(0)
        before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
        kind(1000, 7, 5, 3).starts(2)
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]

    def test_mistakes_come_all_at_once(
        self, kind: type[RandomWindows] | type[EveryExampleOnce]
    ) -> None:
        with pytest.raises(InvalidArguments) as caught:
            kind(tokens=8, length=8, batch=0, seed=-1)
        assert [problem.where for problem in caught.value.problems] == ["batch", "tokens", "seed"]


def test_orders_never_change() -> None:
    """Recorded runs are continued with these numbers: they must stay the same for good."""
    assert RandomWindows(1_003_854, 64, 4, 1337).starts(7).tolist() == WINDOWS_GOLDEN
    assert EveryExampleOnce(1_003_854, 64, 4, 1337).starts(7).tolist() == EPOCHS_GOLDEN


WINDOWS_GOLDEN = [598994, 228745, 529114, 766947]
EPOCHS_GOLDEN = [251968, 20992, 582592, 689984]
