"""Which examples make up a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.examples.batches import MIN_BUCKET_EXAMPLES, ExampleBatches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=200)


def batches(
    lengths: list[int], seed: int = 0, packed: bool = False, **more: int | None
) -> ExampleBatches:
    size: dict[str, int | None] = {"examples": None, "tokens": None, **more}
    bucket_steps = size.pop("bucket_steps", 4) or 1
    return ExampleBatches(
        np.array(lengths), seed=seed, bucket_steps=bucket_steps, packed=packed, **size
    )


@given(LENGTHS, st.integers(1, 16), st.integers(1, 6), st.integers(0, 3))
def test_an_epoch_takes_each_example_once(
    lengths: list[int], examples: int, bucket_steps: int, seed: int
) -> None:
    made = batches(lengths, seed, examples=examples, bucket_steps=bucket_steps)
    count = made.steps_per_epoch
    assert count == -(-len(lengths) // examples)
    for epoch in range(3):
        steps = [made.step(epoch * count + step) for step in range(count)]
        assert sorted(np.concatenate(steps)) == list(range(len(lengths)))
        assert sum(len(step) < examples for step in steps) <= 1


@given(LENGTHS, st.integers(40, 200), st.integers(1, 6), st.integers(0, 3))
def test_a_step_has_no_more_positions_than_it_may(
    lengths: list[int], tokens: int, bucket_steps: int, seed: int
) -> None:
    made = batches(lengths, seed, tokens=tokens, bucket_steps=bucket_steps)
    sizes = np.array(lengths)
    seen: list[int] = []
    number = 0
    while len(seen) < 2 * len(lengths):
        step = made.step(number)
        assert len(step) * sizes[step].max() <= tokens
        seen += step.tolist()
        number += 1
    assert sorted(seen[: len(lengths)]) == sorted(seen[len(lengths) :]) == [*range(len(lengths))]


@pytest.mark.parametrize("size", [{"examples": 4}, {"tokens": 90}])
def test_a_step_is_a_function_of_seed_and_number(size: dict[str, int]) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 300).tolist()
    one, other = batches(lengths, 5, **size), batches(lengths, 5, **size)
    far = other.step(200)  # without the ones before
    assert [one.step(n).tolist() for n in range(201)][200] == far.tolist()
    assert any(
        batches(lengths, 6, **size).step(n).tolist() != one.step(n).tolist() for n in range(3)
    )


def test_examples_of_a_step_are_of_like_length() -> None:
    """Sorted within stretches of 50 steps, little is padding; unsorted, much."""
    lengths = np.random.default_rng(0).integers(1, 100, 4000)

    def padding(bucket_steps: int) -> float:
        made = batches(lengths.tolist(), examples=16, bucket_steps=bucket_steps)
        steps = [lengths[made.step(n)] for n in range(made.steps_per_epoch)]
        return 1 - sum(s.sum() for s in steps) / sum(len(s) * s.max() for s in steps)

    assert padding(50) < 0.05
    assert padding(1) > 0.4


def test_lengths_come_in_no_order() -> None:
    """Steps are shuffled after sorting: short ones do not come first."""
    lengths = np.random.default_rng(0).integers(1, 100, 4000)
    made = batches(lengths.tolist(), examples=16, bucket_steps=250)
    means = [lengths[made.step(n)].mean() for n in range(250)]
    assert abs(np.corrcoef(means, np.arange(250))[0, 1]) < 0.2


@pytest.mark.parametrize("packed", [False, True])
def test_no_step_takes_examples_of_two_stretches(packed: bool) -> None:
    """Each stretch is sorted anew: across its end, the longest would stand beside the shortest."""
    lengths = np.random.default_rng(0).integers(1, 101, 3 * MIN_BUCKET_EXAMPLES)
    made = batches(lengths.tolist(), tokens=1500, packed=packed)
    steps = [lengths[made.step(number)] for number in range(made.steps_per_epoch)]
    assert sum(len(step) for step in steps) == len(lengths)
    assert max(step.max() - step.min() for step in steps) < 20
