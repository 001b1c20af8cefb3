"""Finding runs by path, signature or name, from the files alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.records.files import read_json
from etude.records.record import Record

_EXPECTED = "a path, a signature prefix or a name"


def folders(root: Path) -> Iterator[Path]:
    """The folder of every record below `root`: a root, a name's folder, or one run. Sorted."""
    if is_record(root):
        yield root
        return
    for name in _entries(root):
        if os.path.exists(f"{name}/run.json"):
            yield Path(name)
        else:
            for run in _entries(name):
                if is_record(run):
                    yield Path(run)


def is_record(folder: Path | str) -> bool:
    """Whether a folder is a record, or one that has lost its `run.json`."""
    return os.path.isfile(f"{folder}/run.json") or (
        os.path.isfile(f"{folder}/config.yaml") and os.path.isfile(f"{folder}/overrides.yaml")
    )


def scan(root: Path, damaged: list[RequestError] | None = None) -> Iterator[Record]:
    """Every readable record below `root`.

    Args:
        root: as for `folders`.
        damaged: what is wrong with the others is added here; `Record.read` says it too.
    """
    for folder in folders(root):
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

    Raises:
        RequestError: nothing fits, or a prefix fits several; lists the nearest or the candidates.
    """
    path = Path(os.path.expanduser(run))
    if is_record(path):
        return [path]
    if not root.is_dir():
        raise RequestError(Problem("RUN", "a run; there is no folder of runs yet", str(root)))
    there = list(folders(root))
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
            records = [record for folder in fitting for record in scan(folder)]
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

    Raises:
        RequestError: it has no finished run.
    """
    if not (folder / "sweep.json").is_file():
        return None
    jobs = read_sweep(folder / "sweep.json").get("jobs", [])
    paths = [Path(job["path"]) for job in jobs if job.get("path")]
    there = folder.resolve().parent.parent  # the sweep may have been moved with its runs
    places = [there / path.parent.name / path.name for path in paths]
    records = [Record.read(place) for place in dict.fromkeys(places) if is_record(place)]
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise RequestError(Problem("RUN", "a sweep with a finished run", str(folder)))
    return finished


def read_sweep(file: Path) -> dict[str, Any]:
    """The content of a sweep's `sweep.json`.

    Raises:
        RequestError: it is missing or damaged.
    """
    info = read_json(file)
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


def _entries(folder: Path | str) -> list[str]:
    """What may be records or names in a folder: not `_sweeps`, nor what is being written."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if not entry.name.startswith(("_", ".")))
    except NotADirectoryError:
        return []
    return [os.path.join(folder, name) for name in names]
