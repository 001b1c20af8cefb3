"""Tests of the expected rows, against values computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from etude.records.missing_rows import missing_row, validation_interval


def start(step: int, every: int = 4, validated: int = 7) -> dict[str, Any]:
    return {"step": step, "rows": {"every": every, "validated": validated}}


WHOLE = [4, 7, 8, 12, 13]  # every 4, validated every 7, 13 steps


@pytest.mark.parametrize("gone", WHOLE)
def test_each_row_that_is_gone_is_named(gone: int) -> None:
    info = {"starts": [start(0)], "total_steps": 13}
    assert missing_row(info, WHOLE, 13) is None
    assert missing_row(info, [step for step in WHOLE if step != gone], 13) == gone


def test_only_up_to_the_step_that_was_reached() -> None:
    info = {"starts": [start(0)], "total_steps": 13}
    assert missing_row(info, [4, 7], 7) is None
    assert missing_row(info, [4, 7], 8) == 8
    assert missing_row(info, [4, 7, 8], 11) is None


def test_another_interval_from_a_later_start_on() -> None:
    info = {"starts": [start(0), start(6, every=3)], "total_steps": 20}
    assert missing_row(info, [4, 7, 9, 12, 14, 15, 18, 20], 20) is None
    assert missing_row(info, [4, 7, 8, 12, 14, 16, 20], 20) == 9


def test_a_start_from_an_earlier_step_takes_the_place_of_later_ones() -> None:
    info = {"starts": [start(0), start(10, every=1), start(5, every=5)], "total_steps": 20}
    assert missing_row(info, [4, 7, 10, 14, 15, 20], 20) is None
    assert missing_row(info, [4, 10, 14, 15, 20], 20) == 7


def test_older_records_have_the_intervals_of_their_config() -> None:
    config = {"trainer.log_every_n_steps": 4, "trainer.val_check_interval": 7}
    info = {"starts": [{"step": 0}], "total_steps": 13, "config": config}
    assert missing_row(info, WHOLE, 13) is None
    assert missing_row(info, [7, 8, 12, 13], 13) == 4
    # later starts of older records may have used another `log_every_n_steps`
    info["starts"] = [{"step": 0}, {"step": 5}]
    assert missing_row(info, [1, 7, 13], 13) is None
    assert missing_row(info, [4, 8, 13], 13) == 7


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"starts": [{"step": 0}], "total_steps": 13},
        {"starts": [{}], "total_steps": 13, "config": {}},
        {"starts": 1, "total_steps": "13"},
        {"starts": [{"step": 0, "rows": {"every": 0, "validated": -1}}], "total_steps": 13},
        {"starts": [{"step": 0, "rows": 3}], "total_steps": 13, "config": {}},
    ],
)
def test_where_it_is_not_known_nothing_is_missing(info: dict[str, Any]) -> None:
    assert missing_row(info, [], 13) is None


def test_an_enormous_run_is_not_counted_to_its_end() -> None:
    info = {"starts": [start(0, every=1)], "total_steps": 10**15}
    assert missing_row(info, [1, 2, 3], 10**15) == 4


@pytest.mark.parametrize(
    ("stated", "found"), [(None, 13), (7, 7), (7.0, 7), (0.5, 6), (0.001, 1), (0.99, 13)]
)
def test_the_interval_of_validation(stated: float | None, found: int) -> None:
    assert validation_interval(stated, 13) == found
