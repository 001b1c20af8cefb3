"""What each rule makes, against the rule carried out one symbol at a time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from etude.data.objective import IGNORE
from etude.data.synthetic.arithmetic import OPERATIONS, Adder, ModularArithmetic
from etude.data.synthetic.base import SyntheticData
from etude.data.synthetic.sequences import Copy, Dyck, Induction, Recall, Sort
from etude.data.text import Batch
from etude.errors import InvalidArguments

STEP = Batch(examples=50)


def rows(data: SyntheticData, count: int = 300, split: Any = "train") -> list[tuple[list, list]]:
    """Examples in symbols: what is read, and what is to be said at each place, None for nothing."""
    arrays, names = data.examples(split, np.arange(count), seed=5), data.symbols
    assert arrays["tokens"].shape == arrays["labels"].shape == (count, data.sequence_length)
    return [
        (
            [names[token] for token in tokens],
            [None if label == IGNORE else names[label] for label in labels],
        )
        for tokens, labels in zip(arrays["tokens"], arrays["labels"], strict=True)
    ]


BY_HAND = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "squares": lambda a, b: a**2 + b**2,
    "squares_product": lambda a, b: a**2 + a * b + b**2,
    "cubes": lambda a, b: a**3 + a * b,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_modular_arithmetic(operation: str) -> None:
    data = ModularArithmetic(batch=Batch(), p=11, operation=operation, validation=0.5)
    pairs = set()
    for split, count in (("train", data.training_size), ("val", data.validation_size)):
        for (a, b, equals), (*nothing, said) in rows(data, count, split):
            assert equals == "="
            assert nothing == [None, None]
            x, y, z = int(a), int(b), int(said)
            assert z * y % 11 == x if operation == "divide" else BY_HAND[operation](x, y) % 11 == z
            pairs.add((x, y))
    assert len(pairs) == data.size == (110 if operation == "divide" else 121)


@pytest.mark.parametrize("digits", [1, 2, 5])
def test_adder(digits: int) -> None:
    data = Adder(batch=STEP, digits=digits, sequence_length=3 * digits, validation=20)
    for read, said in rows(data, 60):
        a, b = int("".join(read[:digits])), int("".join(read[digits : 2 * digits]))
        assert said[: 2 * digits - 1] == [None] * (2 * digits - 1)
        last_first = said[2 * digits - 1 :]
        assert int("".join(reversed(last_first))) == a + b
        assert read[2 * digits :] == last_first[:-1]


def test_sort() -> None:
    data = Sort(batch=STEP, length=5, numbers=4, sequence_length=9)
    for read, said in rows(data):
        assert said == [None] * 4 + sorted(read[:5])
        assert read[5:] == sorted(read[:5])[:-1]


@pytest.mark.parametrize("backwards", [False, True])
def test_copy(backwards: bool) -> None:
    data = Copy(batch=STEP, length=4, sequence_length=8, backwards=backwards)
    for read, said in rows(data):
        given = read[:4]
        assert read[4] == ":"
        again = given[::-1] if backwards else given
        assert said == [None] * 4 + again
        assert read[5:] == again[:-1]


def test_induction() -> None:
    data = Induction(batch=STEP, sequence_length=20, vocabulary=50, periods=(3, 9))
    seen = Counter()
    for read, said in rows(data, 2000):
        period = next(place for place, label in enumerate(said) if label is not None)
        seen[period] += 1
        assert read[period:] == read[: len(read) - period]
        for place in range(period, 19):
            assert said[place] == read[place + 1]
            assert said[place] == read[place - period + 1]  # what followed it before
        assert said[19] == read[20 - period]
    assert sorted(seen) == list(range(3, 10))
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


@pytest.mark.parametrize("random_gaps", [False, True])
def test_recall(random_gaps: bool) -> None:
    data = Recall(
        batch=STEP, vocabulary=20, pairs=3, sequence_length=16, random_gaps=random_gaps, power=0.5
    )
    places = Counter()
    for read, said in rows(data, 3000):
        pairs = dict(zip(read[0:6:2], read[1:6:2], strict=True))
        assert len(pairs) == 3
        assert len(set(pairs.values())) == 3
        assert all(key[0] == "k" for key in pairs)
        assert all(value[0] == "v" for value in pairs.values())
        asked = [place for place, label in enumerate(said) if label is not None]
        assert sorted(read[place] for place in asked) == sorted(pairs)  # each once
        assert all(said[place] == pairs[read[place]] for place in asked)
        assert all(place >= 6 and place % 2 == 0 for place in asked)
        if not random_gaps:
            rest = [read[place] for place in range(6, 16) if place not in asked]
            assert set(rest) == {"_"}
        places.update(asked)
    assert places[6] > places[8] > places[14]  # soon rather than late


def test_dyck() -> None:
    data = Dyck(batch=STEP, kinds=3, depth=4, sequence_length=21)
    deepest = 0
    for read, said in rows(data):
        word = [*read, said[-1]]  # the last one closes the first
        opened: list[str] = []
        for place, mark in enumerate(word):
            if mark[0] == "(":
                opened.append(mark[1:])
                deepest = max(deepest, len(opened))
                expected = None
            else:
                assert mark == ")" + opened.pop()
                expected = mark
            if place:
                assert said[place - 1] == expected
        assert not opened
    assert deepest == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 9), st.floats(0.1, 0.9))
def test_every_example_of_a_finite_rule_is_in_one_split(
    length: int, data_seed: int, part: float
) -> None:
    assume(0 < round(part * 2**length) < 2**length)
    data = Sort(
        batch=STEP,
        length=length,
        numbers=2,
        sequence_length=2 * length - 1,
        validation=part,
        data_seed=data_seed,
    )
    assert data.training_size is not None
    both = [
        tuple(data.examples(split, np.arange(size))["tokens"][place, :length])
        for split, size in (("train", data.training_size), ("val", data.validation_size))
        for place in range(size)
    ]
    assert len(both) == 2**length
    assert len(set(both)) == 2**length


@pytest.mark.parametrize(
    ("kind", "arguments", "where", "expected"),
    [
        (ModularArithmetic, {"p": 12}, "p", "a prime"),
        (ModularArithmetic, {"operation": "adds"}, "operation", "one of add"),
        (ModularArithmetic, {"sequence_length": 4}, "sequence_length", "3"),
        (ModularArithmetic, {"training": 0.5, "validation": 0.6}, "training", "at most"),
        (Adder, {"digits": 3}, "sequence_length", "3 * digits = 9"),
        (Adder, {"validation": 10000}, "validation", "below 10,000"),
        (Sort, {"length": 3}, "sequence_length", "2 * length - 1 = 5"),
        (Copy, {"length": 3}, "sequence_length", "2 * length = 6"),
        (Induction, {"periods": (9, 4)}, "periods", "two positive numbers, the smaller first"),
        (Induction, {"sequence_length": 20}, "sequence_length", "more than the largest period"),
        (Induction, {"batch": Batch()}, "batch.examples", "the training split is unlimited"),
        (Induction, {"validation": 0.5}, "validation", "a number of examples"),
        (Induction, {"batch": Batch(tokens=64)}, "batch.tokens", "null"),
        (Recall, {"vocabulary": 9}, "vocabulary", "an even number"),
        (Recall, {"pairs": 20}, "sequence_length", "at least 4 * pairs = 80"),
        (Dyck, {"sequence_length": 8}, "sequence_length", "an odd number"),
        # too large: told at once, before anything of that size is made
        (ModularArithmetic, {"p": 2**61 - 1}, "p", "a prime number below 65,536"),
        (ModularArithmetic, {"p": 10**400}, "p", "a prime number below 65,536"),
        (Sort, {"length": 1000, "sequence_length": 1999}, "length", "below 2**62"),
        (Sort, {"numbers": 10**400}, "numbers", "an integer from 2 to 1,048,576"),
        (Sort, {"validation": math.nan}, "validation", "a number of examples below 729"),
        (Adder, {"digits": 9, "sequence_length": 27, "validation": 0.5}, "validation", "at most"),
        (Copy, {"validation": 2**63}, "validation", "at most 2,147,483,648 examples"),
        (Copy, {"batch": Batch(examples=10**12)}, "batch.examples", "at most 2,147,483,648"),
        (Copy, {"vocabulary": 10**12}, "vocabulary", "a number of symbols from 2 to 1,048,576"),
        (Induction, {"vocabulary": 10**12}, "vocabulary", "a number of tokens from 2 to 1,048,576"),
        (Recall, {"vocabulary": 10**9}, "vocabulary", "at most 1,048,576"),
        (Dyck, {"kinds": 10**9}, "kinds", "at most 524,288"),
    ],
)
def test_what_cannot_be_is_told(
    kind: Any, arguments: dict[str, Any], where: str, expected: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        kind(**{"batch": STEP, **arguments})
    (problem,) = [each for each in refused.value.problems if each.where == where]
    assert expected in problem.expected


def test_brackets_deeper_than_the_word_is_long() -> None:
    deep, deeper = (Dyck(batch=STEP, sequence_length=9, depth=depth) for depth in (10, 10**9))
    indices = np.arange(50)
    for name, rows in deep.examples("train", indices).items():
        assert np.array_equal(rows, deeper.examples("train", indices)[name])
