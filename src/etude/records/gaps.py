"""Which rows `metrics.jsonl` must have: one every so many steps, and one at each validation."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


def validation_interval(stated: float | None, total_steps: int) -> int:
    """Optimizer steps between validations.

    Args:
        stated: `trainer.val_check_interval`: steps, a fraction of the run, or None for its end.
        total_steps: of the run.
    """
    if stated is None:
        return total_steps
    if stated < 1:
        return max(1, round(stated * total_steps))
    return int(stated)


@dataclass(frozen=True)
class Interval:
    """From which step on rows were written how often.

    Attributes:
        begin: the first row comes after this step.
        every: steps between rows of training metrics; None where that is not known.
        validated: steps between validations.
    """

    begin: int
    every: int | None
    validated: int


def missing_row(info: Mapping[str, Any], steps: Iterable[int], upto: int) -> int | None:
    """The first step up to `upto`, included, whose row is not there.

    None where all are, and where `run.json` does not say enough to know.

    Args:
        info: the content of `run.json`.
        steps: of the rows.
    """
    there = set(steps)
    return next((step for step in _expected(info, upto) if step not in there), None)


def _expected(info: Mapping[str, Any], upto: int) -> Iterator[int]:
    """The steps that have rows, in order; one that has a row for two reasons comes twice."""
    intervals = list(_intervals(info))
    if not intervals:
        return
    ends = [each.begin for each in intervals[1:]]
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


def _intervals(info: Mapping[str, Any]) -> Iterator[Interval]:
    """In force one after the other: a start from an earlier step takes the place of those after."""
    starts, total = info.get("starts"), info.get("total_steps")
    if not isinstance(starts, list) or not _is_number(total):
        return
    found: list[Interval] = []
    for start in starts:
        interval = _of_start(start, info, alone=len(starts) == 1)
        if interval is None:
            return
        found = [each for each in found if each.begin < interval.begin]
        found.append(interval)
    yield from found


def _of_start(start: Any, info: Mapping[str, Any], *, alone: bool) -> Interval | None:
    every: Any
    validated: Any
    if not isinstance(start, dict) or not isinstance(start.get("step"), int):
        return None
    stated = start.get("rows")
    if isinstance(stated, dict):
        every, validated = (stated.get(key) for key in ("every", "validated"))
        known = _is_number(every) and _is_number(validated)
        return Interval(start["step"], every, validated) if known else None
    # Older records: the config states the interval of the first start; later ones may have had
    # another one between rows, as it does not enter the signature.
    config = info.get("config")
    if not isinstance(config, dict):
        return None
    every, validated = (config.get(f"trainer.{key}") for key in _KEYS)
    if not _is_number(every) or not (validated is None or _is_number(validated, float)):
        return None
    between = validation_interval(validated, info["total_steps"])
    return Interval(start["step"], every if alone else None, between)


_KEYS = ("log_every_n_steps", "val_check_interval")


def _is_number(value: Any, *kinds: type) -> bool:
    """Whether a value is a positive number."""
    is_one = isinstance(value, (int, *kinds)) and not isinstance(value, bool)
    return is_one and float(value) > 0
