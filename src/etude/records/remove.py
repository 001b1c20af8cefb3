"""Taking records away for good, and nothing but records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from etude.errors import Problem, RequestError, RunHeld
from etude.records.files import temporary
from etude.records.lock import RunLock, is_held
from etude.records.record import Record
from etude.records.tables import print_columns, size_of

_LEFT_BY_TRAINING = ("config.yaml", "overrides.yaml", "checkpoints", "tokenizer.json")
_NOTHING = "nothing was removed"


def must_be_removable(folders: Sequence[Path]) -> None:
    """Refuses what training did not make, as its removal could not be meant, and what is in use.

    A damaged record is one all the same, as its other files tell.

    Raises:
        RequestError: one is a link, or neither its `run.json` nor its other files are a record's.
        RunHeld: a live process holds one.
    """
    problems = []
    for folder in folders:
        if folder.is_symlink() or folder.parent.is_symlink():
            hint = f"a link leads to {folder.resolve()}; name that"
            problems.append(Problem(str(folder), "a record's own folder", hint=hint))
        elif not _is_record(folder):
            problems.append(Problem(str(folder), "a record", hint="its files are not Étude's"))
    if problems:
        raise RequestError(problems)
    for folder in folders:
        if is_held(folder):
            raise RunHeld(f"{folder} is held by a live process", _NOTHING)


def print_what_goes(folders: Sequence[Path]) -> None:
    """A table of the records with their sizes, and the sum."""
    rows = []
    total = 0
    for folder in folders:
        try:
            record = Record.read(folder)
            told = [record.status, record.label]
        except RequestError:
            told = ["damaged", ""]
        count = size(folder)
        total += count
        rows.append([str(folder), *told, size_of(count)])
    print_columns(["run", "status", "label", "size"], rows)
    if len(rows) > 1:
        print(f"{len(rows)} runs, {size_of(total)}")


def size(folder: Path) -> int:
    """Bytes of the files in a folder; links count as links and are not followed."""
    total = 0
    for place, _, files in os.walk(folder):
        total += sum(os.lstat(os.path.join(place, name)).st_size for name in files)
    return total


def remove(folders: Sequence[Path], root: Path) -> None:
    """Removes records, and the folders of names below `root` that are empty then.

    All are locked before the first is removed. A link in a record is removed, not what it leads to.

    Raises:
        RunHeld: a live process holds one of them; none is removed.
        OSError: something could not be removed; what is left is named.
    """
    with ExitStack() as held:
        for folder in folders:
            lock = RunLock(folder)
            try:
                lock.acquire()
            except RunHeld as error:
                raise RunHeld(str(error), _NOTHING) from None
            held.callback(lock.release)
        for folder in folders:
            _remove(folder)
            if folder.parent.parent.resolve() == root.resolve():
                with suppress(OSError):  # other runs have this name
                    folder.parent.rmdir()


def _is_record(folder: Path) -> bool:
    try:
        Record.read(folder)
    except RequestError:
        return any((folder / name).exists() for name in _LEFT_BY_TRAINING)
    return True


def _remove(folder: Path) -> None:
    """The name goes first, so that half a record is never taken for a whole one."""
    doomed = temporary(folder, "-old")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)
