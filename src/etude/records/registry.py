"""Finds saved runs by path, signature or name; searches folders, as there is no index."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from etude.counts import counted
from etude.errors import Problem, RequestError, nearest_of
from etude.escaping import printable
from etude.records.files import read_json
from etude.records.opening import SWEEP, file_type, path_exists
from etude.records.record import Record
from etude.secrets import mask_error

_EXPECTED = "a run's path, its name, or the first characters of its signature"


def record_folders(root: Path, skipped: list[RequestError] | None = None) -> Iterator[Path]:
    """Yields the path of the folder of each run in `root`, in sorted order.

    Args:
        root: the folder of all runs, of the runs of one name, or of one run.
        skipped: list to which an error is added for each entry that cannot be read: broken links,
            unreadable folders, FIFOs and the like; None ignores these entries. Regular files next
            to runs are always ignored.
    """
    skipped = [] if skipped is None else skipped
    if is_record(root):
        yield root
        return
    for name in _entries(root, skipped):
        if path_exists(f"{name}/run.json"):
            yield Path(name)
        else:
            for run in _entries(name, skipped):
                if is_record(run):
                    yield Path(run)
                else:
                    _add_special(run, skipped)


def is_record(folder: Path | str) -> bool:
    """Returns whether a folder is the folder of a run, even if its `run.json` is missing.

    The folder must contain `run.json`, or both `config.yaml` and `overrides.yaml`. Only these names
    are checked. If the files are links or special files, the run is reported as damaged later, when
    they are read.
    """
    return path_exists(f"{folder}/run.json") or (
        path_exists(f"{folder}/config.yaml") and path_exists(f"{folder}/overrides.yaml")
    )


def enclosing_record(path: Path) -> Path | None:
    """Returns the path of the run's folder that contains a path; None if no run contains it."""
    clean = Path(os.path.normpath(path))  # `..` is no folder
    return next((folder for folder in clean.parents if is_record(folder)), None)


def check_outside(path: Path, where: str) -> None:
    """Checks that a path is outside the folders of runs, sweeps and papers.

    Args:
        path: path to check.
        where: argument or key that contains the path.

    Raises:
        RequestError: the path is inside the folder of a run, a sweep or a paper.
    """
    for folder in path.resolve().parents:
        if is_record(folder) or folder.parent.name in ("_sweeps", "_papers"):
            expected = "a path outside the folders of runs, sweeps and papers"
            raise RequestError(Problem(where, expected, str(path), f"it is inside {folder}"))


def read_records(root: Path, damaged: list[RequestError] | None = None) -> Iterator[Record]:
    """Reads and yields each readable run below `root`.

    Args:
        root: as for `record_folders`.
        damaged: list to which an error is added for each unreadable run and for each skipped entry
            (see `record_folders`); None ignores these errors.
    """
    for folder in record_folders(root, damaged):
        try:
            yield Record.read(folder)
        except RequestError as error:
            if damaged is not None and is_record(folder):  # it was not removed meanwhile
                damaged.append(error)


def find_record(run: str, root: Path, *, unfinished: bool = False) -> Record:
    """Returns the saved run that the user's argument `run` selects.

    It is a path, the first characters of a run's signature (the hash of its config), or a name. A
    name selects the latest finished run of this name.

    Args:
        run: the user's argument.
        root: folder in which names and signatures are searched.
        unfinished: whether a name without a finished run selects the latest run of this name.

    Raises:
        RequestError: no run matches, or several signatures match; the message suggests names or
            lists the matching runs.
    """
    candidates = find_folders(run, root)
    if len(candidates) == 1 and not _is_name(run, candidates[0]):
        return Record.read(candidates[0])
    damaged: list[RequestError] = []
    matching = [record for folder in candidates for record in read_records(folder, damaged)]
    finished = [record for record in matching if record.status == "finished"]
    report_damaged(damaged if matching else [])
    if finished:
        return max(finished, key=lambda record: str(record.info.get("finished", "")))
    if matching and unfinished:
        return max(matching, key=lambda record: str(record.last_start.get("time", "")))
    if not matching:
        raise damaged[0]
    statuses = ", ".join(f"{r.path.name} {r.status}" for r in matching[:6])
    hint = f"the runs with this name: {statuses}"
    raise RequestError(Problem("run", "a name with at least one finished run", run, hint))


def find_folders(run: str, root: Path) -> list[Path]:
    """Returns the folders of the runs that the user's argument `run` selects.

    A path or a signature selects one run, a name selects all runs of the name. No files of runs are
    read. Entries below `root` that cannot be read are reported in one line on standard error.

    Raises:
        RequestError: no run matches, or several signatures match; the message suggests names or
            lists the matching runs.
    """
    path = Path(os.path.expanduser(run))
    if is_record(path):
        return [path]
    if not root.is_dir():
        hint = f"{root} does not exist; no run was trained there"
        raise RequestError(Problem("run", _EXPECTED, run, hint))
    skipped: list[RequestError] = []
    existing = list(record_folders(root, skipped))
    report_damaged(skipped)
    within, slash, prefix = run.rstrip("/").rpartition("/")  # name/prefix, as in `etude runs list`
    named = [folder for folder in existing if folder.parent.name == run]
    if named:
        return named
    if re.fullmatch(r"[0-9a-f]+(~\d+)?" if slash else r"[0-9a-f]{3,}(~\d+)?", prefix):
        matching = [
            folder
            for folder in existing
            if folder.name.startswith(prefix) and (not slash or folder.parent.name == within)
        ]
        exact = [folder for folder in matching if folder.name == prefix]
        if len(exact or matching) == 1:
            return exact or matching
        if matching:
            listed = ", ".join(f"{f.parent.name}/{f.name}" for f in matching[:6])
            expected = "enough characters of a signature to select one run"
            raise RequestError(Problem("run", expected, run, f"matching runs: {listed}"))
    record = enclosing_record(path)
    if record is not None and (record != Path() or path_exists(str(path))):
        hint = f"the path is inside the run {record}; a checkpoint is chosen by its step"
        raise RequestError(Problem("run", _EXPECTED, run, hint))
    names = {folder.parent.name for folder in existing}
    near = nearest_of(run, names | {folder.name for folder in existing})
    if path.name in names:  # the user typed the folder of all runs of a name
        near = f"did you mean {path.name}?"
    option = "" if root == Path("experiments") else f" --root {root}"
    hint = near or f"`etude runs list{option}` lists all runs"
    raise RequestError(Problem("run", f"{_EXPECTED}, in {root}", run, hint))


def find_finished(runs: Sequence[str], root: Path) -> list[Record]:
    """Returns the saved runs that the user's arguments `runs` select, without duplicates.

    A name selects all its finished runs, in the order in which they were started; the folder of a
    sweep selects all finished runs of the sweep.

    Raises:
        RequestError: an argument selects no finished run; see `find_record`.
    """
    result: dict[Path, Record] = {}
    for run in runs:
        if (swept := _sweep_runs(Path(os.path.expanduser(run)))) is not None:
            result |= {record.path.absolute(): record for record in swept}
            continue
        candidates = find_folders(run, root)
        records = [find_record(run, root)]  # raises for a name without a finished run
        if len(candidates) > 1:
            damaged: list[RequestError] = []
            records = [record for folder in candidates for record in read_records(folder, damaged)]
            records = _finished(records, run)
            records.sort(key=_start_time)
        elif not _is_name(run, candidates[0]):
            records = [Record.read(candidates[0])]
        for record in records:
            result.setdefault(record.path.absolute(), record)
    return list(result.values())


def _start_time(record: Record) -> str:
    return str((record.info.get("starts") or [{}])[0].get("time", ""))


def _sweep_runs(folder: Path) -> list[Record] | None:
    """Returns the finished runs of a sweep; None if `folder` is not the folder of a sweep.

    If runs of the sweep are missing, their jobs are listed in one line on standard error.

    Raises:
        RequestError: the sweep has no finished run.
    """
    if not path_exists(folder / "sweep.json"):
        return None
    jobs = read_sweep(folder / "sweep.json").get("jobs", [])
    root = folder.resolve().parent.parent  # sweeps can be moved with their runs
    run_folders: dict[Path, None] = {}
    missing = []
    for job in jobs:
        if not job.get("path"):
            continue
        with suppress(RequestError):
            run_path = run_folder_in(root, job["path"])
            if is_record(run_path):
                run_folders[run_path] = None
                continue
        missing.append(f"{job.get('key', '?')} ({job['path']})")
    if missing:
        count = (
            "the run of 1 job is" if len(missing) == 1 else f"the runs of {len(missing)} jobs are"
        )
        message = f"{folder}: {count} missing in {root}: {_join_first(missing)}"
        print(printable(mask_error(message), line=True), file=sys.stderr)
    finished = _finished([Record.read(run_path) for run_path in run_folders], str(folder))
    if not finished:
        raise RequestError(Problem("run", "a sweep with at least one finished run", str(folder)))
    return finished


def _finished(records: Sequence[Record], where: str) -> list[Record]:
    """Returns the finished runs among `records`; one line on standard error counts the others.

    Args:
        records: the runs.
        where: the name or the sweep's folder that selected the runs; the line begins with it.
    """
    others = Counter(str(record.status) for record in records if record.status != "finished")
    if others and sum(others.values()) < len(records):
        counts = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
        message = f"{where}: the runs that are not finished are left out ({counts})"
        print(printable(mask_error(message), line=True), file=sys.stderr)
    return [record for record in records if record.status == "finished"]


def run_folder_in(root: Path, path: str) -> Path:
    """Returns the folder of a run of a sweep: `<root>/<name>/<signature>`.

    Name and signature are the last two components of `path`, the run's path in `sweep.json`. `root`
    can differ from the folder in `path`, as the runs may have been moved.

    Raises:
        RequestError: the path does not end in a name and a signature.
    """
    name, signature = Path(path).parent.name, Path(path).name
    if not name or not signature or ".." in (name, signature):
        hint = "sweep.json may be damaged"
        raise RequestError(Problem("path", "a path that ends in NAME/SIGNATURE", path, hint))
    return root / name / signature


def read_sweep(file: Path) -> dict[str, Any]:
    """Returns the content of a sweep's `sweep.json`.

    Raises:
        RequestError: the file is missing or damaged.
    """
    info = read_json(file, SWEEP)
    jobs = info.get("jobs", []) if isinstance(info, dict) else None
    hint = "the file may be damaged"
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise RequestError(Problem(f"{file}: jobs", "a list of jobs", jobs, hint))
    for job in jobs:
        for key in ("key", "status", "path"):
            if not isinstance(job.get(key, ""), str):
                raise RequestError(Problem(f"{file}: {key}", "a string", job[key], hint))
    content: dict[str, Any] = info
    return content


def _is_name(run: str, folder: Path) -> bool:
    return run == folder.parent.name and not is_record(os.path.expanduser(run))


def report_damaged(damaged: Sequence[RequestError]) -> None:
    """Prints the errors of entries that could not be read to standard error.

    Unreadable runs are listed in one line, skipped entries (which are not runs) in another line.
    """
    records = [error for error in damaged if not isinstance(error, UnreadableEntry)]
    others = [error.problems[0] for error in damaged if isinstance(error, UnreadableEntry)]
    if records:
        listed = _join_first([_short_name(error.problems[0].where) for error in records])
        count = counted(len(records), "damaged run")
        message = f"{count}: {listed} (to see the errors, run `etude runs verify`)"
        print(printable(message, line=True), file=sys.stderr)
    if others:
        listed = _join_first([f"{problem.where} ({problem.hint})" for problem in others])
        print(printable(f"skipped: {listed}", line=True), file=sys.stderr)


class UnreadableEntry(RequestError):
    """Error of an entry in a folder of runs: the entry cannot be read, and is not a run.

    Such entries are, for example, FIFOs and broken links.
    """


def _join_first(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _short_name(where: str) -> str:
    """Returns a run's name and the first digits of its signature, such as `nano/aaaa`.

    `where` is the location in an error message, such as `.../nano/aaaa/run.json: format`.
    """
    folder = Path(where.partition("/run.json")[0])
    return f"{folder.parent.name}/{folder.name}"


def _entries(folder: Path | str, skipped: list[RequestError]) -> list[str]:
    """Returns the paths of the entries of a folder that may be runs or folders of runs.

    Names that begin with `_` or `.`, such as `_sweeps` and `.git`, are omitted. The list is empty
    if `folder` is a file or cannot be read; an error is added to `skipped`, unless `folder`
    is a regular file or was removed meanwhile.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(("_", ".")))
    except NotADirectoryError:
        _add_special(folder, skipped)
        return []
    except OSError as error:
        _add_error(folder, error, skipped)
        return []
    return [os.path.join(folder, name) for name in names]


def _add_special(path: Path | str, skipped: list[RequestError]) -> None:
    """Adds an error to `skipped` if a path is neither a file nor a readable folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        _add_error(path, error, skipped)
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        skipped.append(
            UnreadableEntry(
                Problem(str(path), "the folder of a run", hint=f"it is {file_type(mode)}")
            )
        )
    elif stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        expected = "the folder of a run"
        skipped.append(UnreadableEntry(Problem(str(path), expected, hint="Permission denied")))


def _add_error(path: Path | str, error: OSError, skipped: list[RequestError]) -> None:
    is_missing = isinstance(error, FileNotFoundError)
    if is_missing and not path_exists(path):  # removed meanwhile
        return
    hint = "a broken link" if is_missing else error.strerror
    skipped.append(UnreadableEntry(Problem(str(path), "the folder of a run", hint=hint)))
