"""Schema and loader of paper files (`conf/paper/<paper>.yaml`); unknown keys are rejected.

A paper file contains the statement that a paper makes (the claim), values from the paper that
support the claim, and the settings to measure these values again. The compared values form a table
in the report. They are the paper's table; each value is a cell of this table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import yaml
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from etude.config.checks import find_extensions
from etude.config.nodes import Node, check_node
from etude.config.paths import conf_dir
from etude.config.yaml_file import parse_yaml
from etude.errors import Checks, InvalidArguments, Problem, RequestError, nearest

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
Text = Annotated[str, StringConstraints(min_length=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True)]


@dataclass(frozen=True, config=CLOSED)
class Tolerance:
    """Rule that decides whether a measured value agrees with a number from the paper.

    Exactly one of the four attributes is set; the others are None.

    Attributes:
        relative: largest allowed difference, as a fraction of the paper's number.
        absolute: largest allowed difference from the paper's number, in the unit of this number.
        above, below: strict bound on the measured value. It is used if the paper states its claim
            in words, without a number.
    """

    relative: Number | None = None
    absolute: Number | None = None
    above: Number | None = None
    below: Number | None = None

    def __post_init__(self) -> None:
        checks = Checks()
        stated = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        expected = "exactly one of the keys relative, absolute, above and below"
        checks.that(len(stated) == 1, "", ", ".join(stated) or "nothing", expected)
        for key in ("relative", "absolute"):
            width = getattr(self, key)
            checks.that(width is None or width >= 0, key, width, "a number of at least 0")
        checks.done()

    @property
    def has_unit(self) -> bool:
        """Whether the rule's number has the same unit as the measured value.

        True for all rules except `relative`, whose number is a fraction.
        """
        return self.relative is None

    @property
    def needs_published(self) -> bool:
        """Whether the rule needs a number from the paper; true for `relative` and `absolute`."""
        return self.relative is not None or self.absolute is not None

    def admits(self, value: float, published: float | None) -> bool:
        """Returns whether the measured `value` agrees with `published`, the number in the paper.

        A `value` of NaN never agrees.
        """
        if self.above is not None:
            return value > self.above
        if self.below is not None:
            return value < self.below
        assert published is not None  # `_check_published` guarantees it
        width = self.absolute if self.relative is None else self.relative * abs(published)
        assert width is not None
        return abs(value - published) <= width

    def __str__(self) -> str:
        if self.relative is not None:
            return f"± {100 * self.relative:g} %"
        if self.absolute is not None:
            return f"± {self.absolute:g}"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"


@dataclass(frozen=True, config=CLOSED)
class ProtocolFigure:
    """Result that other people measured with the settings that Étude uses to reproduce a paper.

    The paper file contains such a result for a value of the paper's table if Étude uses other
    settings than the paper, or if the paper prints no number.

    Attributes:
        expected: the result; None if only a bound is known, which `tolerance` contains.
        read: who measured the result, and how.
        tolerance: rule that decides whether Étude's measured value agrees with the result.
        because: reason for the choice of `tolerance`.
    """

    expected: Number | None
    read: Text
    tolerance: Tolerance
    because: Text

    def __post_init__(self) -> None:
        _check_published(self.tolerance, "expected", self.expected)


@dataclass(frozen=True, config=CLOSED)
class Cell:
    """One value of a paper's table, and the rule that decides whether it was reproduced.

    Attributes:
        key: name of the value. The measured value (`Reading`) with this name is compared with it.
        says: description of the value.
        published: number that the paper prints, or that follows from what it prints; None if the
            paper makes its claim only in words.
        read: place of the value in the paper, such as a table and its row.
        tolerance: rule that decides whether a measured value agrees with this value.
        because: reason for the choice of `tolerance`.
        control: description of the negative control: a case in which the paper's claim must not
            hold.
        unit: unit of the value; empty for a dimensionless number.
        protocol: result that other people measured with the settings that Étude uses; None if no
            such result is known, or if these settings are the paper's.
    """

    key: str
    says: Text
    published: Number | None
    read: Text
    tolerance: Tolerance
    because: Text
    control: Text
    unit: str = ""
    protocol: ProtocolFigure | None = None

    def __post_init__(self) -> None:
        _check_published(self.tolerance, "published", self.published)


def _check_published(tolerance: Tolerance, key: str, number: float | None) -> None:
    """Checks that a number is given if the tolerance needs one, and that it is None otherwise.

    Args:
        tolerance: rule that compares a measured value with the number.
        key: the number's key in the paper file, for errors.
        number: number in the paper, or result of other people; None if there is none.

    Raises:
        InvalidArguments: The number is missing, not used, or 0 with a relative tolerance.
    """
    checks = Checks()
    if tolerance.needs_published:
        hint = "a relative or absolute tolerance limits the difference from this number"
        checks.that(number is not None, key, number, "a number", hint)
        is_fraction_defined = tolerance.relative is None or number != 0
        hint = "a relative tolerance would be 0, a fraction of this number; set tolerance.absolute"
        checks.that(is_fraction_defined, key, number, "a number other than 0", hint)
    else:
        hint = f"the tolerance is a bound (above or below), so `{key}` is not used"
        checks.that(number is None, key, number, "null", hint)
    checks.done()


@dataclass(frozen=True, config=CLOSED)
class NeededFile:
    """A file that the user must provide before a paper's values can be measured.

    Attributes:
        says: description of the file, and where it can be obtained.
        sha256: SHA-256 of its content (hex).
    """

    says: Text
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=CLOSED)
class Paper:
    """Content of a paper file: a paper's claim, and the settings to measure whether it holds.

    Attributes:
        title, citation, link: bibliographic data of the paper.
        claim: statement of the paper that is tested, in one sentence.
        tier: what the measurement needs: `cpu`, `gpu`, or `weights` (released weights).
        cost: text that states the time that the measurement takes on a machine of this tier.
        seeds: random seeds; each value is measured once with each seed.
        measure: class that measures the values (`_target_`), and its arguments. The class
            implements `Measurement`, or `Readings` if the paper has `runs`.
        cells: the values of the paper's table.
        runs: dict from the name of each arm to a list of overrides. An arm is a variant that the
            paper compares. It is trained once with each seed, so its overrides don't set the seed.
            In an override, the name of a file of `files` in braces is replaced by the path of the
            file. The name of an earlier arm in braces is replaced by the folder of that arm's run
            with the same seed; the run starts when that run has ended. Comma-separated values are
            swept, as by `etude train -m`.
        files: files that the user must provide, by name.
        extensions: custom modules whose classes `measure` may use. A run that needs custom modules
            sets `extensions` in its own overrides.
        notes: remarks for the report, such as why a measured value does not match.
        smoke: overrides that make each run as short as possible, for a test of the pipeline (smoke
            test). In this test, overrides of `runs` that refer to `files` are omitted. So are those
            that set a key of `smoke` or a key below it. `smoke` can set other data: generated
            files, such as `{toy-text.txt}`, whose names are in `etude.papers.toy_data`.
        smoke_runs: dict from the name of an arm to overrides that only its smoke test uses.
    """

    title: str
    claim: str
    citation: str
    link: str
    tier: Literal["cpu", "gpu", "weights"]
    cost: str
    seeds: list[Seed]
    measure: dict[str, Any]
    cells: list[Cell]
    runs: dict[str, list[str]] = field(default_factory=dict)
    smoke: list[str] = field(default_factory=list)
    smoke_runs: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, NeededFile] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    notes: str = ""

    config_dir: ClassVar[Path | None] = None
    """Folder of custom configs in which the paper was searched for. Not a key of the file."""

    def __post_init__(self) -> None:
        checks = Checks()
        keys = [cell.key for cell in self.cells]
        checks.that(
            len(keys) == len(set(keys)) > 0,
            "cells",
            keys,
            "at least one value of the paper's table, each with a different `key`",
        )
        distinct = len(self.seeds) == len(set(self.seeds)) > 0
        checks.that(distinct, "seeds", self.seeds, "at least one seed, without duplicates")
        strays = [arm for arm in self.smoke_runs if arm not in self.runs]
        expected = f"only names under `runs`: {', '.join(self.runs)}"
        checks.that(not strays, "smoke_runs", ", ".join(strays), expected)
        earlier: list[str] = []
        for arm, overrides in self.runs.items():
            seeded = [o for o in overrides if o.startswith("seed=")]
            hint = "set the seeds under `seeds`"
            checks.that(not seeded, f"runs.{arm}", ", ".join(seeded), "no seed override", hint)
            sources = set().union(*(names_in(override, self.runs) for override in overrides))
            value = ", ".join(sorted(sources))
            expected = f"in braces, only names under `runs` above {arm}"
            checks.that(sources <= {*earlier}, f"runs.{arm}", value, expected)
            earlier.append(arm)
        checks.done()


def names_in(override: str, names: Iterable[str]) -> set[str]:
    """Returns those of `names` that an override contains in braces, such as `{base}`."""
    return {name for name in names if f"{{{name}}}" in override}


@dataclass(frozen=True)
class Reading:
    """Measurements of one value of a paper's table, with all seeds.

    Attributes:
        values: one measured value for each seed.
        controls: the same value measured in the negative control, a case in which the claim must
            not hold; one for each seed, in the same order. Empty if it was not measured.
    """

    values: list[float]
    controls: list[float]


class Measurement(Protocol):
    """Interface of a class that measures the values of a paper's table without training runs.

    A paper file without `runs` names such a class in `measure._target_`. The class may have an
    attribute `cells`: a set of the keys that `measure` returns. If it does, every `key` under
    `cells` in the paper file must be in this set.
    """

    def measure(self, seeds: list[int], figures: Path) -> dict[str, Reading]:
        """Measures the values; returns a dict from the key of each value to its `Reading`.

        Also writes PNG files to `figures`.

        Args:
            seeds: seeds; each value is measured once with each seed.
            figures: existing folder for the PNG files.
        """


class Readings(Protocol):
    """Interface of a class that reads the values of a paper's table from finished runs.

    A paper file with `runs` names such a class in `measure._target_`. The class may have two
    attributes. `arms` is a set of the names under `runs` that `read` needs; each must exist in the
    paper file. `cells` is a set of the keys that `read` returns; every `key` under `cells` in the
    paper file must be in this set.
    """

    def read(self, runs: Mapping[str, Sequence[Any]], figures: Path) -> dict[str, Reading]:
        """Reads the values; returns a dict from the key of each value to its `Reading`.

        Also writes PNG files to `figures`. Values that need unfinished runs are omitted from the
        dict.

        Args:
            runs: dict from each name under `runs` in the paper file to the finished runs
                (`etude.api.Run`) with the overrides of this name.
            figures: existing folder for the PNG files.
        """


def paper_names(config_dir: Path | None = None) -> list[str]:
    """Returns the sorted names of all papers, which are the names of their files without `.yaml`.

    Args:
        config_dir: folder of custom configs, which is searched before Étude's own configs; None if
            there is none.

    Raises:
        RequestError: If `config_dir` is not a folder.
    """
    folders = _folders(config_dir)
    paths = {path for folder in folders for path in folder.glob("paper/*.yaml")}
    return sorted({path.stem for path in paths if path.is_file()})


def _folders(config_dir: Path | None) -> list[Path]:
    if config_dir is None:
        return [conf_dir()]
    if not config_dir.is_dir():
        raise RequestError(Problem("--config-dir", "a folder of configs", str(config_dir)))
    return [config_dir, conf_dir()]


def _config_file(kind: str, name: str, config_dir: Path | None) -> Path:
    """Returns the path of `<kind>/<name>.yaml`, such as `paper/<name>.yaml`.

    The file is searched in the custom configs (`config_dir`), then in Étude's own. If it exists in
    neither, returns the path that it would have in Étude's own configs.
    """
    paths = [folder / kind / f"{name}.yaml" for folder in _folders(config_dir)]
    return next((path for path in paths if path.is_file()), paths[-1])


TIERS = ("cpu", "gpu", "weights")
_READING = "etude.papers.claims.Reading"
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


def all_papers(config_dir: Path | None = None) -> dict[str, Paper]:
    """Returns a dict from the name of each paper to its content.

    The papers are ordered by tier (`cpu`, `gpu`, `weights`), then by name.

    Args:
        config_dir: see `paper_names`.

    Raises:
        RequestError: If a paper's file has errors.
    """
    papers, problems = readable_papers(config_dir)
    if problems:
        raise RequestError(problems)
    return papers


def readable_papers(config_dir: Path | None = None) -> tuple[dict[str, Paper], list[Problem]]:
    """Returns the papers with valid files, as a dict by name, and the errors in the other files.

    The papers are ordered as by `all_papers`. The list of errors is empty if all files are valid.

    Args:
        config_dir: see `paper_names`.
    """
    papers, problems = {}, []
    for name in paper_names(config_dir):
        try:
            papers[name] = load(name, config_dir)
        except RequestError as error:
            problems += error.problems
    ordered = sorted(papers.items(), key=lambda item: (TIERS.index(item[1].tier), item[0]))
    return dict(ordered), problems


def load(name: str, config_dir: Path | None = None) -> Paper:
    """Loads the paper file `paper/<name>.yaml` from the custom configs or from Étude's own configs.

    Args:
        name: name of the paper.
        config_dir: see `paper_names`.

    Raises:
        RequestError: If there is no such paper, or its file has errors.
    """
    known = paper_names(config_dir)
    if name in known and not _NAME.fullmatch(name):
        hint = "rename the paper's file, because its runs are stored in a folder with this name"
        expected = "a name of letters, digits, _ and -"
        raise RequestError(Problem("PAPER", expected, name, hint))
    if name not in known:
        hint = nearest(name, known) or "`etude reproduce` without arguments lists all papers"
        raise RequestError(Problem("PAPER", "the name of a paper", name, hint))
    paper = read(_config_file("paper", name, config_dir))
    if config_dir is not None:
        object.__setattr__(paper, "config_dir", config_dir)
    return paper


def read(path: Path) -> Paper:
    """Returns the paper that the YAML file `path` describes.

    Raises:
        RequestError: If the file has errors.
    """
    where = _display_path(path)
    with _yaml_errors(where):
        content = parse_yaml(path.read_text(encoding="utf-8"), where)
    if not isinstance(content, dict) or not content:
        expected = "a YAML mapping with the keys of a paper file (title, claim, cells, ...)"
        raise RequestError(Problem(where, expected))
    try:
        return TypeAdapter(Paper).validate_python(content)
    except ValidationError as error:
        problems = problems_of(error, (Paper, Cell, ProtocolFigure, Tolerance, NeededFile))
        raise RequestError(_prefixed(where, problem) for problem in problems) from error


def _display_path(path: Path) -> str:
    """Returns a config file's path for messages; paths of Étude's own files start with `conf/`."""
    shipped = path.is_relative_to(conf_dir())
    return f"conf/{path.relative_to(conf_dir())}" if shipped else str(path)


@contextmanager
def _yaml_errors(where: str) -> Iterator[None]:
    """Context manager in which YAML and encoding errors of a file become a `RequestError`.

    Args:
        where: name of the file, for the error.
    """
    try:
        yield
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(Problem(where, "valid YAML", hint=reason)) from error


def measurement_node(name: str, paper: Paper) -> Node:
    """Checks the key `measure` of a paper file, and returns its class and arguments as a `Node`.

    The method `build` of the node creates the object, a `Measurement` or a `Readings`. The class
    name and the arguments are stored with the result, as the settings of the measurement.

    Args:
        name: name of the paper, for errors.
        paper: the paper.

    Raises:
        RequestError: If `measure` has no valid class, or arguments that the class does not accept.
    """
    extensions, problems = find_extensions(paper.extensions)
    if not problems:
        node, problems = check_node("measure", paper.measure, extensions)
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)
    return node


def build_measurement(name: str, paper: Paper) -> Any:
    """Builds the object that measures the values of a paper: a `Measurement` or a `Readings`.

    Args:
        name: name of the paper, for errors.
        paper: the paper; its `measure` describes the object.

    Raises:
        RequestError: If the constructor rejects its arguments, the object needs runs that the paper
            file doesn't define, or it does not measure all values of the paper's table.
    """
    node = measurement_node(name, paper)
    method = "read" if paper.runs else "measure"
    kind: Any = node.constructor
    if not isinstance(kind, type) or not callable(getattr(kind, method, None)):
        expected = f"a class with a `{method}` method"
        problem = Problem("measure._target_", expected, paper.measure["_target_"])
        raise RequestError(_in_file(name, paper, problem))
    try:
        built_object: Any = node.build()
    except RequestError as error:
        raise RequestError(_in_file(name, paper, problem) for problem in error.problems) from error
    problems = []
    kinds = {"arms": "names under `runs`", "cells": "keys under `cells`"}
    for attribute, items in kinds.items():
        stated = getattr(built_object, attribute, ())
        if not isinstance(stated, Collection) or isinstance(stated, str):
            target = paper.measure["_target_"]
            expected = f"the attribute `{attribute}` of {target} to be a set of {items}"
            problem = Problem("measure", expected, str(stated))
            raise RequestError(_in_file(name, paper, problem))
    for arm in sorted(set(getattr(built_object, "arms", ())) - set(paper.runs)):
        expected = f"only names under `runs`: {', '.join(paper.runs)}"
        problems.append(Problem("measure", expected, arm, nearest(arm, paper.runs)))
    measured = getattr(built_object, "cells", None)
    for number, cell in enumerate(paper.cells):
        if measured is not None and cell.key not in measured:
            target, keys = paper.measure["_target_"], ", ".join(sorted(measured))
            expected = f"one of the keys of the values that {target} measures: {keys}"
            where = f"cells[{number}].key"
            problems.append(Problem(where, expected, cell.key, nearest(cell.key, measured)))
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)
    return built_object


def check_readings(name: str, paper: Paper, readings: Any, *, complete: bool) -> None:
    """Checks that each value of a paper's table has measured values of the right form.

    Args:
        name: name of the paper.
        paper: the paper.
        readings: result of the paper's `Measurement` or `Readings`: a dict from the key of each
            value to its `Reading`. Keys that are not in the table are ignored.
        complete: whether all runs of the paper have ended, so that each value must be measured.

    Raises:
        RequestError: If `readings` is not a mapping, a value was not measured although `complete`
            is true, or a `Reading` doesn't contain two lists of numbers with at most one number for
            each seed.
    """
    kind, seeds = paper.measure["_target_"], len(paper.seeds)
    problems = []
    if not isinstance(readings, Mapping):
        expected = f"{kind} to return a dict from each `key` under `cells` to an {_READING}"
        problems.append(Problem("measure", expected, type(readings).__name__))
        readings = {}
        complete = False
    for number, cell in enumerate(paper.cells):
        where = f"cells[{number}].key"
        if cell.key not in readings:
            if complete:
                keys = f"returned keys: {', '.join(map(str, readings)) or 'none'}"
                close = nearest(cell.key, [*map(str, readings)]) if readings else None
                expected = f"a key in the dict that {kind} returns"
                problems.append(Problem(where, expected, cell.key, close or keys))
            continue
        reading = readings[cell.key]
        lists = (getattr(reading, "values", None), getattr(reading, "controls", None))
        if not all(map(_are_numbers, lists)):
            expected = f"{kind} to return for this key an {_READING} "
            expected += "with two lists of numbers: `values` and `controls`"
            problems.append(Problem(where, expected, str(reading)[:80]))
        elif max(map(len, lists)) > seeds or (complete and not lists[0]):  # type: ignore[arg-type]
            expected = f"{kind} to return for this key at least one number in `values`, and in "
            expected += f"`values` and `controls` at most one for each of the {seeds} seeds"
            problems.append(Problem(where, expected, str(reading)[:80]))
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, Real) for value in values)


def experiments(paper: Paper) -> dict[str, str]:
    """Returns the hashes of the experiment files (`experiment=...`) that a paper's runs use.

    The result is a dict from the name of each experiment to the SHA-256 (hex) of its file's parsed
    content. Comments and layout don't change the hash.
    """
    hashes = {}
    for override in sorted(set().union(*paper.runs.values())):
        key, _, chosen = override.partition("=")
        for name in chosen.split(",") if key == "experiment" else ():
            path = _config_file("experiment", name, paper.config_dir)
            if path.is_file():
                with _yaml_errors(_display_path(path)):
                    content = yaml.safe_load(path.read_text(encoding="utf-8"))
                canonical = json.dumps(content, sort_keys=True)
                hashes[name] = hashlib.sha256(canonical.encode()).hexdigest()
    return hashes


def problems_of(error: ValidationError, kinds: Sequence[Any]) -> list[Problem]:
    """Converts a pydantic error to a list of `Problem`s.

    Args:
        error: the pydantic error.
        kinds: dataclasses that were validated. If a key is unknown, the hint suggests the most
            similar field of these dataclasses.
    """
    return [problem for details in error.errors() for problem in _problems(details, kinds)]


def _problems(details: ErrorDetails, kinds: Sequence[Any]) -> list[Problem]:
    names = {kind.__name__ for kind in kinds}
    where = _key_path(tuple(part for part in details["loc"] if part not in names))
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InvalidArguments):
        return [problem.under(where) for problem in cause.problems]
    if details["type"] == "unexpected_keyword_argument":
        known = [f.name for kind in kinds for f in fields(kind)]
        hint = nearest(str(details["loc"][-1]), known)
        return [Problem(where, "a supported key", details["input"], hint)]
    if details["type"] == "missing":
        return [Problem(where, "a value", hint="the key is required")]
    return [Problem(where, "a valid value", details["input"], details["msg"])]


def _key_path(loc: tuple[int | str, ...]) -> str:
    """Converts a location in a pydantic error to a key path.

    For example, ("cells", 0, "key") becomes `cells[0].key`.
    """
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".")


def _in_file(name: str, paper: Paper, problem: Problem) -> Problem:
    return _prefixed(_display_path(_config_file("paper", name, paper.config_dir)), problem)


def _prefixed(where: str, problem: Problem) -> Problem:
    return replace(problem, where=f"{where}: {problem.where}")
