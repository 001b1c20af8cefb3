"""The runs that a paper's cells are read from: those that are there, and those to be trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path

from etude.analysis.verify import metrics_faults
from etude.api import Run, train_record
from etude.config.checks import Checked
from etude.config.compose import compose
from etude.data.plain import ReadOnce, sha256
from etude.errors import InvalidArguments, Problem, RequestError
from etude.papers import toys
from etude.papers.claims import Paper, named
from etude.records import integrity
from etude.records.record import DONE, Record
from etude.records.signature import signature
from etude.records.status import Status
from etude.sweeps.board import Board
from etude.sweeps.expand import combinations
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, carry_out
from etude.sweeps.pool import Pool, Task, start_method
from etude.sweeps.slots import Slot, slots, visible_gpus
from etude.training.build import check_all
from etude.training.state import folder_of

log = logging.getLogger("etude")

_ONCE = ReadOnce()
"""Files may be large, and are asked for when papers are named and when each is run."""


@dataclass(frozen=True)
class Arm:
    """One run of a paper.

    Attributes:
        name: of the arm that it belongs to.
        seed: of the run.
        number: of the run in the paper.
        label: the arm, what of it is swept, and the seed.
        stated: what `etude train` would be given, with the names of other runs in braces.
        begins: the runs that it begins from, by these names.
        config_dir: a folder of one's own configs.
    """

    name: str
    seed: int
    number: int
    label: str
    stated: list[str]
    begins: Mapping[str, Arm]
    config_dir: Path | None = None

    def overrides(self) -> list[str] | None:
        """With the records of the runs that it begins from; None while these are not there."""
        given = {name: arm.finished() for name, arm in self.begins.items()}
        if None in given.values():
            return None
        return [_filled(one, given) for one in self.stated]

    def folder(self) -> Path | None:
        """Where its record lies or will lie; None while what it begins from is not there.

        Raises:
            RequestError: the overrides do not fit.
        """
        return None if (found := self._place()) is None else found[0]

    def _place(self) -> tuple[Path, str] | None:
        """The folder, and the signature that a record of this run has."""
        checked = self.checked()
        return None if checked is None else (folder_of(checked), signature(checked.identity))

    def checked(self) -> Checked | None:
        """Its config; None while what it begins from is not there.

        Raises:
            RequestError: the overrides do not fit.
        """
        overrides = self.overrides()
        if overrides is None:
            return None
        begun = [arm.folder() for arm in self.begins.values()]
        times = [(path / "run.json").stat().st_mtime_ns for path in begun if path is not None]
        try:
            return _checked(tuple(overrides), tuple(times), self.config_dir)
        except RequestError as error:
            found = [replace(p, where=f"run {self.label}: {p.where}") for p in error.problems]
            raise RequestError(found) from error

    def finished(self) -> Path | None:
        """The record of this run, if it has ended.

        Raises:
            RequestError: the overrides do not fit, or the record is another run's or has been
                changed since.
        """
        place = self._place()
        if place is None:
            return None
        folder, signed = place
        try:
            record = Record.read(folder)
        except RequestError:
            return None
        if record.status not in DONE:  # that it diverges is a result too
            return None
        _check_record(record, signed, self)
        return folder


def _check_record(record: Record, signed: str, arm: Arm) -> None:
    hint = "etude runs rm removes it, and then it is trained again"
    stated = (str(record.info.get("signature"))[:12], record.info.get("seed"))
    if stated != (signed[:12], arm.seed):
        expected = f"the record of {arm.label}, signature {signed[:12]}"
        told = f"signature {stated[0]}, seed {stated[1]}"
        raise RequestError(Problem(str(record.path / "run.json"), expected, told, hint))
    changed = integrity.faults(record.info, record.path)
    if faults := [*changed, *metrics_faults(record, ended=True)]:
        expected = f"a record as training wrote it, of {arm.label}"
        raise RequestError(Problem(str(record.path), expected, hint=f"{faults[0]}; {hint}"))


@lru_cache(maxsize=512)
def _checked(
    overrides: tuple[str, ...], times: tuple[int, ...], config_dir: Path | None
) -> Checked:
    """The config of a run, which is asked for again and again.

    Args:
        times: when the records that it begins from were last written.
    """
    return check_all(compose(overrides, config_dir=config_dir))


def arms_of(
    name: str,
    paper: Paper,
    root: Path,
    *,
    smoke: bool = False,
    files: Path = Path(),
) -> list[Arm]:
    """All runs of a paper, arm by arm, a seed each.

    Args:
        smoke: in the form that only shows that all parts fit together.
        files: the folder of what they need of the user's.

    Raises:
        RequestError: such a file is missing, or is another.
    """
    paths: Mapping[str, Path | None]
    paths = toys.write(root / "_toys") if smoke else paths_of(name, paper, files)
    # Another process that trains one of them is waited for: its run is this paper's too.
    place = [f"name={name}", f"run.root={_quoted(root)}", "run.wait=true"]
    arms: dict[tuple[str, int], Arm] = {}
    found: list[Arm] = []
    for arm, overrides in paper.runs.items():
        own = _short(paper, arm) if smoke else overrides
        own = [_filled(one, paths) for one in own]
        after = [one for one in own if named(one, paper.runs)]
        others = set().union(*(named(one, paper.runs) for one in after))
        swept = combinations([one for one in own if one not in after])
        shared = set.intersection(*map(set, swept))
        for seed in paper.seeds[:1] if smoke else paper.seeds:
            begins = {other: arms[other, seed] for other in others}
            for values in swept:
                stated = [*values, *after, "run.samples=0", f"seed={seed}", *place]
                label = " ".join([arm, *(v for v in values if v not in shared), f"seed={seed}"])
                found.append(Arm(arm, seed, len(found), label, stated, begins, paper.config_dir))
            arms[arm, seed] = found[-1]
    return found


def _short(paper: Paper, arm: str) -> list[str]:
    """The overrides of a run in its short form, in which what that states itself is not swept."""
    short = [*paper.smoke, *paper.smoke_runs.get(arm, ())]
    stated = [_key(one) for one in short]
    given = [one for one in paper.runs[arm] if not named(one, paper.files)]
    kept = [one for one in given if not any(f"{_key(one)}.".startswith(f"{k}.") for k in stated)]
    return [*kept, *short]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def paths_of(name: str, paper: Paper, folder: Path) -> dict[str, Path | None]:
    """The files that a paper needs, found and looked at.

    Raises:
        RequestError: one is missing, or is another.
    """
    problems = []
    for file, needed in paper.files.items():
        path = folder / file
        if not path.is_file():
            hint = f"{needed.says}; --files DIR says where it lies"
            problems.append(Problem(f"{name}: {file}", "a file", str(path), hint))
        elif (found := _ONCE(sha256, path)) != needed.sha256:
            expected = f"{needed.says}, sha256 {needed.sha256}"
            problems.append(Problem(str(path), expected, found))
    if problems:
        raise RequestError(problems)
    return {file: folder / file for file in paper.files}


def _filled(override: str, given: Mapping[str, Path | None]) -> str:
    """An override with paths for the names in braces."""
    for name, path in given.items():
        if path is not None:
            override = override.replace(f"{{{name}}}", _quoted(path))
    return override


def _quoted(path: Path) -> str:
    """As Hydra's grammar takes any text, with nothing in it to be interpolated."""
    text = re.sub(r"\\+(?='|$)", lambda found: 2 * found[0], str(path))
    text = text.replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"


def train_missing(arms: Sequence[Arm], logs: Path, jobs: int | str) -> None:
    """Trains what is not finished, several at once; what one ends with, the others do not feel.

    Args:
        logs: a folder for what the processes print.
        jobs: at once, or `auto`; more than there are GPUs share them.

    Raises:
        RequestError: the overrides of a run do not fit, or `jobs` is no number.
        Interrupted: a signal came; the runs have saved, and the same command goes on.
    """
    gpus = visible_gpus()
    shared = max(1, ceil(jobs / len(gpus))) if gpus and isinstance(jobs, int) else 1
    try:
        places = slots(jobs, shared, gpus=gpus)
    except InvalidArguments as error:
        problems = [replace(problem, where="--jobs") for problem in error.problems]
        raise RequestError(problems) from error
    waiting = list(arms)
    while waiting:
        ready = [arm for arm in waiting if arm.overrides() is not None]
        undone = [arm for arm in ready if arm.finished() is None]
        there = len(ready) - len(undone)
        missing = _different(undone)
        if missing:
            log.info("%s%s", _counted(len(missing)), f", {there} more are there" if there else "")
            _train(missing, logs, places)
        elif len(ready) == len(arms):
            log.info("%s, all of them there", _counted(there))
        waiting = [arm for arm in waiting if arm not in ready]
        if not ready:
            return  # what they begin from has failed


def _counted(runs: int) -> str:
    """So many runs, in words."""
    return f"{runs} run{'' if runs == 1 else 's'}"


def _different(arms: Sequence[Arm]) -> list[Arm]:
    """Without those that are the same run as an earlier one, as in short forms."""
    found: dict[Path | None, Arm] = {}
    for arm in arms:
        found.setdefault(arm.folder(), arm)
    return [*found.values()]


def _train(missing: Sequence[Arm], logs: Path, places: Sequence[Slot]) -> None:
    if start_method() == "fork" and (first := missing[0].checked()) is not None:
        prepare_to_fork(first)
    board = Board(len(missing), len(places))

    def tasks() -> Iterator[Task | None]:
        for number, arm in enumerate(missing, 1):
            overrides = arm.overrides() or []
            job = Job(arm.label, Status.WAITING, overrides=overrides)
            call = partial(_trained, arm.label, overrides, arm.config_dir)
            yield Task(number, job, call, logs / f"{arm.number}-{arm.name}.txt")

    try:
        Pool(places, board, lambda job: None).run(tasks())  # the board tells how each ended
    finally:
        board.close()


def runs_of(arms: Sequence[Arm], trust: Sequence[str] = ()) -> dict[str, list[Run]]:
    """The runs of each arm that have ended, by their seeds; arms without any are left out.

    Where an arm sweeps, a seed that lacks one of its runs is left out: the best of some is not the
    best of all.
    """
    ended = [(arm, arm.finished()) for arm in arms]
    lacking = {(arm.name, arm.seed) for arm, folder in ended if folder is None}
    found: dict[str, list[Run]] = {}
    for arm, folder in ended:
        if folder is not None and (arm.name, arm.seed) not in lacking:
            found.setdefault(arm.name, []).append(Run(Record.read(folder), trust=trust))
    return found


def _trained(label: str, overrides: list[str], config_dir: Path | None) -> Job:
    """In a process of its own."""
    return carry_out(overrides, train_record, label=label, config_dir=config_dir)
