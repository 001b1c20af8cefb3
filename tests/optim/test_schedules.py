"""Schedules, compared with their closed formulas in exact or float64 arithmetic."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidArguments
from etude.optim.schedules import WSD, Constant, Cosine, InverseSqrt, Linear, Schedule, falls

SHAPES = [
    Constant(3),
    Linear(3, 0.2),
    Cosine(3, 0.2),
    InverseSqrt(3),
    WSD(3, 0.2, decay_steps=9),
    WSD(3, 0.2, decay_fraction=0.5, shape="sqrt"),
]


@pytest.mark.parametrize("schedule", SHAPES, ids=lambda s: type(s).__name__)
def test_warm_up_begins_above_zero_and_ends_at_the_base_rate(schedule: Schedule) -> None:
    """Three steps at 1/4, 2/4, 3/4; the fourth has the base learning rate."""
    assert [schedule(step, 50) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("schedule", "last"), [(Constant(), 1.0), (Linear(0, 0.2), 0.2), (Cosine(0, 0.2), 0.2)]
)
@pytest.mark.parametrize("total", [2, 3, 100, 100_000])
def test_the_first_step_has_the_base_rate_and_the_last_the_final(
    schedule: Schedule, last: float, total: int
) -> None:
    assert schedule(0, total) == 1.0
    assert schedule(total - 1, total) == pytest.approx(last, rel=1e-12)


@given(
    warmup=st.integers(0, 40),
    after=st.integers(2, 400),
    final=st.fractions(0, 1),
    at=st.fractions(0, 1),
)
def test_linear_is_the_line_through_its_ends(
    warmup: int, after: int, final: Fraction, at: Fraction
) -> None:
    total = warmup + after
    step = warmup + round(at * (after - 1))
    expected = 1 + (final - 1) * Fraction(step - warmup, total - 1 - warmup)
    assert Linear(warmup, float(final))(step, total) == pytest.approx(float(expected), abs=1e-12)


def test_cosine_is_that_of_torch() -> None:
    base, final, total = 0.5, 0.1, 41
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=base)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - 1, eta_min=base * final)
    ours = Cosine(0, final)
    for step in range(total):
        assert base * ours(step, total) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_cosine_after_warm_up_by_hand() -> None:
    schedule, total = Cosine(10, 0.1), 111  # a hundred steps from 10 to 110
    for step, angle in [(10, 0), (35, math.pi / 4), (60, math.pi / 2), (85, 3 * math.pi / 4)]:
        assert schedule(step, total) == pytest.approx(0.55 + 0.45 * math.cos(angle), rel=1e-12)


@given(st.integers(0, 30), st.floats(0, 1), st.integers(1, 200))
def test_decay_never_rises_and_stays_between_its_ends(
    warmup: int, final: float, total: int
) -> None:
    for schedule in (Constant(warmup), Linear(warmup, final), Cosine(warmup, final)):
        factors = [schedule(step, total) for step in range(total + 5)]
        decay = factors[warmup:]
        assert all(a >= b - 1e-12 for a, b in pairwise(decay))
        assert all(a < b for a, b in pairwise(factors[:warmup]))
        assert all(0.0 <= factor <= 1.0 + 1e-12 for factor in factors)


def test_a_run_that_ends_in_its_warm_up_does_not_divide_by_zero() -> None:
    for schedule in SHAPES:
        assert [schedule(step, 3) for step in range(3)] == [0.25, 0.5, 0.75]
        assert schedule(3, 4) == 1.0


def test_it_is_a_function_of_the_step_alone() -> None:
    schedule = Cosine(5, 0.1)
    backwards = [schedule(step, 50) for step in reversed(range(50))]
    assert backwards[::-1] == [Cosine(5, 0.1)(step, 50) for step in range(50)]


@pytest.mark.parametrize("schedule", [Constant, Linear, Cosine, InverseSqrt, WSD])
def test_defaults_are_neutral(schedule: type[Schedule]) -> None:
    """Defaults must not change: a key equal to its default is not part of a run's signature."""
    defaults = {
        "warmup_steps": 0,
        "final_scale": 0.0,
        "decay_steps": None,
        "decay_fraction": None,
        "shape": "linear",
    }
    found = {n: p.default for n, p in inspect.signature(schedule).parameters.items()}
    assert found == {name: defaults[name] for name in found}
    assert "warmup_steps" in found


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ((-1, 0.1), ["warmup_steps"]),
        ((0, 1.5), ["final_scale"]),
        ((0, -0.1), ["final_scale"]),
        ((0, math.nan), ["final_scale"]),
        ((-1, 2.0), ["warmup_steps", "final_scale"]),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[int, float], keys: list[str]) -> None:
    with pytest.raises(InvalidArguments) as refused:
        Cosine(*arguments)
    assert [problem.where for problem in refused.value.problems] == keys


# -- Vaswani's -----------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(0, 5000), st.integers(1, 6000))
def test_inverse_sqrt_is_vaswanis_formula(warmup: int, step: int, total: int) -> None:
    """lrate = d^-0.5 min(n^-0.5, n W^-1.5), over its largest value, for the n-th step."""
    n, W = step + 1, warmup + 1
    formula, peak = min(n**-0.5, n * W**-1.5), W**-0.5
    assert InverseSqrt(warmup)(step, total) == pytest.approx(formula / peak, rel=1e-12)


def test_inverse_sqrt_by_hand() -> None:
    schedule = InverseSqrt(3)
    assert [schedule(step, 99) for step in (0, 1, 2, 3, 15, 63)] == [0.25, 0.5, 0.75, 1, 0.5, 0.25]


# -- warm-up, stable, decay ----------------------------------------------------------------------


@given(
    warmup=st.integers(0, 40),
    stable=st.integers(0, 100),
    decay=st.integers(1, 100),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "sqrt", "cosine"]),
)
def test_wsd_has_three_pieces_that_meet(
    warmup: int, stable: int, decay: int, final: float, shape: str
) -> None:
    total = warmup + stable + 1 + decay
    schedule = WSD(warmup, final, decay_steps=decay, shape=shape)  # type: ignore[arg-type]
    factors = [schedule(step, total) for step in range(total)]
    assert all(0 <= factor <= 1 for factor in factors)
    rising, flat, falling = (
        factors[: warmup + 1],
        factors[warmup : warmup + stable + 1],
        factors[warmup + stable :],
    )
    assert all(a < b for a, b in pairwise(rising))
    assert set(flat) == {1.0}
    assert len(falling) == decay + 1
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    assert factors[-1] == pytest.approx(final, abs=1e-12)
    assert schedule(total + 5, total) == factors[-1]
    # No step falls by more than the steepest of the shapes does: 1 - sqrt in its first.
    steepest = (1 - final) * max(math.sqrt(1 / decay), math.pi / 2 / decay)
    assert all(a - b <= steepest + 1e-12 for a, b in pairwise(falling))


@pytest.mark.parametrize(
    ("shape", "half"),
    [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)],
)
def test_wsd_half_way_down(shape: str, half: float) -> None:
    schedule = WSD(0, 0.1, decay_fraction=0.2, shape=shape)  # type: ignore[arg-type]
    assert [schedule(step, 101) for step in (0, 50, 80)] == [1.0, 1.0, 1.0]
    assert schedule(90, 101) == pytest.approx(0.1 + 0.9 * half, rel=1e-12)
    assert schedule(100, 101) == pytest.approx(0.1, rel=1e-12)


@given(st.integers(2, 3000), st.floats(0.01, 1))
def test_a_share_is_that_many_steps(total: int, fraction: float) -> None:
    share = WSD(decay_fraction=fraction)
    steps = WSD(decay_steps=max(1, round(fraction * total)))
    for step in {0, total // 3, total // 2, total - 2, total - 1}:
        assert share(step, total) == steps(step, total)


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ({}, ["decay_steps"]),
        ({"decay_steps": 5, "decay_fraction": 0.1}, ["decay_steps"]),
        ({"decay_steps": 0}, ["decay_steps"]),
        ({"decay_fraction": 1.5}, ["decay_fraction"]),
        ({"decay_fraction": math.nan}, ["decay_fraction"]),
        ({"decay_steps": 5, "shape": "line"}, ["shape"]),
    ],
)
def test_bad_arguments_of_wsd_are_named(arguments: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(InvalidArguments) as refused:
        WSD(**arguments)
    assert [problem.where for problem in refused.value.problems] == keys


@pytest.mark.parametrize(
    ("schedule", "total", "told"),
    [
        (Cosine(5), 6, None),
        (Cosine(5), 5, "warmup_steps=5 does not fit into the run (5 steps)"),
        (InverseSqrt(9), 3, "warmup_steps=9 does not fit into the run (3 steps)"),
        (WSD(5, decay_steps=4), 10, None),
        (
            WSD(5, decay_steps=5),
            10,
            "a decay of 5 steps do not fit into the run (10 steps): at most 4 steps remain",
        ),
        (WSD(50, decay_steps=5), 10, "does not fit into the run (10 steps)"),
    ],
)
def test_what_does_not_fit_is_told(schedule: Schedule, total: int, told: str | None) -> None:
    found = schedule.misfit(total)
    assert found is None if told is None else told in (found or "")


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        (Constant(5), False),
        (Constant(500), False),
        (Cosine(5), True),
        (Linear(5, 1.0), False),
        (InverseSqrt(5), True),
        (WSD(5, decay_steps=1), True),
    ],
)
def test_whether_it_falls(schedule: Schedule, found: bool) -> None:
    assert falls(schedule, 100) is found
