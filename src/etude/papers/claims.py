"""What a paper claims, as data: `conf/paper/<paper>.yaml`, closed against misspelt keys."""

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

from etude.config.checks import usable_extensions
from etude.config.nodes import Node, check_node
from etude.config.paths import conf_dir
from etude.config.yaml_file import parse_yaml
from etude.errors import Checks, InvalidArguments, Problem, RequestError, nearest

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
Said = Annotated[str, StringConstraints(min_length=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True)]


@dataclass(frozen=True, config=CLOSED)
class Tolerance:
    """When a measured value agrees with a cell: one rule of the four.

    Attributes:
        relative: at most this share of the published value away from it.
        absolute: at most this far from the published value, in the cell's unit.
        above, below: a strict inequality, where the paper states no number.
    """

    relative: Number | None = None
    absolute: Number | None = None
    above: Number | None = None
    below: Number | None = None

    def __post_init__(self) -> None:
        checks = Checks()
        stated = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        expected = "one of relative, absolute, above, below"
        checks.that(len(stated) == 1, "", ", ".join(stated) or "nothing", expected)
        for key in ("relative", "absolute"):
            width = getattr(self, key)
            checks.that(width is None or width >= 0, key, width, "0 or more")
        checks.done()

    @property
    def has_unit(self) -> bool:
        """Whether the rule's number has the unit of the cell: all but a share."""
        return self.relative is None

    @property
    def needs_published(self) -> bool:
        """Whether the rule is a band around a published number."""
        return self.relative is not None or self.absolute is not None

    def admits(self, value: float, published: float | None) -> bool:
        """Whether `value` agrees; NaN never does."""
        if self.above is not None:
            return value > self.above
        if self.below is not None:
            return value < self.below
        assert published is not None  # a `Cell` holds a band and its number together
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
    """What the settings of our runs have given elsewhere, where these are not the paper's own or
    the paper prints no number.

    Attributes:
        expected: the number; None where an inequality is all that is known.
        read: who measured it, and how.
        tolerance: when a measured value agrees.
        because: why the tolerance is what it is.
    """

    expected: Number | None
    read: Said
    tolerance: Tolerance
    because: Said

    def __post_init__(self) -> None:
        _check_band(self.tolerance, "expected", self.expected)


@dataclass(frozen=True, config=CLOSED)
class Cell:
    """One value of a paper's table, and what would count as finding it again.

    Attributes:
        key: which reading of the measurement it is compared with.
        says: what the value is.
        published: the number that the paper states or implies; None where it has only words.
        read: where in the paper.
        tolerance: when a measured value agrees.
        because: why the tolerance is what it is.
        control: the negative control, a case in which the claim must not be found.
        unit: of the value; empty for a pure number.
        protocol: what these very settings should give; None where nobody else has measured that,
            or where they are the paper's.
    """

    key: str
    says: Said
    published: Number | None
    read: Said
    tolerance: Tolerance
    because: Said
    control: Said
    unit: str = ""
    protocol: ProtocolFigure | None = None

    def __post_init__(self) -> None:
        _check_band(self.tolerance, "published", self.published)


def _check_band(tolerance: Tolerance, key: str, number: float | None) -> None:
    """A band has a number that it is around, an inequality has none."""
    checks = Checks()
    if tolerance.needs_published:
        expected = "a number, which the tolerance is a band around"
        checks.that(number is not None, key, number, expected)
        expected = "a number other than 0, of which a share can be had"
        checks.that(tolerance.relative is None or number != 0, key, number, expected)
    else:
        expected = "null: the tolerance is an inequality and would ignore it"
        checks.that(number is None, key, number, expected)
    checks.done()


@dataclass(frozen=True, config=CLOSED)
class NeededFile:
    """A file that the user has to have.

    Attributes:
        says: what it is and where it comes from.
        sha256: of its content.
    """

    says: Said
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=CLOSED)
class Paper:
    """A paper's claim and everything needed to measure it here.

    Attributes:
        title, claim, citation, link: of the paper; the claim in a sentence.
        tier: the machine that the measurement needs.
        cost: the time it takes there.
        seeds: one measurement each.
        measure: a config node that builds a `Measurement`, or with `runs` a `Readings`.
        cells: the table.
        runs: the overrides of each run that the cells are read from, but for the seed. In them the
            name of a file of `files` in braces stands for its path, and `{run}`, the name of one of
            these runs, for its record with the same seed: such a run begins when that has ended.
            Values with commas between are swept, as by `etude train -m`.
        files: what the user has to have, by name.
        extensions: modules of one's own that `measure` may name classes of. Its runs state theirs.
        notes: what was found out on the way, such as why a cell is missed.
        smoke: overrides that make every run as short as it can be, to see that all parts fit. What
            names a file of `files` is left out there, so they state other data: `{toy-text.txt}`
            and the like are files that are made then (`etude.papers.toys`). They replace what a
            run says of the same keys, and of those below them.
        smoke_runs: more of them for single runs.
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
    """The folder of one's own configs that the paper was looked for in: no key of its file."""

    def __post_init__(self) -> None:
        checks = Checks()
        keys = [cell.key for cell in self.cells]
        checks.that(len(keys) == len(set(keys)) > 0, "cells", keys, "cells with different keys")
        distinct = len(self.seeds) == len(set(self.seeds)) > 0
        checks.that(distinct, "seeds", self.seeds, "different seeds, at least one")
        strays = [arm for arm in self.smoke_runs if arm not in self.runs]
        expected = f"runs of this paper: {', '.join(self.runs)}"
        checks.that(not strays, "smoke_runs", ", ".join(strays), expected)
        earlier: list[str] = []
        for arm, overrides in self.runs.items():
            seeded = [o for o in overrides if o.startswith("seed=")]
            expected = "no seed: those of the paper are set"
            checks.that(not seeded, f"runs.{arm}", ", ".join(seeded), expected)
            begins = set().union(*(named(override, self.runs) for override in overrides))
            early = ", ".join(sorted(begins))
            checks.that(begins <= {*earlier}, f"runs.{arm}", early, "runs that stand before it")
            earlier.append(arm)
        checks.done()


def named(override: str, names: Iterable[str]) -> set[str]:
    """Which of the names an override has in braces, in place of a path."""
    return {name for name in names if f"{{{name}}}" in override}


@dataclass(frozen=True)
class Reading:
    """What was measured for a cell.

    Attributes:
        values: one a seed.
        controls: the negative control's, in the same order.
    """

    values: list[float]
    controls: list[float]


class Measurement(Protocol):
    """What a paper's `measure` builds.

    With an attribute `cells`, the keys of its readings, those of the paper are looked up there.
    """

    def measure(self, seeds: list[int], figures: Path) -> dict[str, Reading]:
        """The readings by cell key; PNG files go to the folder `figures`, which exists."""


class Readings(Protocol):
    """What the `measure` of a paper with runs builds.

    With the attributes `arms`, the names of the runs that it reads, and `cells`, the keys of its
    readings, those of the paper are looked up there.
    """

    def read(self, runs: Mapping[str, Sequence[Any]], figures: Path) -> dict[str, Reading]:
        """The readings by cell key, of the runs that there are, arm by arm (`etude.api.Run`).

        Cells of which nothing can be said yet are left out. PNG files go to the folder `figures`.
        """


def names(config_dir: Path | None = None) -> list[str]:
    """The papers that are ready, by the names of their files.

    Args:
        config_dir: a folder of one's own configs, searched before the shipped ones.
    """
    folders = _folders(config_dir)
    found = {path for folder in folders for path in folder.glob("paper/*.yaml")}
    return sorted({path.stem for path in found if path.is_file()})


def _folders(config_dir: Path | None) -> list[Path]:
    if config_dir is None:
        return [conf_dir()]
    if not config_dir.is_dir():
        raise RequestError(Problem("--config-dir", "a folder of configs", str(config_dir)))
    return [config_dir, conf_dir()]


def _file(kind: str, name: str, config_dir: Path | None) -> Path:
    """A config's file, one's own before the shipped one."""
    found = [folder / kind / f"{name}.yaml" for folder in _folders(config_dir)]
    return next((path for path in found if path.is_file()), found[-1])


TIERS = ("cpu", "gpu", "weights")
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


def all_papers(config_dir: Path | None = None) -> dict[str, Paper]:
    """Those that are ready, by name; what a small machine can do comes first.

    Args:
        config_dir: see `names`.

    Raises:
        RequestError: a file has mistakes.
    """
    found, problems = readable_papers(config_dir)
    if problems:
        raise RequestError(problems)
    return found


def readable_papers(config_dir: Path | None = None) -> tuple[dict[str, Paper], list[Problem]]:
    """Those whose files have no mistakes, and the mistakes of the others."""
    found, problems = {}, []
    for name in names(config_dir):
        try:
            found[name] = load(name, config_dir)
        except RequestError as error:
            problems += error.problems
    ordered = sorted(found.items(), key=lambda item: (TIERS.index(item[1].tier), item[0]))
    return dict(ordered), problems


def load(name: str, config_dir: Path | None = None) -> Paper:
    """The paper in `paper/<name>.yaml` of one's own configs, or of the shipped ones.

    Args:
        config_dir: see `names`.

    Raises:
        RequestError: there is no such paper, or its file has mistakes; names their key paths.
    """
    known = names(config_dir)
    if name in known and not _NAME.fullmatch(name):
        expected = "a file's name of letters, digits, _ and -: its runs have it too"
        raise RequestError(Problem("PAPER", expected, name))
    if name not in known:
        hint = nearest(name, known) or "etude reproduce, with nothing more, lists them"
        raise RequestError(Problem("PAPER", "a paper that is ready", name, hint))
    paper = read(_file("paper", name, config_dir))
    if config_dir is not None:
        object.__setattr__(paper, "config_dir", config_dir)
    return paper


def read(path: Path) -> Paper:
    """The paper in a file; see `load`."""
    where = _shown(path)
    with _read_as_yaml(where):
        plain = parse_yaml(path.read_text(encoding="utf-8"), where)
    if not isinstance(plain, dict) or not plain:
        raise RequestError(Problem(where, "the keys of a paper with values"))
    try:
        return TypeAdapter(Paper).validate_python(plain)
    except ValidationError as error:
        found = problems_of(error, (Paper, Cell, ProtocolFigure, Tolerance, NeededFile))
        raise RequestError(_under(where, problem) for problem in found) from error


def _shown(path: Path) -> str:
    """A config's file as messages call it: a shipped one by its place in `conf`."""
    shipped = path.is_relative_to(conf_dir())
    return f"conf/{path.relative_to(conf_dir())}" if shipped else str(path)


@contextmanager
def _read_as_yaml(where: str) -> Iterator[None]:
    """Within, a file that is no YAML is told by its name."""
    try:
        yield
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(Problem(where, "valid YAML", hint=reason)) from error


def measurement(name: str, paper: Paper) -> Node:
    """The checked node that builds the paper's `Measurement`; its canonical form is the settings.

    Raises:
        RequestError: the node `measure` does not fit its constructor.
    """
    extensions, problems = usable_extensions(paper.extensions)
    if not problems:
        node, problems = check_node("measure", paper.measure, extensions)
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)
    return node


def built(name: str, paper: Paper) -> Any:
    """What the paper's `measure` describes.

    Raises:
        RequestError: its constructor refuses, it reads runs that the paper has not, or a cell is
            compared with what it does not give; names the file.
    """
    node = measurement(name, paper)
    method = "read" if paper.runs else "measure"
    kind: Any = node.constructor
    if not isinstance(kind, type) or not callable(getattr(kind, method, None)):
        expected = f"a class with a method {method}"
        problem = Problem("measure._target_", expected, paper.measure["_target_"])
        raise RequestError(_in_file(name, paper, problem))
    try:
        found: Any = node.build()
    except RequestError as error:
        raise RequestError(_in_file(name, paper, problem) for problem in error.problems) from error
    problems = []
    for attribute in ("arms", "cells"):
        names_ = getattr(found, attribute, ())
        if not isinstance(names_, Collection) or isinstance(names_, str):
            expected = f"a set of names as {attribute} of {paper.measure['_target_']}"
            problem = Problem("measure", expected, str(names_))
            raise RequestError(_in_file(name, paper, problem))
    for arm in sorted(set(getattr(found, "arms", ())) - set(paper.runs)):
        expected = f"the runs of this paper: {', '.join(paper.runs)}"
        problems.append(Problem("measure", expected, arm, nearest(arm, paper.runs)))
    given = getattr(found, "cells", None)
    for number, cell in enumerate(paper.cells):
        if given is not None and cell.key not in given:
            expected = f"what measure gives: {', '.join(sorted(given))}"
            where = f"cells[{number}].key"
            problems.append(Problem(where, expected, cell.key, nearest(cell.key, given)))
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)
    return found


def check_readings(name: str, paper: Paper, readings: Any, *, complete: bool) -> None:
    """Looks whether what was measured is what the cells ask for.

    Args:
        complete: all runs of the paper are there, so no cell may lack its reading.

    Raises:
        RequestError: it is no mapping of readings by cell key, a cell lacks its own, or a reading
            is no list of numbers, at most one a seed.
    """
    kind, seeds = paper.measure["_target_"], len(paper.seeds)
    problems = []
    if not isinstance(readings, Mapping):
        expected = f"a mapping of readings from {kind}"
        problems.append(Problem("measure", expected, type(readings).__name__))
        readings = {}
        complete = False
    for number, cell in enumerate(paper.cells):
        where = f"cells[{number}].key"
        if cell.key not in readings:
            if complete:
                given = f"it gives {', '.join(map(str, readings)) or 'nothing'}"
                close = nearest(cell.key, [*map(str, readings)]) if readings else None
                problems.append(Problem(where, f"a reading from {kind}", cell.key, close or given))
            continue
        reading = readings[cell.key]
        lists = (getattr(reading, "values", None), getattr(reading, "controls", None))
        if not all(map(_are_numbers, lists)):
            expected = f"a Reading of lists of numbers from {kind}"
            problems.append(Problem(where, expected, str(reading)[:80]))
        elif max(map(len, lists)) > seeds or (complete and not lists[0]):  # type: ignore[arg-type]
            expected = f"a Reading with a value and a control for each of the {seeds} seeds"
            problems.append(Problem(where, f"{expected}, from {kind}", str(reading)[:80]))
    if problems:
        raise RequestError(_in_file(name, paper, problem) for problem in problems)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, Real) for value in values)


def experiments(paper: Paper) -> dict[str, str]:
    """sha256 (hex) of what the experiment files say that the paper's runs name, comments aside."""
    found = {}
    for override in sorted(set().union(*paper.runs.values())):
        key, _, chosen = override.partition("=")
        for name in chosen.split(",") if key == "experiment" else ():
            path = _file("experiment", name, paper.config_dir)
            if path.is_file():
                with _read_as_yaml(_shown(path)):
                    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
                said = json.dumps(plain, sort_keys=True)
                found[name] = hashlib.sha256(said.encode()).hexdigest()
    return found


def problems_of(error: ValidationError, kinds: Sequence[Any]) -> list[Problem]:
    """What pydantic says of plain data, for people.

    Args:
        kinds: the dataclasses that it may describe, for the nearest key.
    """
    return [problem for details in error.errors() for problem in _problems(details, kinds)]


def _problems(details: ErrorDetails, kinds: Sequence[Any]) -> list[Problem]:
    names = {kind.__name__ for kind in kinds}
    where = _key_path(tuple(part for part in details["loc"] if part not in names))
    refused = details.get("ctx", {}).get("error")
    if isinstance(refused, InvalidArguments):
        return [problem.under(where) for problem in refused.problems]
    if details["type"] == "unexpected_keyword_argument":
        known = [f.name for kind in kinds for f in fields(kind)]
        hint = nearest(str(details["loc"][-1]), known)
        return [Problem(where, "a key that is known here", details["input"], hint)]
    if details["type"] == "missing":
        return [Problem(where, "a value: it has no default")]
    return [Problem(where, "a value that fits", details["input"], details["msg"])]


def _key_path(loc: tuple[int | str, ...]) -> str:
    """("cells", 0, "key") as `cells[0].key`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".")


def _in_file(name: str, paper: Paper, problem: Problem) -> Problem:
    return _under(_shown(_file("paper", name, paper.config_dir)), problem)


def _under(where: str, problem: Problem) -> Problem:
    return replace(problem, where=f"{where}: {problem.where}")
