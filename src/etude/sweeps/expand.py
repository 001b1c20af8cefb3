"""From the words of a sweep to its jobs, as Hydra's basic sweeper makes them."""

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

from etude.config.compose import HYDRA_ERRORS, NOT_PARSED, addable, composed, unmarked
from etude.config.replaced import is_choice, report_replaced
from etude.contracts.slots import CONTRACTS
from etude.errors import Problem, RequestError

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
MOST_JOBS = 100_000
"""Of a sweep, and values of one key: they are counted before they are listed."""
_MOST_COMBINATIONS = 1000
"""Of files, that are all looked at; each takes milliseconds."""


@dataclass
class Sweep:
    """What a sweep varies.

    Attributes:
        overrides: all of them, those that a file states under `hydra.sweeper.params` first.
        axes: the swept keys and their values.
        fixed: the overrides that all jobs share.
        jobs: the overrides of each job in the order in which they run; None if another sweeper
            than Hydra's basic one chooses them as it goes.
        sweeper: the class of that sweeper.
    """

    overrides: list[str]
    axes: dict[str, list[str]]
    fixed: list[str]
    jobs: list[list[str]] | None
    sweeper: str


def expand(overrides: Sequence[str], hydra: Hydra) -> Sweep:
    """Reads a sweep; its first job is known to compose.

    Args:
        overrides: in Hydra's grammar; `key=a,b`, `range`, `glob` and `choice` sweep.
        hydra: from `searching`, which must be open.

    Raises:
        RequestError: an override is wrong whatever the swept values are, or the jobs are more than
            `MOST_JOBS`.
    """
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    typed = [_parse(item, parser) for item in overrides]
    stated, sweeper = _of_the_files([o.input_line or "" for o in typed], hydra)
    both = [*(_parse(item, parser) for item in stated), *typed]
    if sweeper == BASIC:
        _check_count(both)
    axes: dict[str, list[str]] = {}
    fixed: dict[str, str] = {}
    for override in both:  # what is said last counts
        key = override.get_key_element().lstrip("+")
        axes.pop(key, None)
        fixed.pop(key, None)
        if override.is_discrete_sweep():
            axes[key] = _ends(override) if _is_as_interval(override, sweeper) else _values(override)
        elif override.is_sweep_override():  # an interval, which only a search can sweep
            interval: Any = override.value()
            axes[key] = [str(interval.start), str(interval.end)]
        else:
            fixed[key] = unmarked(override.input_line or "")
    jobs = None
    if sweeper == BASIC:
        jobs = _split(both)
        composed([unmarked(item) for item in jobs[0]])
    report_replaced(*_choices(fixed, axes))
    return Sweep([o.input_line or "" for o in both], axes, list(fixed.values()), jobs, sweeper)


def _choices(fixed: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Every combination of files that jobs choose, without the values that they set.

    Of very many, each file beside the first ones of the other keys.
    """
    chosen = {key: values for key, values in axes.items() if is_choice(key)}
    others = [f"{key}={values[0]}" for key, values in axes.items() if key not in chosen]
    combinations: Iterable[Sequence[str]] = itertools.product(*chosen.values())
    if math.prod(map(len, chosen.values())) > _MOST_COMBINATIONS:
        first = {key: values[0] for key, values in chosen.items()}
        varied = [first | {key: value} for key, values in chosen.items() for value in values]
        combinations = [tuple(each.values()) for each in varied]
    for combination in combinations:
        pairs = zip(chosen, combination, strict=True)
        yield [*fixed.values(), *(f"{key}={value}" for key, value in pairs), *others]


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the values that overrides in Hydra's grammar sweep (`key=a,b`, `range`,
    `choice`), the last one fastest.

    Raises:
        RequestError: one is not in that grammar, or sweeps over nothing or too much.
    """
    parser = OverridesParser.create()
    try:
        parsed = [parser.parse_override(item) for item in overrides]
        _check_count(parsed)
        return _split(parsed)
    except NOT_PARSED as error:
        hint = str(error).splitlines()[0]
        raise RequestError(Problem(" ".join(overrides), "overrides", hint=hint)) from error


def wrong_values(sweep: Sweep) -> list[Problem]:
    """What is wrong with swept values, each tried beside the first values of the other axes, and
    with combinations of files. What else two values make together is the job's to report."""
    problems: list[Problem] = []
    first = {key: values[0] for key, values in sweep.axes.items()}
    for key, values in sweep.axes.items():
        for value in values[1:]:
            job = first | {key: value}
            try:
                composed([*sweep.fixed, *(f"{k}={v}" for k, v in job.items())])
            except RequestError as error:
                problems += error.problems
    if not problems and sum(map(is_choice, sweep.axes)) > 1:
        for combination in _choices({item: item for item in sweep.fixed}, sweep.axes):
            try:
                composed(combination)
            except RequestError as error:
                problems += error.problems
    return list({str(problem): problem for problem in problems}.values())


def refused(sweep: Sweep, error: Exception) -> RequestError:
    """The error of a sweep of which a job does not compose, with every value to blame."""
    fallback = Problem("config", "configs that compose", hint=str(error).splitlines()[0])
    return RequestError([*wrong_values(sweep), *_added_in_vain(sweep)] or [fallback])


def _added_in_vain(sweep: Sweep) -> Iterator[Problem]:
    """What is wrong with overrides that add a key: jobs are tried without their `+`."""
    for item in sweep.overrides:
        if item.startswith("+") and item.lstrip("+").partition("=")[0] not in sweep.axes:
            try:
                composed([item])
            except RequestError as error:
                yield from error.problems


def _parse(item: str, parser: OverridesParser) -> Override:
    try:
        (override,) = parser.parse_overrides([addable(item)])  # `glob` needs the loader
    except NOT_PARSED:
        composed([item])  # says what is wrong with it
        raise
    return override


def _split(overrides: list[Override]) -> list[list[str]]:
    try:
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except NOT_PARSED as error:
        hint = str(error).splitlines()[0]
        where = _lines(overrides)
        raise RequestError(Problem(where, "values to try in turn", hint=hint)) from error
    if not jobs:
        raise RequestError(Problem(_lines(overrides), "at least one value to try"))
    return jobs


def _check_count(overrides: Sequence[Override]) -> None:
    """Refuses more than `MOST_JOBS`, without making one."""
    counts: dict[str, float] = {}
    for override in overrides:
        key = override.get_key_element().lstrip("+")
        counts.pop(key, None)
        if override.is_discrete_sweep():
            counts[key] = _count(override)
            _check_values(override, counts[key])
    jobs = math.prod(counts.values())
    if jobs > MOST_JOBS:
        told = " x ".join(f"{count:,}" for count in counts.values() if count != 1)
        hint = f"these are {told} = {_number(jobs)}"
        raise RequestError(Problem(_lines(overrides), f"at most {MOST_JOBS:,} jobs", hint=hint))


def _check_values(override: Override, count: float) -> None:
    if count > MOST_JOBS:
        hint = "it has no end" if count == math.inf else f"these are {_number(count)}"
        where = _lines([override])
        raise RequestError(Problem(where, f"at most {MOST_JOBS:,} values to try", hint=hint))


def _number(count: float) -> str:
    return f"{count:,}" if count <= 10**18 else "more than 10**18"


def _count(override: Override) -> float:
    """How many values an override sweeps, found without making them; 1 if that fails, as making
    them then says what is wrong."""
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if not isinstance(value, RangeSweep):  # a glob, of the files that are there
        with suppress(*NOT_PARSED):
            return len(list(override.sweep_iterator()))
        return 1
    bounds: tuple[Any, Any, Any] = (value.start, value.stop, value.step)
    start, stop, step = bounds
    floats = [item for item in bounds if isinstance(item, float)]  # an int may exceed them
    if any(map(math.isnan, floats)):
        expected = "a range of numbers"
        raise RequestError(Problem(_lines([override]), expected, hint="one of them is nan"))
    if step == 0:
        return 1
    if any(map(math.isinf, floats)):
        endless = stop > start if step > 0 else stop < start
        return (1 if math.isinf(step) else math.inf) if endless else 0
    return max(0, math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step)))


def _is_as_interval(override: Override, sweeper: str) -> bool:
    """Whether a search takes a long range without listing its values: one of whole numbers."""
    value: Any = override.value()
    count = _count(override)
    if sweeper == BASIC or count <= MOST_JOBS:
        return False
    if isinstance(value, RangeSweep) and not value.shuffle:
        whole = all(isinstance(item, int) for item in (value.start, value.stop, value.step))
        if whole:
            return True
    _check_values(override, count)
    return False


def _ends(override: Override) -> list[str]:
    value: Any = override.value()
    last = value.start + (_count(override) - 1) * value.step
    return [str(value.start), str(last)]


def _values(override: Override) -> list[str]:
    try:
        return [str(value) for value in override.sweep_string_iterator()]
    except NOT_PARSED as error:  # of a range whose step is 0
        where = _lines([override])
        raise RequestError(Problem(where, "values to try in turn", hint=str(error))) from error


def _lines(overrides: Sequence[Override]) -> str:
    """Those that sweep, as typed; all if none does."""
    sweeping = [o for o in overrides if o.is_sweep_override()]
    return " ".join(unmarked(o.input_line or "") for o in sweeping or overrides)


def _check_launcher(target: str) -> None:
    """Compares a launcher of the user's, which Hydra finds in `hydra_plugins`, with its contract.

    Raises:
        RequestError: something is missing.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith("hydra_plugins."):
        return
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):  # Hydra says that it is not there
        return
    if problems := list(CONTRACTS["hydra.launcher"].problems(kind, "hydra.launcher", target)):
        raise RequestError(problems)


def _of_the_files(overrides: list[str], hydra: Hydra) -> tuple[list[str], str]:
    """What the composed config itself says of sweeping: its axes, and who makes the jobs."""
    try:
        config = hydra.compose_config("train", overrides, RunMode.MULTIRUN)
        sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        launcher = str(config.hydra.launcher.get("_target_"))
    except HYDRA_ERRORS:  # the first job says what is wrong
        return [], BASIC
    _check_launcher(launcher)
    params = sweeper.get("params") or {}
    return [addable(f"{key}={value}") for key, value in params.items()], str(sweeper["_target_"])
