"""Removes saved runs permanently; rejects all other folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from etude.errors import Problem, RequestError, RunHeld
from etude.records.files import temporary_path
from etude.records.lock import RunLock, is_held
from etude.records.record import Record
from etude.records.text_tables import format_bytes, print_columns

_TRAINING_FILES = ("config.yaml", "overrides.yaml", "checkpoints", "tokenizer.json")
_NOTHING_REMOVED = "nothing was removed"


def check_removable(folders: Sequence[Path]) -> None:
    """Checks that folders are those of runs, and that no process is using these runs.

    A run whose `run.json` is damaged is recognized by its other files.

    Raises:
        RequestError: a folder is a link, or contains no files of a run.
        RunHeld: a live process holds the lock of a run.
    """
    problems = []
    for folder in folders:
        if folder.is_symlink() or folder.parent.is_symlink():
            hint = f"the path is a link; give its target, {folder.resolve()}, instead"
            problems.append(Problem(str(folder), "the folder of a run", hint=hint))
        elif not _is_record(folder):
            hint = "the folder contains no files of a run"
            problems.append(Problem(str(folder), "the folder of a run", hint=hint))
    if problems:
        raise RequestError(problems)
    for folder in folders:
        if is_held(folder):
            raise RunHeld(f"{folder} is locked by a running process", _NOTHING_REMOVED)


def print_removal_table(folders: Sequence[Path]) -> None:
    """Prints a table of runs with the sizes of their folders, and the total."""
    rows = []
    total = 0
    for folder in folders:
        try:
            record = Record.read(folder)
            description = [record.status, record.label]
        except RequestError:
            description = ["damaged", ""]
        bytes_used = folder_size(folder)
        total += bytes_used
        rows.append([str(folder), *description, format_bytes(bytes_used)])
    print_columns(["run", "status", "label", "size"], rows)
    if len(rows) > 1:
        print(f"{len(rows)} runs, {format_bytes(total)}")


def folder_size(folder: Path) -> int:
    """Returns the total size in bytes of the files in a folder; links are not followed."""
    total = 0
    for current, _, files in os.walk(folder):
        total += sum(os.lstat(os.path.join(current, name)).st_size for name in files)
    return total


def remove_records(folders: Sequence[Path], root: Path) -> None:
    """Removes the folders of runs.

    If the folder of a run's name, `<root>/<name>`, becomes empty, it is removed, too.

    All runs are locked before the first one is removed. If a run's folder contains a link, the link
    is removed, but not the file or folder to which it leads.

    Raises:
        RunHeld: a live process holds the lock of a run; then no run is removed.
        OSError: a file could not be removed; the error contains its path.
    """
    with ExitStack() as locks:
        for folder in folders:
            lock = RunLock(folder)
            try:
                lock.acquire()
            except RunHeld as error:
                raise RunHeld(str(error), _NOTHING_REMOVED) from None
            locks.callback(lock.release)
        for folder in folders:
            _remove(folder)
            if folder.parent.parent.resolve() == root.resolve():
                with suppress(OSError):  # other runs have the same name
                    folder.parent.rmdir()


def _is_record(folder: Path) -> bool:
    try:
        Record.read(folder)
    except RequestError:
        return any((folder / name).exists() for name in _TRAINING_FILES)
    return True


def _remove(folder: Path) -> None:
    """Removes a folder.

    The folder is renamed first, so that no process finds a partly removed folder under its name.

    Raises:
        OSError: the folder is missing, or a file in it could not be removed.
    """
    renamed = temporary_path(folder, "-old")
    os.rename(folder, renamed)
    shutil.rmtree(renamed)
