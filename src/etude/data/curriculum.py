"""Curricula: sequence length, batch size and mixture weights that change during a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from etude.errors import Checks, Problem, nearest

Value = TypeVar("Value")
WHOLE = "a whole number"


@dataclass(frozen=True)
class Curriculum:
    """Schedules of the sequence length, the batch size and the mixture weights of a run.

    A schedule maps an optimizer step (counted from 0) to the value from this step on. Before the
    first step in a schedule, the value in the data's config applies. For example
    `batch: {0: 4, 200: 12}` means 4 examples per step, and 12 from step 200 on.
    A schedule that is None changes nothing.

    Args:
        sequence_length: schedule of the sequence length. Each value must divide the data's
            `sequence_length`. A step reads the same text as without the schedule: its windows are
            cut into sequences of the scheduled length.
        batch: schedule of the batch size, in the unit of the data's `batch` (tokens or examples).
            No value may exceed the size in `batch`.
        weights: schedule of a mixture's weights. Each value is a dict from every source's name to
            its weight; a weight of 0 excludes the source.
    """

    sequence_length: dict[int, int] | None = None
    batch: dict[int, int] | None = None
    weights: dict[int, dict[str, float]] | None = None

    def points(self) -> Iterator[tuple[str, int]]:
        """Yields each change as a pair: the name of the schedule (such as `batch`) and the step.

        The changes of `sequence_length` come first, then those of `batch` and of `weights`; each
        schedule's steps are in ascending order.
        """
        for name in ("sequence_length", "batch", "weights"):
            for step in sorted(getattr(self, name) or {}):
                yield name, step

    def validate(
        self, checks: Checks, *, length: int, batch: int, unit: int, sources: Mapping[str, object]
    ) -> None:
        """Checks the schedules against the data's config.

        Args:
            checks: object to which the problems are added.
            length: the data's `sequence_length`.
            batch: the data's batch size, in the unit of `data.batch` (tokens or examples).
            unit: number of which each batch size must be a multiple.
            sources: dict from the names of a mixture's sources to the sources; empty for data that
                is not a mixture.
        """
        for name in ("sequence_length", "batch", "weights"):
            for step in getattr(self, name) or {}:
                fits = _whole(step) and step >= 0
                expected = "a step number as key: a non-negative whole number"
                checks.that(fits, f"curriculum.{name}, key", step, expected)
        for step, value in (self.sequence_length or {}).items():
            if not checks.that(_whole(value), f"curriculum.sequence_length.{step}", value, WHOLE):
                continue
            fits = 0 < value <= length and length % value == 0
            divisor = min(_divisors(length), key=lambda each: abs(each - value), default=1)
            expected = f"a divisor of data.sequence_length = {length}"
            nearby = f"the nearest divisor is {divisor}"
            checks.that(fits, f"curriculum.sequence_length.{step}", value, expected, nearby)
        for step, value in (self.batch or {}).items():
            if not checks.that(_whole(value), f"curriculum.batch.{step}", value, WHOLE):
                continue
            fits = 0 < value <= batch and value % unit == 0
            size = "number" if unit == 1 else f"multiple of sequence_length = {unit}"
            expected = f"a positive {size}, at most {batch} (the size in data.batch)"
            checks.that(fits, f"curriculum.batch.{step}", value, expected)
        for step, weights in (self.weights or {}).items():
            key = f"curriculum.weights.{step}"
            expected = "no weights (the data is not a mixture)"
            if not checks.that(bool(sources), key, weights, expected):
                continue
            for name in sources:
                if name not in weights:
                    missing = Problem(f"{key}.{name}", f"a weight for the source {name}")
                    checks.problems.append(missing)
            for name, weight in weights.items():
                close = nearest(name, sources)
                expected = "the name of a source in data.sources"
                if checks.that(name in sources, f"{key}.{name}", weight, expected, close):
                    number = isinstance(weight, int | float) and not isinstance(weight, bool)
                    fits = number and 0 <= weight < float("inf")
                    checks.that(fits, f"{key}.{name}", weight, "a non-negative number")
            has_weight = any(weight != 0 for weight in weights.values())
            checks.that(has_weight, key, weights, "a positive weight for at least one source")


@dataclass(frozen=True)
class Stages(Generic[Value]):
    """A value for each optimizer step, which changes only at given steps.

    Args:
        usual: value before the first change.
        changes: dict from the step of each change to the value from this step on; None if the value
            never changes.
    """

    usual: Value
    changes: Mapping[int, Value] | None = None

    @cached_property
    def values(self) -> list[tuple[int, Value]]:
        """Pairs (first step, value from this step on), sorted by step; the first step is 0."""
        values = {0: self.usual, **(self.changes or {})}
        return sorted(values.items(), key=lambda each: each[0])

    def at(self, step: int) -> Value:
        """Returns the value at an optimizer step."""
        return self.values[self.stage(step)][1]

    def stage(self, step: int) -> int:
        """Returns the index in `values` of the pair that applies at an optimizer step."""
        return bisect_right([first for first, _ in self.values], step) - 1


class Sizes(Stages[int]):
    """Number of examples of each optimizer step."""

    def before(self, step: int) -> int:
        """Returns the total number of examples of all steps before `step`."""
        count = 0
        ends = [first for first, _ in self.values[1:]]
        for (first, size), end in zip(self.values, [*ends, step], strict=True):
            if first >= step:
                break
            count += size * (min(end, step) - first)
        return count


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
