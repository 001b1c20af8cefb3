"""Curricula: the sizes of a step, and the weights of a mixture, as schedules of the step."""

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
    """Values that hold from a step on: before the first one stated, those of the data.

    Args:
        sequence_length: by step, a divisor of the data's: the windows of a step are cut into
            shorter sequences, so the step reads the same text.
        batch: by step, the size of a step in the unit of the data's `batch`, at most as large.
        weights: by step, the weights of a mixture's sources; a weight of 0 leaves a source out.

    For example `batch: {0: 4, 200: 12}`: 4 examples a step, and 12 from step 200 on. Steps are
    counted from 0.
    """

    sequence_length: dict[int, int] | None = None
    batch: dict[int, int] | None = None
    weights: dict[int, dict[str, float]] | None = None

    def points(self) -> Iterator[tuple[str, int]]:
        """What changes, and at which step."""
        for name in ("sequence_length", "batch", "weights"):
            for step in sorted(getattr(self, name) or {}):
                yield name, step

    def validate(
        self, checks: Checks, *, length: int, batch: int, unit: int, sources: Mapping[str, object]
    ) -> None:
        """Notes what is wrong.

        Args:
            length: the data's `sequence_length`.
            batch: its size of a step.
            unit: what that must be a multiple of.
            sources: of a mixture, by name; none of other data.
        """
        for name in ("sequence_length", "batch", "weights"):
            for step in getattr(self, name) or {}:
                fits = _whole(step) and step >= 0
                checks.that(fits, f"curriculum.{name}", step, "a step, a whole number from 0 on")
        for step, value in (self.sequence_length or {}).items():
            if not checks.that(_whole(value), f"curriculum.sequence_length.{step}", value, WHOLE):
                continue
            fits = 0 < value <= length and length % value == 0
            divisor = min(_divisors(length), key=lambda each: abs(each - value), default=1)
            expected = f"a divisor of sequence_length = {length}"
            nearby = f"the nearest is {divisor}"
            checks.that(fits, f"curriculum.sequence_length.{step}", value, expected, nearby)
        for step, value in (self.batch or {}).items():
            if not checks.that(_whole(value), f"curriculum.batch.{step}", value, WHOLE):
                continue
            fits = 0 < value <= batch and value % unit == 0
            multiple = "" if unit == 1 else f", a multiple of sequence_length = {unit}"
            expected = f"a positive number, at most the batch of {batch}{multiple}"
            checks.that(fits, f"curriculum.batch.{step}", value, expected)
        for step, weights in (self.weights or {}).items():
            key = f"curriculum.weights.{step}"
            if not checks.that(bool(sources), key, weights, "null: this data is no mixture"):
                continue
            for name in sources:
                if name not in weights:
                    missing = Problem(f"{key}.{name}", "a weight for this source")
                    checks.problems.append(missing)
            for name, weight in weights.items():
                close = nearest(name, sources)
                if checks.that(name in sources, f"{key}.{name}", weight, "a source's name", close):
                    number = isinstance(weight, int | float) and not isinstance(weight, bool)
                    fits = number and 0 <= weight < float("inf")
                    checks.that(fits, f"{key}.{name}", weight, "a number from 0 on")
            some = any(weight != 0 for weight in weights.values())
            checks.that(some, key, weights, "a weight above 0 for one source or more")


@dataclass(frozen=True)
class Stages(Generic[Value]):
    """A value for each step: constant from some steps on.

    Args:
        usual: before the first of them.
        changes: by step, the value from there on; None has none.
    """

    usual: Value
    changes: Mapping[int, Value] | None = None

    @cached_property
    def values(self) -> list[tuple[int, Value]]:
        """From which step on each value holds, in order; the first from 0 on."""
        found = {0: self.usual, **(self.changes or {})}
        return sorted(found.items(), key=lambda each: each[0])

    def at(self, step: int) -> Value:
        """The value of a step."""
        return self.values[self.stage(step)][1]

    def stage(self, step: int) -> int:
        """How many changes there are up to a step."""
        return bisect_right([first for first, _ in self.values], step) - 1


class Sizes(Stages[int]):
    """How many examples each step takes."""

    def before(self, step: int) -> int:
        """The examples of all steps before this one."""
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
