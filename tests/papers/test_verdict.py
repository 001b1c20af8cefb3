"""Verdicts against cases decided by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etude.papers.claims import Cell, ProtocolFigure, Reading, Tolerance
from etude.papers.verdict import Verdict, judge, judge_protocol, overall


def cell(published: float | None, **tolerance: float) -> Cell:
    words: dict[str, Any] = {name: "x" for name in ("key", "says", "read", "because", "control")}
    return Cell(published=published, tolerance=Tolerance(**tolerance), **words)


CELL = cell(64, relative=0.05)
CONTROLS = [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("published", "tolerance", "value", "outcome"),
    [
        (64, {"relative": 0.05}, 67.1, "match"),  # the upper bound is 67.2
        (64, {"relative": 0.05}, 67.3, "miss"),
        (64, {"relative": 0.05}, 60.9, "match"),  # the lower bound is 60.8
        (64, {"relative": 0.05}, 60.7, "miss"),
        (-2, {"relative": 0.5}, -2.9, "match"),
        (1.88, {"absolute": 0.05}, 1.925, "match"),
        (1.88, {"absolute": 0.05}, 1.935, "miss"),
        (None, {"above": 3}, 3.001, "match"),
        (None, {"above": 3}, 3.0, "miss"),
        (None, {"below": 1e-4}, 9e-5, "match"),
        (None, {"below": 1e-4}, 1e-4, "miss"),
        (64, {"relative": 0.05}, float("nan"), "miss"),
        (None, {"above": 3}, float("nan"), "miss"),
    ],
)
def test_a_tolerance_is_a_band_or_an_inequality(
    published: float | None, tolerance: dict[str, float], value: float, outcome: str
) -> None:
    control = -1000.0 if "below" not in tolerance else 1000.0
    verdict = judge(cell(published, **tolerance), Reading([value] * 3, [control] * 3))
    assert verdict.outcome == outcome


def test_another_expected_value_changes_the_verdict() -> None:
    reading = Reading([63.0, 64.5, 65.0], CONTROLS)
    assert judge(CELL, reading).matches
    assert judge(replace(CELL, published=80), reading).outcome == "miss"


def test_the_mean_over_seeds_is_judged() -> None:
    assert judge(CELL, Reading([58.0, 64.0, 70.0], CONTROLS)).matches
    assert not judge(CELL, Reading([64.0, 64.0, 80.0], CONTROLS)).matches


@pytest.mark.parametrize(
    ("seeds", "told"), [(1, "match (1 seed)"), (2, "match (2 seeds)"), (3, "match"), (5, "match")]
)
def test_a_match_on_few_seeds_says_so(seeds: int, told: str) -> None:
    assert str(judge(CELL, Reading([64.0] * seeds, [1.0] * seeds))) == told


def test_a_control_that_passes_makes_a_miss() -> None:
    assert (
        str(judge(CELL, Reading([64.0] * 3, [63.0] * 3)))
        == "miss (the claim also holds for the negative control)"
    )
    assert judge(CELL, Reading([70.0] * 3, [])).outcome == "miss"
    assert str(judge(CELL, Reading([64.0] * 3, []))) == "not run (the negative control was not run)"


def test_a_match_rests_on_the_seeds_of_its_control_too() -> None:
    assert str(judge(CELL, Reading([64.0] * 3, [1.0]))) == "match (1 seed)"


@pytest.mark.parametrize("values", [[math.inf, -math.inf], [1e308] * 3, [math.nan, 64.0]])
def test_what_has_no_mean_is_a_miss(values: list[float]) -> None:
    assert (
        str(judge(CELL, Reading(values, CONTROLS)))
        == "miss (the measured value is NaN or infinite)"
    )
    assert (
        str(judge(CELL, Reading([64.0] * 3, values)))
        == "miss (the value of the negative control is NaN or infinite)"
    )


def test_a_control_that_is_no_number_makes_a_miss() -> None:
    assert (
        str(judge(CELL, Reading([64.0] * 3, [float("nan")] * 3)))
        == "miss (the value of the negative control is NaN or infinite)"
    )


def test_nothing_measured_is_not_run() -> None:
    assert str(judge(CELL, None)) == "not run"
    assert str(judge(CELL, Reading([], []))) == "not run"


@given(
    published=st.floats(0.1, 1e6),
    share=st.floats(0.001, 0.5),
    offset=st.floats(-1, 1),
)
def test_a_relative_band_is_symmetric_and_scales(
    published: float, share: float, offset: float
) -> None:
    rule = Tolerance(relative=share)
    value = published * (1 + offset)
    if abs(abs(offset) - share) > 1e-6:
        assert rule.admits(value, published) == (abs(offset) < share)
        assert rule.admits(-value, -published) == rule.admits(value, published)


def test_a_paper_is_as_good_as_its_worst_cell() -> None:
    match, miss, absent = Verdict("match", 3), Verdict("miss", 3), Verdict("not run")
    assert overall([match, match]).matches
    assert str(overall([match, Verdict("match", 1)])) == "match (1 seed)"
    assert str(overall([match, absent, miss])) == "miss (1 of 3 values)"
    assert str(overall([match, absent])) == "not run (1 of 2 values)"
    assert str(overall([absent, absent])) == "not run"
    assert str(overall([Verdict("not run", 1, "why"), Verdict("not run", 1, "why")])) == (
        "not run (why)"
    )
    assert str(overall([])) == "not run"


class TestProtocol:
    """A cell may have a protocol figure in addition to the paper's number."""

    def known(self, expected: float | None, **tolerance: float) -> Cell:
        protocol = ProtocolFigure(expected, "x", Tolerance(**tolerance), "x")
        return replace(cell(1.92, absolute=0.03), protocol=protocol)

    def test_a_paper_can_be_missed_and_its_protocol_matched(self) -> None:
        reading = Reading([1.96, 1.97, 1.95], [2.5, 2.5, 2.5])
        found = self.known(1.947, absolute=0.03)
        assert judge(found, reading).outcome == "miss"
        assert str(judge_protocol(found, reading)) == "match"
        assert str(judge_protocol(self.known(None, below=1.9), reading)) == "miss"

    def test_its_control_counts_too(self) -> None:
        reading = Reading([1.96], [1.97])
        verdict = judge_protocol(self.known(1.947, absolute=0.03), reading)
        assert str(verdict) == "miss (the claim also holds for the negative control)"

    def test_nothing_known_and_nothing_run(self) -> None:
        assert judge_protocol(cell(1.92, absolute=0.03), Reading([1.9], [3.0])) is None
        assert str(judge_protocol(self.known(1.9, relative=0.1), None)) == "not run"

    def test_a_band_needs_its_number(self) -> None:
        with pytest.raises(ValidationError, match="expected ="):
            self.known(None, absolute=0.03)
        with pytest.raises(ValidationError, match="expected ="):
            self.known(1.9, below=2.0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_finite_number_is_a_miss(value: float) -> None:
    for tolerance in ({"above": 3.0}, {"below": 3.0}):
        reading = Reading([value, 1.0, 2.0], [3.0, 3.0, 3.0])
        assert (
            str(judge(cell(None, **tolerance), reading))
            == "miss (the measured value is NaN or infinite)"
        )
