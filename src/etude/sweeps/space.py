"""Conversion of Hydra's sweep grammar to a search space of Optuna distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from etude.errors import Problem, RequestError


@dataclass
class SearchSpace:
    """Search space of a hyperparameter search.

    Attributes:
        fixed: overrides that all trials share.
        axes: Optuna distribution of each swept key; the keys are as the user typed them, with their
            `+`.
    """

    fixed: list[str]
    axes: dict[str, BaseDistribution]

    def overrides(self, chosen: dict[str, Any]) -> list[str]:
        """Returns the overrides of a trial: the fixed ones, then one for each swept key.

        Args:
            chosen: the trial's value of each swept key.
        """
        return [*self.fixed, *(f"{key}={_format(chosen[key])}" for key in self.axes)]


def _format(value: Any) -> str:
    """Returns a value as text; floats are rounded to six significant digits, for readability."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def parse_space(arguments: Sequence[str], parser: OverridesParser) -> SearchSpace:
    """Returns the search space that a sweep's overrides define.

    `interval(a, b)` is a range of floats, and `int(interval(a, b))` is a range of integers.
    `tag(log, interval(a, b))` is sampled on a logarithmic scale. `range(a, b, step)` is a grid that
    excludes b. `choice(...)` and comma-separated values are categorical.

    Args:
        arguments: overrides in Hydra's grammar.
        parser: Hydra's parser of overrides.

    Raises:
        RequestError: If no key is swept, or an interval is empty.
    """
    space = SearchSpace([], {})
    for override in parser.parse_overrides(list(arguments)):
        text = override.input_line or ""
        key = text.partition("=")[0]
        if override.is_sweep_override():
            space.axes[key] = _distribution(override, key.lstrip("+"))
        else:
            space.fixed.append(text)
    if not space.axes:
        hint = "such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))' or model.layers=2,4"
        raise RequestError(Problem("sweep=optuna", "at least one key to search over", hint=hint))
    return space


def _distribution(override: Override, key: str) -> BaseDistribution:
    value: Any = override.value()
    text = (override.input_line or "").partition("=")[2]
    log = isinstance(value, IntervalSweep | RangeSweep) and "log" in value.tags
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None
            assert high is not None
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            return FloatDistribution(float(low), float(high), log=log)
        if isinstance(value, RangeSweep) and not value.shuffle:
            low, stop, step = value.start or 0, value.stop, value.step
            assert stop is not None
            if all(isinstance(item, int) for item in (low, stop, step)):
                last = int(low) + (int(stop) - 1 - int(low)) // int(step) * int(step)
                return IntDistribution(int(low), last, step=int(step), log=log)
    except ValueError as error:
        raise RequestError(Problem(key, "a valid range", text, str(error))) from None
    return CategoricalDistribution(list(override.sweep_string_iterator()))
