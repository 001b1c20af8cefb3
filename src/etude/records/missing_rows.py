"""Expected rows of `metrics.jsonl`: one per logging interval, and one per validation."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


def validation_interval(stated: float | None, total_steps: int) -> int:
    """Returns the number of optimizer steps between validations.

    Args:
        stated: value of `trainer.val_check_interval`: a number of steps, a fraction of the run if
            below 1, or None for one validation at the end.
        total_steps: optimizer steps of the run.
    """
    if stated is None:
        return total_steps
    if stated < 1:
        return max(1, round(stated * total_steps))
    return int(stated)


@dataclass(frozen=True)
class RowInterval:
    """Numbers of steps between rows of `metrics.jsonl`, after one start of a run.

    A run can have several starts: the first one, and one for each time that it is continued.

    Attributes:
        begin: step at which the run was started or continued.
        every: steps between rows of training metrics; None if unknown.
        validated: steps between validations, each of which has a row.
    """

    begin: int
    every: int | None
    validated: int


def missing_row(info: Mapping[str, Any], steps: Iterable[int], upto: int) -> int | None:
    """Returns the first step, up to and including `upto`, whose row in `metrics.jsonl` is missing.

    Returns None if all rows exist, or if the expected steps cannot be determined from `run.json`.

    Args:
        info: content of `run.json`.
        steps: steps of the existing rows.
        upto: last step to check.
    """
    present = set(steps)
    return next((step for step in _expected_steps(info, upto) if step not in present), None)


def _expected_steps(info: Mapping[str, Any], upto: int) -> Iterator[int]:
    """Yields the steps up to `upto` for which `metrics.jsonl` should have rows, in order.

    A step is yielded twice if both training metrics and a validation are due at it. `info` is the
    content of `run.json`.
    """
    intervals = list(_intervals(info))
    if not intervals:
        return
    ends = [interval.begin for interval in intervals[1:]]
    for interval, end in zip(intervals, [*ends, upto], strict=True):
        last = min(end, upto)
        yield from heapq.merge(
            *(
                range((interval.begin // every + 1) * every, last + 1, every)
                for every in (interval.every, interval.validated)
                if every is not None
            )
        )
    if upto == info.get("total_steps"):
        yield upto


def _intervals(info: Mapping[str, Any]) -> Iterator[RowInterval]:
    """Yields a `RowInterval` for each start of a run, in the order of steps.

    `info` is the content of `run.json`; nothing is yielded if it does not contain the intervals. If
    a run was continued from the step of a previous start, or from a step before it, the previous
    start is left out, because its steps were trained again.
    """
    starts, total = info.get("starts"), info.get("total_steps")
    if not isinstance(starts, list) or not _is_number(total):
        return
    result: list[RowInterval] = []
    for start in starts:
        interval = _interval_of_start(start, info, alone=len(starts) == 1)
        if interval is None:
            return
        result = [earlier for earlier in result if earlier.begin < interval.begin]
        result.append(interval)
    yield from result


def _interval_of_start(start: Any, info: Mapping[str, Any], *, alone: bool) -> RowInterval | None:
    """Returns the `RowInterval` after one start of a run; None if the intervals are unknown.

    Args:
        start: the start's entry in the field `starts` of `run.json`.
        info: content of `run.json`.
        alone: whether the run has only this start. In runs of older versions, the interval of
            training metrics is known only in this case; otherwise `every` is None.
    """
    every: Any
    validated: Any
    if not isinstance(start, dict) or not isinstance(start.get("step"), int):
        return None
    stated = start.get("rows")
    if isinstance(stated, dict):
        every, validated = (stated.get(key) for key in ("every", "validated"))
        known = _is_number(every) and _is_number(validated)
        return RowInterval(start["step"], every, validated) if known else None
    # Older records: the config has the interval of the first start. Later starts may have used
    # another logging interval, as it does not enter the signature.
    config = info.get("config")
    if not isinstance(config, dict):
        return None
    every, validated = (config.get(f"trainer.{key}") for key in _KEYS)
    if not _is_number(every) or not (validated is None or _is_number(validated, float)):
        return None
    between = validation_interval(validated, info["total_steps"])
    return RowInterval(start["step"], every if alone else None, between)


_KEYS = ("log_every_n_steps", "val_check_interval")


def _is_number(value: Any, *kinds: type) -> bool:
    """Returns whether a value is a positive number of type `int` or of one of the types `kinds`.

    Booleans are not numbers here.
    """
    is_one = isinstance(value, (int, *kinds)) and not isinstance(value, bool)
    return is_one and float(value) > 0
