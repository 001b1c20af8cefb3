"""Opens the files of a record: regular files inside its folder, no larger than their kind may be.

A record may come from anybody, so no command and no function opens a file of one in another way.
Refused are symbolic links below the record's folder, FIFOs, sockets, devices, folders in the place
of files, and files over the limit of their kind. Nothing hangs: a FIFO is not waited for, and a
device is not opened at all.

Links above the record are the user's own arrangement and are followed: the root (`experiments`), a
name's folder and the record's folder itself may be links to another disk. Hard links cannot be told
from files and are not looked for; archives that come from others cannot make them to files outside.

This is a protection against what a record contains, not against a process that changes the record's
folders while a command runs: the last component is opened without a race, those above it are
checked one after the other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from etude.errors import Problem, RequestError

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Kind:
    """A kind of file in a record.

    Attributes:
        name: where it lies, from the record's folder on; `*` stands for one component.
        largest: bytes that a file of this kind may have and still be read.
    """

    name: str
    largest: int

    @property
    def depth(self) -> int:
        """How many folders lie between the record's folder and the file."""
        return self.name.count("/")


RUN = Kind("run.json", 16 * _MIB)
CONFIG = Kind("config.yaml", 256 * _KIB)
OVERRIDES = Kind("overrides.yaml", 256 * _KIB)
METRICS = Kind("metrics.jsonl", 16 * _GIB)  # read line by line; 5 million rows take about 1 GB
TOKENIZER = Kind("tokenizer.json", 64 * _MIB)
PATCH = Kind("source*.patch", 16 * _MIB)
LOG = Kind("log.txt", 16 * _GIB)  # only written
LOCK = Kind(".lock", 64 * _KIB)
MANIFEST = Kind("checkpoints/*/MANIFEST.json", 1 * _MIB)
WEIGHTS = Kind("checkpoints/*/model.safetensors", 256 * _GIB)
STATE = Kind("checkpoints/*/state.pt", 1024 * _GIB)
EVALUATION = Kind("evaluations/*.json", 64 * _MIB)
EVALUATIONS_LOG = Kind("evaluations/log.jsonl", 1 * _GIB)
PREDICTIONS = Kind("predictions/*", 2 * _GIB)
SAMPLE = Kind("samples/*.txt", 16 * _MIB)
FIGURE = Kind("figures/*", 64 * _MIB)
SWEEP = Kind("sweep.json", 256 * _MIB)  # of `_sweeps/<id>/`, as the next ones
RESULTS = Kind("results.csv", 256 * _MIB)
MULTIRUN = Kind("multirun.yaml", 1 * _MIB)
JOURNAL = Kind("optuna.journal", 1 * _GIB)
JOB_LOG = Kind("logs/*.txt", 16 * _GIB)  # only written
RESULT = Kind("result.json", 64 * _MIB)  # of `_papers/<paper>/`, as the next one
REPORT = Kind("report.*", 64 * _MIB)
COMPARISON = Kind("_comparisons/*", 64 * _MIB)  # of a root, as the next one
RANGE_TEST = Kind("_lr/*/*", 64 * _MIB)

KINDS = tuple(value for value in list(vars().values()) if isinstance(value, Kind))
"""All of them: the limits that docs/records.md lists."""


OF_OTHERS = frozenset({"wandb"})
"""Folders directly in a record whose content is another program's: W&B makes links in its own."""


def opened(path: Path | str, kind: Kind | None, *, links: bool = False) -> BufferedReader:
    """A file, opened for reading.

    Args:
        kind: of the record's file that it is; None for a file that is of no record, which may be a
            link and has no limit, but must be a regular file all the same.
        links: follow links, as for a file that the user named; the limit of the kind holds.

    Raises:
        FileNotFoundError: there is none.
        RequestError: it is not a regular file, too large, cannot be read, or a link leads to it.
    """
    try:
        descriptor = _open(path, kind, os.O_RDONLY, links=links or kind is None)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RequestError(
            Problem(str(path), "a file that can be read", hint=error.strerror)
        ) from error
    size = os.fstat(descriptor).st_size
    if kind is not None and size > kind.largest:
        os.close(descriptor)
        raise too_large(path, kind, size)
    return open(descriptor, "rb")


def read_bytes(path: Path | str, kind: Kind | None, *, links: bool = False) -> bytes:
    """The content of a file. Arguments and errors as of `opened`."""
    with opened(path, kind, links=links) as file:
        if kind is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size  # a buffer as large as the limit takes time
        content = file.read(size + 1)
        if len(content) > size:
            content += file.read(max(0, kind.largest + 1 - len(content)))
    if len(content) > kind.largest:  # it has grown
        raise too_large(path, kind, len(content))
    return content


def appended(path: Path | str, kind: Kind, *, readable: bool = False) -> IO[bytes]:
    """A file of a record, opened to write at its end; made if it is missing.

    Args:
        readable: it can be read, too.

    Raises:
        RequestError: it is not a regular file, or a link leads to it.
        OSError: it cannot be written.
    """
    access = os.O_RDWR if readable else os.O_WRONLY
    descriptor = _open(path, kind, access | os.O_APPEND | os.O_CREAT)
    return open(descriptor, "a+b" if readable else "ab")


@contextmanager
def parent(path: Path | str, depth: int = 0) -> Iterator[int]:
    """A descriptor of the folder that holds a file.

    Args:
        depth: how many of the folders above the file are the record's own and may not be links.

    Raises:
        RequestError: one of these is a link, or is not a folder.
        OSError: one is missing, or cannot be opened.
    """
    *above, base = _components(path, depth)
    descriptor = os.open(base, _FOLDER)
    try:
        for name in reversed(above):
            must_be(os.stat(name, dir_fd=descriptor, follow_symlinks=False), path, "a folder")
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def folder_in(base: Path, *names: str) -> Path:
    """The folder of that name inside a record or a root, made if it is missing.

    Args:
        base: the record's folder, or a root for `_sweeps` and the like; may be a link.
        names: of the folders below it, none of which may be.

    Raises:
        RequestError: one of them is a link, or no folder.
    """
    base.mkdir(parents=True, exist_ok=True)
    place = base
    for name in names:
        place = place / name
        try:
            os.mkdir(place)
        except FileExistsError:
            must_be(os.lstat(place), place, "a folder")
    return place


def names_in(folder: Path, depth: int = 1) -> list[str]:
    """The names in a folder of a record, sorted; none where there is no such folder.

    Args:
        depth: how deep it lies in the record: 1 for `checkpoints`.

    Raises:
        RequestError: it is a link or no folder, or cannot be read.
    """
    try:
        with parent(folder / "*", depth) as descriptor:
            return sorted(os.listdir(descriptor))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(
            Problem(str(folder), "a folder that can be read", hint=error.strerror)
        ) from error


def is_there(path: Path | str) -> bool:
    """Whether something has this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def odd_entries(folder: Path, apart: Collection[str] = ()) -> Iterator[Problem]:
    """What in a record's folder is neither a regular file nor a folder.

    Args:
        apart: folders of other programs directly in it, whose content is not looked at.
    """
    for place, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            what = kind_of(os.lstat(path).st_mode)
            if what not in ("a folder", "a file"):
                yield Problem(path, "a regular file or a folder", hint=f"it is {what}")
        if os.path.samefile(place, folder):
            folders[:] = [name for name in folders if name not in apart]


def must_be(found: os.stat_result, path: Path | str, expected: str) -> None:
    """Refuses what is no file, or no folder.

    Raises:
        RequestError: says what it is.
    """
    what = kind_of(found.st_mode)
    if what != expected:
        within = "a regular file" if expected == "a file" else "a folder"
        raise RequestError(Problem(str(path), f"{within} inside the record", hint=f"it is {what}"))


def too_large(path: Path | str, kind: Kind, size: int) -> RequestError:
    """The error of a file over its limit."""
    expected = f"at most {kind.largest:,} bytes"
    return RequestError(Problem(str(path), expected, hint=f"it has {size:,}"))


def _open(path: Path | str, kind: Kind | None, flags: int, *, links: bool = False) -> int:
    if links:
        must_be(os.stat(path), path, "a file")
        return _regular(os.open(path, flags | (_SAFELY & ~os.O_NOFOLLOW), 0o666), path)
    assert kind is not None
    if not kind.depth:
        return _no_link(os.fspath(path), None, path, flags)
    with parent(path, kind.depth) as folder:
        return _no_link(os.path.basename(path), folder, path, flags)


def _no_link(name: str, folder: int | None, path: Path | str, flags: int) -> int:
    try:
        must_be(os.stat(name, dir_fd=folder, follow_symlinks=False), path, "a file")
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    return _regular(os.open(name, flags | _SAFELY, 0o666, dir_fd=folder), path)


def _regular(descriptor: int, path: Path | str) -> int:
    """What was looked at may have been replaced before it was opened."""
    try:
        must_be(os.fstat(descriptor), path, "a file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _components(path: Path | str, depth: int) -> list[str]:
    """The names of `depth` folders above a file, innermost first, and the path of the folder that
    holds them.
    """
    found = []
    above = os.path.dirname(path)
    for _ in range(depth):
        above, name = os.path.split(above)
        found.append(name)
    return [*found, above or "."]


def kind_of(mode: int) -> str:
    """What a mode of `os.stat` says a thing is, in words."""
    for test, said in _SAID:
        if test(mode):
            return said
    return "something else"


def odd(path: Path) -> str:
    """What stands there instead of a file or a folder, for a message."""
    if not path.exists():
        return "it is a link that leads nowhere"
    return f"it is {kind_of(path.stat().st_mode)}, no regular file"


_SAID: tuple[tuple[Any, str], ...] = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _raise(error: OSError) -> None:
    raise error
