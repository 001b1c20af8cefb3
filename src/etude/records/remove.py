"""Removes records permanently; other folders are rejected."""

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
    """Checks that folders are records and not in use.

    A damaged record is recognized by its other files.

    Raises:
        RequestError: a folder is a link, or neither its `run.json` nor its other files are those of
            a record.
        RunHeld: a live process holds one.
    """
    problems = []
    for folder in folders:
        if folder.is_symlink() or folder.parent.is_symlink():
            hint = f"it is a link to {folder.resolve()}; give that path instead"
            problems.append(Problem(str(folder), "the folder of a record", hint=hint))
        elif not _is_record(folder):
            problems.append(Problem(str(folder), "a record", hint="it contains no files of a run"))
    if problems:
        raise RequestError(problems)
    for folder in folders:
        if is_held(folder):
            raise RunHeld(f"{folder} is held by a live process", _NOTHING_REMOVED)


def print_removal_table(folders: Sequence[Path]) -> None:
    """Prints a table of the records with their sizes, and the total."""
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
    """Returns the bytes of all files in a folder; links count as links and are not followed."""
    total = 0
    for current, _, files in os.walk(folder):
        total += sum(os.lstat(os.path.join(current, name)).st_size for name in files)
    return total


def remove_records(folders: Sequence[Path], root: Path) -> None:
    """Removes records, and folders of names below `root` that become empty.

    All records are locked before the first is removed. Links in a record are removed, not their
    targets.

    Raises:
        RunHeld: a live process holds one of them; none is removed.
        OSError: a file could not be removed; with the remaining path.
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
    """Removes a folder; renames it first, so that no partial record keeps its name."""
    renamed = temporary_path(folder, "-old")
    os.rename(folder, renamed)
    shutil.rmtree(renamed)
