from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidArguments
from etude.generation.sampling import choose, draw, keep_top_k, keep_top_p, scale_temperature

# The 99.9 % points of the chi-square distribution, by degrees of freedom.
CHI_SQUARE_999 = {1: 10.828, 2: 13.816, 7: 24.322}
LOGITS = [0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, -2.0]

vocabularies = st.lists(st.floats(-8, 8), min_size=1, max_size=12)


def kept(logits: torch.Tensor) -> set[int]:
    return set((logits > -torch.inf).nonzero().flatten().tolist())


def softmax(logits: list[float]) -> np.ndarray:
    powers = np.exp(np.array(logits, dtype=np.float64))
    return powers / powers.sum()


@given(logits=vocabularies, k=st.integers(1, 15))
def test_top_k_keeps_the_k_largest(logits, k):
    values, ids = keep_top_k(torch.tensor(logits, dtype=torch.float64), k)
    chosen = ids.tolist()
    assert len(set(chosen)) == len(chosen) == min(k, len(logits))
    assert values.tolist() == [logits[i] for i in chosen] == sorted(values.tolist(), reverse=True)
    others = [x for i, x in enumerate(logits) if i not in chosen]
    assert not others or max(others) <= min(values.tolist())


@given(logits=vocabularies, p=st.floats(0.001, 1))
def test_top_p_keeps_the_smallest_set_with_that_much_probability(logits, p):
    before = torch.tensor(logits, dtype=torch.float64)
    after = keep_top_p(before, p)
    chosen = kept(after)
    probabilities = softmax(logits)
    mass = sum(probabilities[i] for i in chosen)
    assert mass >= p - 1e-9
    if p < 1:
        assert len(chosen) == 1 or mass - min(probabilities[i] for i in chosen) < p + 1e-9
    assert all(after[i] == before[i] for i in chosen)
    others = [x for i, x in enumerate(logits) if i not in chosen]
    assert not others or max(others) <= min(logits[i] for i in chosen)


@given(rows=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=2, max_size=5))
def test_rows_are_independent(rows):
    logits = torch.tensor(rows)
    for row, together in zip(logits, keep_top_p(logits, 0.6), strict=True):
        assert torch.equal(keep_top_p(row, 0.6), together)
    for row, *together in zip(logits, *keep_top_k(logits, 2), strict=True):
        for alone, both in zip(keep_top_k(row, 2), together, strict=True):
            assert torch.equal(alone, both)


def test_top_p_one_keeps_even_what_rounding_would_lose():
    """In float32 the first token's probability is 1 already."""
    assert kept(keep_top_p(torch.tensor([30.0, 0.0, 1.0]), 1.0)) == {0, 1, 2}


def test_temperature_sharpens_and_flattens():
    logits = torch.tensor(LOGITS)
    entropies = []
    for temperature in (0.5, 1.0, 2.0):
        p = scale_temperature(logits, temperature).softmax(-1)
        entropies.append(-(p * p.log()).sum().item())
        powers = softmax(LOGITS) ** (1 / temperature)
        torch.testing.assert_close(
            p.double(), torch.from_numpy(powers / powers.sum()), atol=1e-6, rtol=0
        )
    assert entropies == sorted(entropies)


@pytest.mark.parametrize(
    ("arguments", "support"),
    [
        ({}, set(range(8))),
        ({"temperature": 0.7}, set(range(8))),
        ({"top_k": 3}, {3, 6, 1}),
        ({"top_k": 20}, set(range(8))),
        ({"top_k": 5, "top_p": 0.5}, {3, 6}),
        ({"top_p": 0.5}, {3, 6}),  # probabilities .418, .253, .154, ... : .418 is not enough
        ({"temperature": 2.0, "top_k": 3, "top_p": 0.999}, {3, 6, 1}),
    ],
)
def test_draws_follow_the_distribution(arguments, support):
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    drawn = choose(torch.tensor(LOGITS).expand(n, 8), generator=generator, **arguments)
    counts = np.bincount(drawn.numpy(), minlength=8)
    expected = softmax([x / arguments.get("temperature", 1.0) for x in LOGITS])
    expected = np.array([p if i in support else 0.0 for i, p in enumerate(expected)])
    expected = n * expected / expected.sum()
    inside = sorted(support)
    assert counts.sum() == counts[inside].sum() == n
    statistic = ((counts[inside] - expected[inside]) ** 2 / expected[inside]).sum()
    assert statistic < CHI_SQUARE_999[len(support) - 1]


@given(
    rows=st.integers(1, 4), size=st.integers(1, 300), sharp=st.floats(0, 60), seed=st.integers(0)
)
def test_draws_are_those_of_multinomial(rows, size, sharp, seed):
    source = torch.Generator().manual_seed(seed % 2**63)
    probabilities = (sharp * torch.randn(rows, size, generator=source)).softmax(-1)
    state = source.get_state()
    expected = torch.multinomial(probabilities, 1, generator=source)[:, 0]
    source.set_state(state)
    assert torch.equal(draw(probabilities, source), expected)


def test_temperature_comes_before_the_nucleus():
    """At temperature 4 the distribution is so flat that half of it needs four tokens, not two."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor(LOGITS).expand(5000, 8)
    drawn = choose(logits, temperature=4.0, top_p=0.5, generator=generator)
    assert set(drawn.tolist()) == {3, 6, 1, 4}


@pytest.mark.parametrize("arguments", [{"greedy": True}, {"temperature": 0.0}, {"top_k": 1}])
def test_greedy_in_three_ways(arguments):
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    expected = [max(range(9), key=row.__getitem__) for row in logits.tolist()]
    assert choose(logits, **arguments).tolist() == expected


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("arguments", [{"greedy": True}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_shapes(shape, arguments):
    assert choose(torch.randn(shape), **arguments).shape == shape[:-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_logits_can_be_drawn_from(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 0.0, -1e4], dtype=dtype).expand(4000, 3)
    counts = choose(logits, top_p=0.999, generator=generator).bincount(minlength=3)
    assert counts[2] == 0
    assert counts[0] / 4000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": -3},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
    ],
)
def test_values_that_describe_no_distribution(arguments):
    with pytest.raises(InvalidArguments) as caught:
        choose(torch.zeros(3), **arguments)
    assert [problem.where for problem in caught.value.problems] == list(arguments)


def test_mistakes_are_reported_together():
    with pytest.raises(InvalidArguments) as caught:
        choose(torch.zeros(3), temperature=-1, top_k=0, top_p=2)
    assert len(caught.value.problems) == 3
