"""Finding runs by path, signature or name, from the files alone."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable
from etude.records.files import read_json
from etude.records.opening import SWEEP, is_there, kind_of
from etude.records.record import Record
from etude.secrets import in_errors

_EXPECTED = "a path, a signature prefix or a name"


def folders(root: Path, skipped: list[RequestError] | None = None) -> Iterator[Path]:
    """The folder of every record below `root`: a root, a name's folder, or one run. Sorted.

    Args:
        skipped: what could not be looked into is added here: links that lead nowhere, folders that
            cannot be read, FIFOs and the like. Plain files beside records are no mistake.
    """
    skipped = [] if skipped is None else skipped
    if is_record(root):
        yield root
        return
    for name in _entries(root, skipped):
        if is_there(f"{name}/run.json"):
            yield Path(name)
        else:
            for run in _entries(name, skipped):
                if is_record(run):
                    yield Path(run)
                else:
                    _note_odd(run, skipped)


def is_record(folder: Path | str) -> bool:
    """Whether a folder is a record, or one that has lost its `run.json`.

    One whose files are links or no regular files is a damaged record.
    """
    return is_there(f"{folder}/run.json") or (
        is_there(f"{folder}/config.yaml") and is_there(f"{folder}/overrides.yaml")
    )


def check_outside(path: Path, where: str) -> None:
    """Refuses a place in the record of a run, sweep or paper.

    Args:
        where: what the user named it with.

    Raises:
        RequestError: it lies in one.
    """
    for folder in path.resolve().parents:
        if is_record(folder) or folder.parent.name in ("_sweeps", "_papers"):
            expected = "a place outside the records"
            raise RequestError(Problem(where, expected, str(path), f"{folder} is one"))


def scan(root: Path, damaged: list[RequestError] | None = None) -> Iterator[Record]:
    """Every readable record below `root`.

    Args:
        root: as for `folders`.
        damaged: what is wrong with the others is added here, as `Record.read` says it, and what
            `folders` could not look into.
    """
    for folder in folders(root, damaged):
        try:
            yield Record.read(folder)
        except RequestError as error:
            if damaged is not None and is_record(folder):  # not just removed
                damaged.append(error)


def find(run: str, root: Path, *, unfinished: bool = False) -> Record:
    """The record that RUN names: a path, a signature prefix, or a name (its latest finished run).

    Args:
        run: what was typed.
        root: where names and prefixes are looked up.
        unfinished: a name without a finished run means its latest run.

    Raises:
        RequestError: nothing fits, or a prefix fits several; lists the nearest or the candidates.
    """
    fitting = find_folders(run, root)
    if len(fitting) == 1 and not _is_name(run, fitting[0]):
        return Record.read(fitting[0])
    damaged: list[RequestError] = []
    named = [record for folder in fitting for record in scan(folder, damaged)]
    finished = [record for record in named if record.status == "finished"]
    tell_damaged(damaged if named else [])
    if finished:
        return max(finished, key=lambda record: str(record.info.get("finished", "")))
    if named and unfinished:
        return max(named, key=lambda record: str(record.last_start.get("time", "")))
    if not named:
        raise damaged[0]
    states = ", ".join(f"{r.path.name} {r.status}" for r in named[:6])
    raise RequestError(Problem("RUN", "a name with a finished run", run, f"there: {states}"))


def find_folders(run: str, root: Path) -> list[Path]:
    """The folder that RUN names by path or signature, or all those of a name. None is read.

    What below `root` cannot be looked into is reported in one line on standard error.

    Raises:
        RequestError: nothing fits, or a prefix fits several; lists the nearest or the candidates.
    """
    path = Path(os.path.expanduser(run))
    if is_record(path):
        return [path]
    if not root.is_dir():
        raise RequestError(Problem("RUN", "a run; there is no folder of runs yet", str(root)))
    skipped: list[RequestError] = []
    there = list(folders(root, skipped))
    tell_damaged(skipped)
    within, slash, prefix = run.rstrip("/").rpartition("/")  # as `runs list` shows it: name/prefix
    named = [folder for folder in there if folder.parent.name == run]
    if named:
        return named
    if re.fullmatch(r"[0-9a-f]+(~\d+)?" if slash else r"[0-9a-f]{3,}(~\d+)?", prefix):
        fitting = [
            folder
            for folder in there
            if folder.name.startswith(prefix) and (not slash or folder.parent.name == within)
        ]
        exact = [folder for folder in fitting if folder.name == prefix]
        if len(exact or fitting) == 1:
            return exact or fitting
        if fitting:
            listed = ", ".join(f"{f.parent.name}/{f.name}" for f in fitting[:6])
            raise RequestError(Problem("RUN", "a prefix of one run only", run, f"fits {listed}"))
    choices = {folder.parent.name for folder in there} | {folder.name for folder in there}
    raise RequestError(Problem(f"RUN in {root}", _EXPECTED, run, nearest(run, choices)))


def find_finished(runs: Sequence[str], root: Path) -> list[Record]:
    """The records that each RUN names, once each; a name means all its finished runs, in the order
    in which they began.

    Raises:
        RequestError: as `find` does.
    """
    found: dict[Path, Record] = {}
    for run in runs:
        if (swept := _of_a_sweep(Path(os.path.expanduser(run)))) is not None:
            found |= {record.path.absolute(): record for record in swept}
            continue
        fitting = find_folders(run, root)
        records = [find(run, root)]  # refuses a name without a finished run
        if len(fitting) > 1:
            damaged: list[RequestError] = []
            records = [record for folder in fitting for record in scan(folder, damaged)]
            records = [record for record in records if record.status == "finished"]
            records.sort(key=_began)
        elif not _is_name(run, fitting[0]):
            records = [Record.read(fitting[0])]
        for record in records:
            found.setdefault(record.path.absolute(), record)
    return list(found.values())


def _began(record: Record) -> str:
    return str((record.info.get("starts") or [{}])[0].get("time", ""))


def _of_a_sweep(folder: Path) -> list[Record] | None:
    """The finished runs of a sweep's record; None if `folder` is none.

    Jobs whose runs are not there are named in one line on standard error.

    Raises:
        RequestError: it has no finished run.
    """
    if not is_there(folder / "sweep.json"):
        return None
    jobs = read_sweep(folder / "sweep.json").get("jobs", [])
    there = folder.resolve().parent.parent  # the sweep may have been moved with its runs
    places: dict[Path, None] = {}
    missing = []
    for job in jobs:
        if not job.get("path"):
            continue
        with suppress(RequestError):
            place = place_in(there, job["path"])
            if is_record(place):
                places[place] = None
                continue
        missing.append(f"{job.get('key', '?')} ({job['path']})")
    if missing:
        count = "1 job has" if len(missing) == 1 else f"{len(missing)} jobs have"
        told = f"{folder}: {count} no record under {there}: {_listed(missing)}"
        print(printable(in_errors(told), line=True), file=sys.stderr)
    records = [Record.read(place) for place in places]
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise RequestError(Problem("RUN", "a sweep with a finished run", str(folder)))
    return finished


def place_in(root: Path, path: str) -> Path:
    """The folder of a run that a sweep's record names, below `root` whatever the record says.

    Raises:
        RequestError: the path has no name and signature as its last parts.
    """
    name, signature = Path(path).parent.name, Path(path).name
    if not name or not signature or ".." in (name, signature):
        raise RequestError(Problem("path", "a run's folder, name/signature", path, "damaged?"))
    return root / name / signature


def read_sweep(file: Path) -> dict[str, Any]:
    """The content of a sweep's `sweep.json`.

    Raises:
        RequestError: it is missing or damaged.
    """
    info = read_json(file, SWEEP)
    jobs = info.get("jobs", []) if isinstance(info, dict) else None
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise RequestError(Problem(f"{file}: jobs", "a list of jobs", jobs, "damaged?"))
    for job in jobs:
        for key in ("key", "status", "path"):
            if not isinstance(job.get(key, ""), str):
                raise RequestError(Problem(f"{file}: {key}", "a text", job[key], "damaged?"))
    found: dict[str, Any] = info
    return found


def _is_name(run: str, folder: Path) -> bool:
    return run == folder.parent.name and not is_record(os.path.expanduser(run))


def tell_damaged(damaged: Sequence[RequestError]) -> None:
    """One line on standard error about records that could not be read, one about what is none."""
    records = [error for error in damaged if not isinstance(error, Unreadable)]
    others = [error.problems[0] for error in damaged if isinstance(error, Unreadable)]
    if records:
        listed = _listed([_record_of(error.problems[0].where) for error in records])
        count = "1 damaged record" if len(records) == 1 else f"{len(records)} damaged records"
        told = f"{count}: {listed} (etude runs verify)"
        print(printable(told, line=True), file=sys.stderr)
    if others:
        listed = _listed([f"{problem.where} ({problem.hint})" for problem in others])
        print(printable(f"skipped: {listed}", line=True), file=sys.stderr)


class Unreadable(RequestError):
    """Something below a root that is no record and cannot be looked into."""


def _listed(places: Sequence[str]) -> str:
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _record_of(where: str) -> str:
    """`.../nano/aaaa/run.json: format` as `nano/aaaa`."""
    folder = Path(where.partition("/run.json")[0])
    return f"{folder.parent.name}/{folder.name}"


def _entries(folder: Path | str, skipped: list[RequestError]) -> list[str]:
    """What may be records or names in a folder: not `_sweeps`, nor what is being written."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if not entry.name.startswith(("_", ".")))
    except NotADirectoryError:
        _note_odd(folder, skipped)
        return []
    except OSError as error:
        _note(folder, error, skipped)
        return []
    return [os.path.join(folder, name) for name in names]


def _note_odd(place: Path | str, skipped: list[RequestError]) -> None:
    """Notes what is neither a file nor a folder that can be looked into."""
    try:
        mode = os.stat(place).st_mode
    except OSError as error:
        _note(place, error, skipped)
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        skipped.append(Unreadable(Problem(str(place), "a record", hint=f"it is {kind_of(mode)}")))
    elif stat.S_ISDIR(mode) and not os.access(place, os.R_OK | os.X_OK):
        skipped.append(Unreadable(Problem(str(place), "a record", hint="Permission denied")))


def _note(place: Path | str, error: OSError, skipped: list[RequestError]) -> None:
    gone = isinstance(error, FileNotFoundError)
    if gone and not is_there(place):  # removed a moment ago
        return
    hint = "a link that leads nowhere" if gone else error.strerror
    skipped.append(Unreadable(Problem(str(place), "a record", hint=hint)))
