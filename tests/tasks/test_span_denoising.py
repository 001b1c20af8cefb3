"""Removed spans can be restored from source and target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.objective import generator
from etude.errors import InvalidArguments
from etude.tasks.span_denoising import SpanDenoising, SpanObjective, _random_partition

SENTINELS = tuple(range(1000, 1100))
END = 999


def objective(rate: float = 0.15, mean: float = 3.0) -> SpanObjective:
    return SpanObjective(rate, mean, SENTINELS, END)


def reassembled(source: list[int], target: list[int]) -> list[int]:
    """Returns the text, with the span after each sentinel of the target in the sentinel's
    position.
    """
    assert source[-1] == target[-1] == END
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[[*spans][-1]].append(token)
    whole: list[int] = []
    for token in source[:-1]:
        whole += spans[token] if token in SENTINELS else [token]
    return whole


@given(
    st.integers(2, 120), st.floats(0.05, 0.6), st.floats(1, 8), st.integers(0, 5), st.integers(1, 3)
)
def test_the_source_with_its_spans_is_the_text(
    length: int, rate: float, mean: float, seed: int, count: int
) -> None:
    text = np.random.default_rng(seed).integers(0, 900, (count, length))
    arrays = objective(rate, mean)(text, generator(seed, 0))
    for source, target, whole in zip(arrays["source"], arrays["labels"], text, strict=True):
        assert reassembled(source.tolist(), target.tolist()) == whole.tolist()
        assert source[0] not in SENTINELS  # a window begins with an unchanged span


def test_the_lengths_are_those_of_t5() -> None:
    """T5 splits 568 tokens into 512 of source and 114 of target (Raffel et al. 2019, the code's
    `random_spans_helper` for inputs_length=512, rate 0.15, mean 3).
    """
    arrays = objective()(np.zeros((1, 568), dtype=np.int64), generator(0, 0))
    assert (arrays["source"].shape[1], arrays["labels"].shape[1]) == (512, 114)


def test_all_ways_to_divide_are_equally_likely() -> None:
    draw = generator(0, 0)
    seen = [tuple(_random_partition(5, 3, draw)) for _ in range(6000)]
    ways = {(a, b, 5 - a - b) for a in range(1, 4) for b in range(1, 5 - a)}
    assert set(seen) == ways
    assert min(seen.count(way) for way in ways) > 850  # of 1000


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": 1.0}, {"mean_span": 0.5}])
def test_what_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidArguments):
        SpanDenoising.objective(**bad)
