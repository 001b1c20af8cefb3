"""Expansion of a sweep's overrides to the overrides of each job, as in Hydra's basic sweeper."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.types import RunMode
from omegaconf import OmegaConf

from etude.config.checks import check
from etude.config.compose import add_plus_signs, compose_in_search, remove_plus_signs
from etude.config.file_errors import HYDRA_ERRORS, NOT_PARSED
from etude.config.replacements import is_choice, report_replaced
from etude.console import hide_messages
from etude.contracts.slots import CONTRACTS
from etude.errors import Problem, RequestError

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
MAX_JOBS = 100_000
"""Maximum number of jobs of a sweep, and of values of a key; checked before they are listed."""
_MAX_COMBINATIONS = 1000
"""Maximum number of combinations of config files that are all checked.

The check of a combination takes milliseconds.
"""


@dataclass
class Sweep:
    """A sweep with the overrides of each of its jobs.

    Attributes:
        overrides: all overrides of the sweep, first those from `hydra.sweeper.params` of a config
            file.
        axes: dict from each swept key to its values.
        fixed: overrides that all jobs share.
        jobs: overrides of each job, in order; None if a custom sweeper chooses them one by one.
        sweeper: import path of the sweeper's class.
    """

    overrides: list[str]
    axes: dict[str, list[str]]
    fixed: list[str]
    jobs: list[list[str]] | None
    sweeper: str


def expand(overrides: Sequence[str], hydra: Hydra) -> Sweep:
    """Expands a sweep to its jobs, and composes the first job's config to check the overrides.

    Args:
        overrides: overrides in Hydra's grammar. `key=a,b`, `range`, `glob` and `choice` sweep over
            values.
        hydra: Hydra's instance from the context manager `search_configs`.

    Raises:
        RequestError: If an override is invalid for all swept values, or there are more than
            `MAX_JOBS` jobs.
    """
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    typed = [_parse(item, parser) for item in overrides]
    params, sweeper = _read_hydra_config([o.input_line or "" for o in typed], hydra)
    both = [*(_parse(item, parser) for item in params), *typed]
    if sweeper == BASIC:
        _check_count(both)
    axes: dict[str, list[str]] = {}
    fixed: dict[str, str] = {}
    for override in both:  # the last override of a key wins
        key = override.get_key_element().lstrip("+")
        axes.pop(key, None)
        fixed.pop(key, None)
        if override.is_discrete_sweep():
            is_interval = _is_interval(override, sweeper)
            axes[key] = _bounds(override) if is_interval else _values(override)
        elif override.is_sweep_override():  # an interval, which only a search supports
            interval: Any = override.value()
            axes[key] = [str(interval.start), str(interval.end)]
        else:
            fixed[key] = remove_plus_signs(override.input_line or "")
    jobs = None
    if sweeper == BASIC:
        jobs = _split(both)
        compose_in_search([remove_plus_signs(item) for item in jobs[0]])
    report_replaced(*_choices(fixed, axes))
    return Sweep([o.input_line or "" for o in both], axes, list(fixed.values()), jobs, sweeper)


def _choices(fixed: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yields the overrides of a job for each combination of config files that the sweep chooses.

    An override such as `model=a,b` chooses config files. Swept keys that do not choose a config
    file have their first value. If there are more than `_MAX_COMBINATIONS` combinations, each file
    is combined only with the first files of the other keys.

    Args:
        fixed: dict from each key that is not swept to its override.
        axes: dict from each swept key to its values.
    """
    chosen = {key: values for key, values in axes.items() if is_choice(key)}
    others = [f"{key}={values[0]}" for key, values in axes.items() if key not in chosen]
    combinations: Iterable[Sequence[str]] = itertools.product(*chosen.values())
    if math.prod(map(len, chosen.values())) > _MAX_COMBINATIONS:
        first = {key: values[0] for key, values in chosen.items()}
        varied = [first | {key: value} for key, values in chosen.items() for value in values]
        combinations = [tuple(each.values()) for each in varied]
    for combination in combinations:
        pairs = zip(chosen, combination, strict=True)
        yield [*fixed.values(), *(f"{key}={value}" for key, value in pairs), *others]


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Returns a list of overrides for each combination of the swept values.

    The values of the last swept key vary fastest.

    Args:
        overrides: overrides in Hydra's grammar. `key=a,b`, `range` and `choice` sweep over values.

    Raises:
        RequestError: If an override is invalid or sweeps over no values, or if there are more than
            `MAX_JOBS` values of a key or combinations.
    """
    parser = OverridesParser.create()
    try:
        parsed = [parser.parse_override(item) for item in overrides]
        _check_count(parsed)
        return _split(parsed)
    except NOT_PARSED as error:
        hint = str(error).splitlines()[0]
        raise RequestError(Problem(" ".join(overrides), "valid overrides", hint=hint)) from error


def value_problems(sweep: Sweep) -> list[Problem]:
    """Checks the swept values of a sweep, and returns a list of problems.

    The problems are unknown files, unknown keys and values of wrong types. Each value is checked in
    a config with the first values of the other swept keys. If there is no problem, all combinations
    of config files are checked. Other combinations are not checked here; if two values are
    incompatible, or a class rejects a value, the job with these values reports the problem.
    """
    problems: list[Problem] = []
    first = {key: values[0] for key, values in sweep.axes.items()}
    jobs = [first, *(first | {key: v} for key, each in sweep.axes.items() for v in each[1:])]
    for job in jobs:
        problems += _job_problems([*sweep.fixed, *(f"{k}={v}" for k, v in job.items())])
    if not problems and sum(map(is_choice, sweep.axes)) > 1:
        for combination in _choices({item: item for item in sweep.fixed}, sweep.axes):
            problems += _job_problems(combination)
    return list({str(problem): problem for problem in problems}.values())


def _job_problems(overrides: Sequence[str]) -> list[Problem]:
    """Returns the problems of a job that are known before its objects are built: overrides that
    cannot be composed, unknown keys and values of wrong types.
    """
    try:
        with hide_messages():
            check(compose_in_search(list(overrides)))
    except RequestError as error:
        return error.problems
    return []


def sweep_error(sweep: Sweep, error: Exception) -> RequestError:
    """Returns the error to raise if a job of the sweep cannot be composed.

    The error has a problem for each invalid value.

    Args:
        error: exception that was raised for the first invalid job.
    """
    fallback = Problem("config", "a config that Hydra can compose", hint=str(error).splitlines()[0])
    return RequestError([*value_problems(sweep), *_problems_of_added_keys(sweep)] or [fallback])


def _problems_of_added_keys(sweep: Sweep) -> Iterator[Problem]:
    """Yields the problems of overrides with which the user adds a config key by `+`.

    Each of these overrides is checked with its `+`, because `expand` removes the `+`.
    """
    for item in sweep.overrides:
        if item.startswith("+") and item.lstrip("+").partition("=")[0] not in sweep.axes:
            try:
                compose_in_search([item])
            except RequestError as error:
                yield from error.problems


def _parse(item: str, parser: OverridesParser) -> Override:
    try:
        (override,) = parser.parse_overrides(
            [add_plus_signs(item)]
        )  # with the parser's loader, which `glob` needs
    except NOT_PARSED:
        compose_in_search([item])  # raises an error that explains the problem
        raise
    return override


def _split(overrides: list[Override]) -> list[list[str]]:
    try:
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except NOT_PARSED as error:
        hint = str(error).splitlines()[0]
        where = _input_lines(overrides)
        raise RequestError(Problem(where, "a list of values to sweep", hint=hint)) from error
    if not jobs:
        raise RequestError(Problem(_input_lines(overrides), "at least one value to sweep over"))
    return jobs


def _check_count(overrides: Sequence[Override]) -> None:
    """Checks that overrides expand to at most `MAX_JOBS` jobs, without creating the jobs.

    Raises:
        RequestError: There are more than `MAX_JOBS` jobs, or values of one key.
    """
    counts: dict[str, float] = {}
    for override in overrides:
        key = override.get_key_element().lstrip("+")
        counts.pop(key, None)
        if override.is_discrete_sweep():
            counts[key] = _count(override)
            _check_values(override, counts[key])
    jobs = math.prod(counts.values())
    if jobs > MAX_JOBS:
        product = " x ".join(f"{count:,}" for count in counts.values() if count != 1)
        hint = f"got {product} = {_number_text(jobs)} jobs"
        where = _input_lines(overrides)
        raise RequestError(Problem(where, f"at most {MAX_JOBS:,} jobs", hint=hint))


def _check_values(override: Override, count: float) -> None:
    if count > MAX_JOBS:
        hint = "the range is infinite" if count == math.inf else f"got {_number_text(count)} values"
        where = _input_lines([override])
        raise RequestError(Problem(where, f"at most {MAX_JOBS:,} values to sweep", hint=hint))


def _number_text(count: float) -> str:
    return f"{count:,}" if count <= 10**18 else "more than 10**18"


def _count(override: Override) -> float:
    """Returns the number of values that an override sweeps over.

    The values of a range are not listed, because there may be too many; the number of an endless
    range is infinity. For an invalid override, returns 1; its error is raised when its values are
    listed.
    """
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if not isinstance(value, RangeSweep):  # a glob over existing config files
        with suppress(*NOT_PARSED):
            return len(list(override.sweep_iterator()))
        return 1
    bounds: tuple[Any, Any, Any] = (value.start, value.stop, value.step)
    start, stop, step = bounds
    floats = [
        item for item in bounds if isinstance(item, float)
    ]  # an int may be too large for a float
    if any(map(math.isnan, floats)):
        where = _input_lines([override])
        raise RequestError(Problem(where, "a range of numbers", hint="the range contains nan"))
    if step == 0:
        return 1
    if any(map(math.isinf, floats)):
        endless = stop > start if step > 0 else stop < start
        return (1 if math.isinf(step) else math.inf) if endless else 0
    return max(0, math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step)))


def _is_interval(override: Override, sweeper: str) -> bool:
    """Returns whether an override is a long range of integers, from which a search can sample.

    A range is long if it has more than `MAX_JOBS` values. For the basic sweeper, which lists all
    values, the answer is false.

    Args:
        override: the override.
        sweeper: import path of the sweeper's class.

    Raises:
        RequestError: A search sweeps over more than `MAX_JOBS` values, and these are not a range
            of integers.
    """
    value: Any = override.value()
    count = _count(override)
    if sweeper == BASIC or count <= MAX_JOBS:
        return False
    if isinstance(value, RangeSweep) and not value.shuffle:
        is_integral = all(isinstance(item, int) for item in (value.start, value.stop, value.step))
        if is_integral:
            return True
    _check_values(override, count)
    return False


def _bounds(override: Override) -> list[str]:
    value: Any = override.value()
    last = value.start + (_count(override) - 1) * value.step
    return [str(value.start), str(last)]


def _values(override: Override) -> list[str]:
    try:
        return [str(value) for value in override.sweep_string_iterator()]
    except NOT_PARSED as error:  # a range with step 0
        where = _input_lines([override])
        raise RequestError(Problem(where, "a list of values to sweep", hint=str(error))) from error


def _input_lines(overrides: Sequence[Override]) -> str:
    """Returns those overrides that sweep over values, as one text for a message.

    If no override sweeps over values, returns all overrides.
    """
    sweeping = [o for o in overrides if o.is_sweep_override()]
    return " ".join(remove_plus_signs(o.input_line or "") for o in sweeping or overrides)


def _check_launcher(target: str) -> None:
    """Checks that a launcher has the methods, with the arguments, that Étude calls.

    A launcher runs the jobs of a sweep. Launchers outside the package `hydra_plugins` are not
    checked.

    Args:
        target: import path of the launcher's class.

    Raises:
        RequestError: If the launcher lacks a method or an argument.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith("hydra_plugins."):
        return
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):  # Hydra reports a missing launcher
        return
    if problems := list(CONTRACTS["hydra.launcher"].problems(kind, "hydra.launcher", target)):
        raise RequestError(problems)


def _read_hydra_config(overrides: list[str], hydra: Hydra) -> tuple[list[str], str]:
    """Returns the overrides in `hydra.sweeper.params`, and the import path of the sweeper.

    They are read from the config that the sweep's `overrides` define. If Hydra cannot compose it,
    returns an empty list and the basic sweeper; the error is reported later.
    """
    try:
        config = hydra.compose_config("train", overrides, RunMode.MULTIRUN)
        sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        launcher = str(config.hydra.launcher.get("_target_"))
    except HYDRA_ERRORS:  # composing the first job reports the error
        return [], BASIC
    _check_launcher(launcher)
    params = sweeper.get("params") or {}
    return [add_plus_signs(f"{key}={value}") for key, value in params.items()], str(
        sweeper["_target_"]
    )
