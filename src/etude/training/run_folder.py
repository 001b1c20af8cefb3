"""Folder of a run: its path, free disk space, lock and log file."""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from etude.config import constructors
from etude.config.checks import CheckedConfig
from etude.errors import Problem, RequestError
from etude.records.files import remove_temporaries
from etude.records.lock import RunLock
from etude.records.opening import (
    FOREIGN_FOLDERS,
    LOG,
    list_names,
    make_subfolder,
    open_for_append,
    path_exists,
    special_entries,
)
from etude.records.record import FINAL_STATUSES, Record
from etude.secrets import Mask, MaskingFormatter
from etude.stopping import cleanup_on_kill

WRITTEN_WITHOUT_LOCK = ("evaluations", "predictions", "samples", "figures")
"""Subfolders of a run's folder to which commands write without holding the run's lock."""
_STALE = 3600.0  # seconds after which a temporary file in them is one of a killed process


def current_folder(base: Path, checked: CheckedConfig) -> Path:
    """Returns the folder of the latest run of a config: `base`, or if the run was repeated, `base`
    with the suffix of the last repetition (`~2`, `~3`, ...).

    If this latest run has ended and `run.on_existing` is `again`, returns `base` with the next
    suffix instead.
    """
    count = 1
    while path_exists(_numbered(base, count + 1) / "run.json"):
        count += 1
    latest = _numbered(base, count)
    again = checked.run.on_existing == "again" and path_exists(latest / "run.json")
    return (
        _numbered(base, count + 1)
        if again and Record.read(latest).status in FINAL_STATUSES
        else latest
    )


def _numbered(base: Path, count: int) -> Path:
    return base if count == 1 else base.with_name(f"{base.name}~{count}")


def room_for_checkpoints(folder: Path, weights: int) -> None:
    """Checks before training that the disk has space for two checkpoints, or for one if the folder
    already contains a checkpoint.

    Args:
        folder: The run's folder, which may not exist.
        weights: Size of the weights in bytes. The state of an optimizer with two moments, which is
            twice as large, is added.

    Raises:
        RequestError: There is too little space.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    has_checkpoint = any(name.startswith("step-") for name in list_names(folder / "checkpoints"))
    needed = 3 * weights * (1 if has_checkpoint else 2)
    free = shutil.disk_usage(existing).free
    if free < needed:
        expected = f"a disk with {-(-needed // 2**20)} MiB free for " + (
            "a checkpoint" if has_checkpoint else "two checkpoints"
        )
        value = f"{existing}: {free / 2**20:.0f} MiB free"
        hint = "free disk space, or set run.root to a folder on another disk"
        raise RequestError(Problem("run.root", expected, value, hint))


def cache_folder(checked: CheckedConfig) -> Path:
    """Returns the folder in which prepared data is cached: `run.cache` if it is set, otherwise
    `$ETUDE_CACHE` or `~/.cache/etude`.
    """
    stated = checked.run.cache
    return Path(os.path.expanduser(stated)) if stated else constructors.cache_folder()


@contextmanager
def locked_record(folder: Path, *, wait: bool, force: bool = False) -> Iterator[Record]:
    """Context manager that locks the run's folder and yields it as a `Record`.

    Deletes the folder on exit if it contains no `run.json`.

    Args:
        folder: The run's folder; created if it is missing.
        wait, force: Whether to wait until another process releases the lock, and whether to take
            over a lock left by a process on another host; see `RunLock.acquire`.

    Raises:
        RunHeld: Another process has the lock and `wait` is false, or a process on another host may
            have it and `force` is false.
        RequestError: The folder exists and contains links or special files.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = RunLock(folder)
    lock.acquire(wait=wait, force=force)
    try:
        remove_temporaries(folder)
        check_no_links(folder)
        remove_temporaries(make_subfolder(folder, "checkpoints"))
        for shared in WRITTEN_WITHOUT_LOCK:
            remove_temporaries(folder / shared, age=_STALE)
        record = Record.read(folder) if path_exists(folder / "run.json") else Record(folder)
        with cleanup_on_kill(lambda: _clean_up(folder, new)):
            yield record
    finally:
        _delete_if_empty(folder, new)
        lock.release()


def check_no_links(folder: Path) -> None:
    """Checks that a run's folder contains no links, which could lead outside of the folder, and no
    special files.

    Libraries that write to the folder with their own functions (Lightning's profiler, matplotlib,
    loggers) follow links.

    Raises:
        RequestError: The folder contains links or special files.
    """
    problems = list(islice(special_entries(folder, apart=FOREIGN_FOLDERS), 8))
    if problems:
        raise RequestError(problems)


def _delete_if_empty(folder: Path, new: list[Path]) -> None:
    """Deletes the run's folder, with all files in it, if it contains no `run.json`; then deletes
    the parent folders that were created for it and are empty.

    Args:
        folder: The run's folder.
        new: The folders that did not exist before: the run's folder, and then its parents.
    """
    if not path_exists(folder / "run.json"):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another run is in it by now
            for path in new[1:]:
                path.rmdir()


def _clean_up(folder: Path, new: list[Path]) -> None:
    """Cleans up the run's folder before the process is killed: deletes the folder if it contains no
    `run.json`; otherwise sets the status `interrupted` if the run's status is `running`.

    Args:
        folder: The run's folder.
        new: The folders that did not exist before: the run's folder, and then its parents.
    """
    _delete_if_empty(folder, new)
    if path_exists(folder / "run.json"):
        record = Record.read(folder)
        if record.info.get("status") == "running":
            record.update(status="interrupted")


@contextmanager
def log_to_file(path: Path, mask: Mask | None = None) -> Iterator[None]:
    """Context manager that also writes Étude's log, with tracebacks, to the run's `log.txt`.

    Args:
        path: Path of the log file.
        mask: Object with the values that the config took from environment variables, which are
            masked in the log; None masks no such values.
    """
    stream = io.TextIOWrapper(
        open_for_append(path, LOG), encoding="utf-8", errors="backslashreplace"
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s", mask))
    logger = logging.getLogger("etude")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
        stream.close()
