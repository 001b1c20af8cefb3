"""Linear functions to be learnt in context: against least squares, and by their moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from etude.data.synthetic.regression import LinearRegression
from etude.data.text import Batch
from etude.errors import InvalidArguments

STEP = Batch(examples=24)


def made(count: int, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """x (n, pairs, d) and y (n, pairs), by the places where they stand."""
    data = LinearRegression(batch=STEP, **settings)
    arrays = data.examples("train", np.arange(count), seed=5)
    numbers, values = arrays["numbers"], arrays["values"]
    assert numbers.dtype == values.dtype == np.float32
    assert numbers.shape == (count, data.sequence_length, data.dimensions)
    assert (data.asked(arrays) == (np.arange(data.sequence_length) % 2 == 0)).all()
    assert np.isnan(values[:, 1::2]).all()
    assert (numbers[:, 1::2, 0] == values[:, :-1:2]).all()  # what was asked is told
    assert (numbers[:, 1::2, 1:] == 0).all()
    return numbers[:, 0::2].astype(np.float64), values[:, 0::2].astype(np.float64)


@pytest.mark.parametrize("d", [1, 3, 5])
def test_the_function_is_found_again_from_d_examples(d: int) -> None:
    xs, ys = made(200, dimensions=d, sequence_length=4 * d + 1)
    worst = 0.0
    for x, y in zip(xs, ys, strict=True):
        w = np.linalg.lstsq(x[: 2 * d], y[: 2 * d], rcond=None)[0]
        worst = max(worst, abs(x @ w - y).max())
        if np.linalg.cond(x[:d]) < 100:
            exact = np.linalg.solve(x[:d], y[:d])
            assert abs(x[d:] @ exact - y[d:]).max() < 1e-3
    assert worst < 1e-4


def test_least_squares_errs_by_the_part_of_the_directions_that_is_not_seen() -> None:
    xs, ys = made(4000)
    for k in range(3):
        squared = []
        for x, y in zip(xs, ys, strict=True):
            w = np.linalg.pinv(x[:k]) @ y[:k] if k else np.zeros(3)
            squared.append((x[k] @ w - y[k]) ** 2 / 3)
        mean, error = np.mean(squared), np.std(squared) / np.sqrt(len(squared))
        assert abs(mean - (3 - k) / 3) < 4 * error


def test_inputs_and_functions_are_normal_and_independent() -> None:
    xs, ys = made(5000)
    assert stats.kstest(xs.ravel(), "norm").pvalue > 1e-3
    w = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(xs, ys, strict=True)])
    assert stats.kstest(w.ravel(), "norm").pvalue > 1e-3
    everything = np.concatenate([xs.reshape(len(xs), -1), w], axis=1)
    correlations = np.corrcoef(everything.T) - np.eye(everything.shape[1])
    assert abs(correlations).max() < 4.5 / np.sqrt(len(xs))
    assert ys.var() == pytest.approx(3, rel=0.05)


def test_noise_is_added_to_y_and_changes_nothing_else() -> None:
    x, y = made(3000)
    same, noisy = made(3000, noise=0.5)
    assert (x == same).all()
    assert stats.kstest((noisy - y).ravel() / 0.5, "norm").pvalue > 1e-3


def test_with_fresh_weights_the_examples_tell_nothing() -> None:
    xs, ys = made(3000, fresh_weights=True)
    assert ys.var() == pytest.approx(3, rel=0.05)
    unexplained = []
    for x, y in zip(xs, ys, strict=True):
        w = np.linalg.lstsq(x[:6], y[:6], rcond=None)[0]
        unexplained.append((x[6] @ w) * y[6])
    mean, error = np.mean(unexplained), np.std(unexplained) / np.sqrt(len(unexplained))
    assert abs(mean) < 4 * error


def test_an_example_is_a_function_of_seed_and_number() -> None:
    data = LinearRegression(batch=STEP, noise=0.1)
    some = data.examples("train", np.array([7, 3, 10**12]), seed=1)
    for place, number in enumerate((7, 3, 10**12)):
        alone = data.examples("train", np.array([number]), seed=1)
        assert (alone["numbers"][0] == some["numbers"][place]).all()
    assert not (data.examples("train", np.array([7]), seed=2)["numbers"] == some["numbers"]).all()
    held = data.examples("val", np.array([7, 3]), seed=1)
    assert (held["numbers"] == data.examples("val", np.array([7, 3]), seed=2)["numbers"]).all()
    assert not (held["values"] == some["values"][:2]).any()


def test_steps_depend_on_neither_micro_batches_nor_ranks() -> None:
    data = LinearRegression(batch=STEP)

    def first(**how: Any) -> list[dict[str, Any]]:
        data.attach(**{"seed": 3, "micro_batch": None, "total_steps": 2, **how})
        return next(iter(data.train_dataloader()))

    (whole,) = first()
    assert whole["step_targets"] == 24 * 7
    assert whole["step_tokens"] == 24 * 13
    parts = first(micro_batch=5)
    assert torch.equal(torch.cat([part["numbers"] for part in parts]), whole["numbers"])
    assert {part["step_targets"] for part in parts} == {24 * 7}
    ranks = [first(rank=rank, world=2)[0]["numbers"] for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), whole["numbers"])


def test_fingerprints_differ_where_examples_do() -> None:
    settings: list[dict[str, Any]] = [
        {}, {"noise": 0.1}, {"fresh_weights": True}, {"dimensions": 4}, {"training": 100},
    ]  # fmt: skip
    prints = {LinearRegression(batch=STEP, **each).fingerprint() for each in settings}
    assert len(prints) == len(settings)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sequence_length": 12}, "an odd number"),
        ({"dimensions": 0}, "a positive number"),
        ({"noise": -0.1}, "a number from 0 to 1,000,000"),
    ],
)
def test_what_cannot_be_is_told(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        LinearRegression(batch=STEP, **arguments)
    (problem,) = refused.value.problems
    assert problem.where in arguments
    assert expected in problem.expected
