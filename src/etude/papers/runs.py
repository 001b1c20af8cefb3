"""The runs of a paper: lists the runs, trains the missing runs and opens the finished runs."""

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
from etude.config.checks import CheckedConfig
from etude.config.compose import compose
from etude.counts import counted
from etude.data.text_io import ReadOnce, sha256
from etude.errors import InvalidArguments, Problem, RequestError
from etude.papers import toy_data
from etude.papers.claims import Paper, names_in
from etude.records import integrity
from etude.records.record import FINAL_STATUSES, Record
from etude.records.signature import signature
from etude.records.status import Status
from etude.sweeps.dashboard import Dashboard
from etude.sweeps.expand import combinations
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, run_job
from etude.sweeps.job_slots import JobSlot, job_slots, visible_gpus
from etude.sweeps.pool import JobTask, Pool, start_method
from etude.training.build import check_all
from etude.training.state import run_folder_of

log = logging.getLogger("etude")

_READ_ONCE = ReadOnce()
"""Cache of digests, because large files are checked several times by one command."""


@dataclass(frozen=True)
class PaperRun:
    """One run of a paper: a run of one arm, with one seed and one combination of swept values.

    An arm is a named group of a paper's runs. An override of one arm can contain the name of
    another arm in braces. The name is replaced by the folder of a run of this other arm: the source
    run.

    Attributes:
        name: name of the arm.
        seed: seed of the run.
        number: index of the run among all runs of the paper, from 0.
        label: arm, swept values and seed, for messages.
        stated: overrides for `etude train`, in which names of other arms are in braces.
        sources: dict from each name in braces to the source run.
        config_dir: folder of custom configs; None if there is none.
    """

    name: str
    seed: int
    number: int
    label: str
    stated: list[str]
    sources: Mapping[str, PaperRun]
    config_dir: Path | None = None

    def overrides(self) -> list[str] | None:
        """Returns the overrides; each name in braces is replaced by the folder of its source run.

        Returns None until all source runs have ended.
        """
        paths = {name: run.finished() for name, run in self.sources.items()}
        if None in paths.values():
            return None
        return [_fill_in(override, paths) for override in self.stated]

    def folder(self) -> Path | None:
        """Returns the run's folder; None until its source runs have ended.

        A source run is a run whose folder is part of this run's overrides.

        Raises:
            RequestError: If the overrides are invalid.
        """
        return None if (location := self._location()) is None else location[0]

    def _location(self) -> tuple[Path, str] | None:
        """Returns the run's folder and signature (hash of the config that names the folder).

        Returns None until the runs whose folders are part of this run's overrides have ended.
        """
        checked = self.checked()
        return None if checked is None else (run_folder_of(checked), signature(checked.identity))

    def checked(self) -> CheckedConfig | None:
        """Returns the run's checked config; None until its source runs have ended.

        A source run is a run whose folder is part of this run's overrides.

        Raises:
            RequestError: If the overrides are invalid.
        """
        overrides = self.overrides()
        if overrides is None:
            return None
        folders = [run.folder() for run in self.sources.values()]
        times = [(path / "run.json").stat().st_mtime_ns for path in folders if path is not None]
        try:
            return _checked(tuple(overrides), tuple(times), self.config_dir)
        except RequestError as error:
            problems = [replace(p, where=f"run {self.label}: {p.where}") for p in error.problems]
            raise RequestError(problems) from error

    def finished(self) -> Path | None:
        """Returns the run's folder, or None if the run has not ended.

        A run that diverged has ended, too.

        Raises:
            RequestError: If the overrides are invalid, or the folder contains another run or was
                edited.
        """
        location = self._location()
        if location is None:
            return None
        folder, expected_signature = location
        try:
            record = Record.read(folder)
        except RequestError:
            return None
        if record.status not in FINAL_STATUSES:  # divergence is a result, too
            return None
        _check_record(record, expected_signature, self)
        return folder


def _check_record(record: Record, expected_signature: str, run: PaperRun) -> None:
    hint = "to train the run again, delete its folder with `etude runs rm`"
    stated = (str(record.info.get("signature"))[:12], record.info.get("seed"))
    if stated != (expected_signature[:12], run.seed):
        expected = f"signature {expected_signature[:12]} and seed {run.seed}, "
        expected += f"those of the run {run.label}"
        value = f"signature {stated[0]} and seed {stated[1]}"
        raise RequestError(Problem(str(record.path / "run.json"), expected, value, hint))
    changes = integrity.describe_changes(record.info, record.path)
    if faults := [*changes, *metrics_faults(record, ended=True)]:
        expected = f"the files of the run {run.label}, unchanged since training"
        raise RequestError(Problem(str(record.path), expected, hint=f"{faults[0]}; {hint}"))


@lru_cache(maxsize=512)
def _checked(
    overrides: tuple[str, ...], times: tuple[int, ...], config_dir: Path | None
) -> CheckedConfig:
    """Returns the checked config of a run, from a cache if it was checked before.

    Args:
        overrides: overrides of the run.
        times: modification times, in ns, of the `run.json` of each run whose folder is part of the
            overrides. If a time changes, the config is checked again.
        config_dir: folder of custom configs; None if there is none.
    """
    return check_all(compose(overrides, config_dir=config_dir))


def paper_runs(
    name: str,
    paper: Paper,
    root: Path,
    *,
    smoke: bool = False,
    files: Path = Path(),
) -> list[PaperRun]:
    """Returns all runs of a paper, ordered by arm (named group of runs), seed and swept values.

    The arms and seeds have the order of the paper file. A smoke test uses only the first seed.

    Args:
        name: name of the paper.
        paper: the paper.
        root: root folder of the runs.
        smoke: whether to shorten the runs for a smoke test.
        files: folder of the files that the user provides.

    Raises:
        RequestError: If a file that the user provides is missing or has another SHA-256 than the
            paper states.
    """
    paths: Mapping[str, Path | None]
    paths = toy_data.write_files(root / "_toys") if smoke else find_files(name, paper, files)
    # Waits for another process that trains the same run, and reads that run.
    location = [f"name={name}", f"run.root={_hydra_quoted(root)}", "run.wait=true"]
    last_runs: dict[tuple[str, int], PaperRun] = {}
    runs: list[PaperRun] = []
    for arm, overrides in paper.runs.items():
        own = _smoke_overrides(paper, arm) if smoke else overrides
        own = [_fill_in(override, paths) for override in own]
        dependent = [override for override in own if names_in(override, paper.runs)]
        others = set().union(*(names_in(override, paper.runs) for override in dependent))
        swept = combinations([override for override in own if override not in dependent])
        shared = set.intersection(*map(set, swept))
        for seed in paper.seeds[:1] if smoke else paper.seeds:
            sources = {other: last_runs[other, seed] for other in others}
            for values in swept:
                stated = [*values, *dependent, "run.samples=0", f"seed={seed}", *location]
                label = " ".join([arm, *(v for v in values if v not in shared), f"seed={seed}"])
                runs.append(
                    PaperRun(arm, seed, len(runs), label, stated, sources, paper.config_dir)
                )
            last_runs[arm, seed] = runs[-1]
    return runs


def _smoke_overrides(paper: Paper, arm: str) -> list[str]:
    """Returns an arm's overrides for a smoke test: those of the arm, then those of the smoke test.

    An arm is a named group of the paper's runs. The overrides of the smoke test are in the paper's
    `smoke` and `smoke_runs`. An override of the arm is omitted if one of them sets the same key or
    a key above it, or if the override refers to a file that the user provides.
    """
    smoke = [*paper.smoke, *paper.smoke_runs.get(arm, ())]
    keys = [_key(override) for override in smoke]
    own = [override for override in paper.runs[arm] if not names_in(override, paper.files)]
    kept = [o for o in own if not any(f"{_key(o)}.".startswith(f"{key}.") for key in keys)]
    return [*kept, *smoke]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def find_files(name: str, paper: Paper, folder: Path) -> dict[str, Path | None]:
    """Finds the files that a paper needs, checks their hashes, and returns their paths by name.

    Args:
        name: name of the paper, for errors.
        paper: the paper.
        folder: folder of the files that the user provides.

    Returns:
        A dict from the name of each file to its path, which is never None.

    Raises:
        RequestError: If a file is missing or has another SHA-256 than the paper states.
    """
    problems = []
    for file, needed in paper.files.items():
        path = folder / file
        if not path.is_file():
            hint = f"{needed.says}; to set the folder of the file, add --files DIR"
            problems.append(Problem(f"{name}: {file}", "an existing file", str(path), hint))
        elif (digest := _READ_ONCE(sha256, path)) != needed.sha256:
            expected = f"sha256 {needed.sha256}"
            problems.append(Problem(str(path), expected, f"sha256 {digest}", needed.says))
    if problems:
        raise RequestError(problems)
    return {file: folder / file for file in paper.files}


def _fill_in(override: str, paths: Mapping[str, Path | None]) -> str:
    """Returns an override in which each of the given names in braces is replaced by a path.

    Args:
        override: the override, such as `init_from={base}`.
        paths: dict from names to paths; a name with the path None is not replaced.
    """
    for name, path in paths.items():
        if path is not None:
            override = override.replace(f"{{{name}}}", _hydra_quoted(path))
    return override


def _hydra_quoted(path: Path) -> str:
    """Returns a path quoted for Hydra's grammar, without interpolation."""
    text = re.sub(r"\\+(?='|$)", lambda match: 2 * match[0], str(path))
    text = text.replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"


def train_missing(all_runs: Sequence[PaperRun], logs: Path, jobs: int | str) -> None:
    """Trains the unfinished runs in parallel processes. A failed run doesn't affect the others.

    A failed run stays unfinished, and no error is raised for it. Runs that need its folder are then
    not trained.

    Args:
        all_runs: the paper's runs, finished or not.
        logs: folder for the output of the processes.
        jobs: maximum number of parallel runs. Several runs share a GPU if there are fewer GPUs than
            parallel runs. `auto` is one run on each GPU, or one run without GPUs.

    Raises:
        RequestError: If the overrides of a run are invalid, or `jobs` is not a positive number.
        Interrupted: If a signal was received. The runs have saved their state; the same command
            resumes them.
    """
    gpus = visible_gpus()
    jobs_per_gpu = max(1, ceil(jobs / len(gpus))) if gpus and isinstance(jobs, int) else 1
    try:
        slots = job_slots(jobs, jobs_per_gpu, gpus=gpus)
    except InvalidArguments as error:
        problems = [replace(problem, where="--jobs") for problem in error.problems]
        raise RequestError(problems) from error
    waiting = list(all_runs)
    while waiting:
        ready = [run for run in waiting if run.overrides() is not None]
        unfinished = [run for run in ready if run.finished() is None]
        finished = len(ready) - len(unfinished)
        missing = _distinct(unfinished)
        if missing:
            note = f" ({finished} already finished)" if finished else ""
            log.info("training %s%s", _count_text(len(missing)), note)
            _train(missing, logs, slots)
        elif len(ready) == len(all_runs):
            log.info("%s already finished, nothing to train", _count_text(finished))
        waiting = [run for run in waiting if run not in ready]
        if not ready:
            return  # the runs that they initialise from have failed


def _count_text(runs: int) -> str:
    """Returns `1 run` or `4 runs`."""
    return counted(runs, "run")


def _distinct(runs: Sequence[PaperRun]) -> list[PaperRun]:
    """Returns the runs, without those that have the same folder as an earlier run in `runs`.

    In smoke tests, several runs of a paper can have the same folder. The folder of each run in
    `runs` must be known: its source runs have ended.
    """
    by_folder: dict[Path | None, PaperRun] = {}
    for run in runs:
        by_folder.setdefault(run.folder(), run)
    return [*by_folder.values()]


def _train(missing: Sequence[PaperRun], logs: Path, slots: Sequence[JobSlot]) -> None:
    if start_method() == "fork" and (first := missing[0].checked()) is not None:
        prepare_to_fork(first)
    dashboard = Dashboard(len(missing), len(slots))

    def tasks() -> Iterator[JobTask | None]:
        for number, run in enumerate(missing, 1):
            overrides = run.overrides() or []
            job = Job(run.label, Status.WAITING, overrides=overrides)
            call = partial(_train_one, run.label, overrides, run.config_dir)
            yield JobTask(number, job, call, logs / f"{run.number}-{run.name}.txt")

    try:
        Pool(slots, dashboard, lambda job: None).run(tasks())  # the dashboard shows each result
    finally:
        dashboard.close()


def finished_runs(all_runs: Sequence[PaperRun], trust: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Opens a paper's finished runs, and returns them by the name of their arm, ordered by seed.

    An arm is a named group of the paper's runs. Arms without finished runs are omitted. The
    overrides of an arm can contain a sweep. Then the runs with one seed are omitted unless all of
    them are finished, because the best of some runs may not be the best of all. Runs that diverged
    count as finished.

    Args:
        all_runs: the paper's runs, finished or not.
        trust: custom modules whose classes the runs may use; see `etude.api.load_run`.
    """
    folders = [(run, run.finished()) for run in all_runs]
    incomplete = {(run.name, run.seed) for run, folder in folders if folder is None}
    by_arm: dict[str, list[Run]] = {}
    for run, folder in folders:
        if folder is not None and (run.name, run.seed) not in incomplete:
            by_arm.setdefault(run.name, []).append(Run(Record.read(folder), trust=trust))
    return by_arm


def _train_one(label: str, overrides: list[str], config_dir: Path | None) -> Job:
    """Trains one run in a separate process, and returns the finished job."""
    return run_job(overrides, train_record, label=label, config_dir=config_dir)
