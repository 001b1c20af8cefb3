"""Opens the files of a saved run safely: regular files inside its folder, up to a size limit.

A run's folder may come from any source, so every command and function opens the files in it through
this module. It rejects symbolic links inside the run's folder, FIFOs, sockets, devices, folders
in place of files, and files over the size limit of their kind. No call blocks: FIFOs are not waited
for, and devices are not opened.

Links outside the run's folder are created by the user and are followed: the folder of all runs
(`experiments`), the folder of a run's name, and the run's folder itself may be links to another
disk. Hard links cannot be distinguished from files and are not checked; archives from other sources
cannot create hard links to files outside.

The checks protect against the content of a run's folder, not against a process that changes the
folder while a command runs: the last path component is opened without a race, those above it are
checked one by one.
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
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Kind:
    """Kind of file that Étude saves: its path in the folder of a run, and its size limit.

    Attributes:
        name: path relative to the run's folder; `*` matches one path component.
        largest: maximum size in bytes of a file that is read; larger files are rejected. Writing is
            not limited.
    """

    name: str
    largest: int

    @property
    def depth(self) -> int:
        """Number of folders between the run's folder and the file."""
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
MEASURES = Kind("measures/*.json", 256 * _MIB)
SAMPLE = Kind("samples/*.txt", 16 * _MIB)
FIGURE = Kind("figures/*", 64 * _MIB)
SWEEP = Kind("sweep.json", 256 * _MIB)  # this and the next four: in `_sweeps/<id>/`
RESULTS = Kind("results.csv", 256 * _MIB)
MULTIRUN = Kind("multirun.yaml", 1 * _MIB)
JOURNAL = Kind("optuna.journal", 1 * _GIB)
JOB_LOG = Kind("logs/*.txt", 16 * _GIB)  # only written
RESULT = Kind("result.json", 64 * _MIB)  # this and the next: in `_papers/<paper>/`
REPORT = Kind("report.*", 64 * _MIB)
COMPARISON = Kind("_comparisons/*", 64 * _MIB)  # this and the next: in a root
RANGE_TEST = Kind("_lr/*/*", 64 * _MIB)

KINDS = tuple(value for value in list(vars().values()) if isinstance(value, Kind))
"""All kinds of files; docs/records.md lists their size limits."""


FOREIGN_FOLDERS = frozenset({"wandb"})
"""Folders of other programs directly in a run's folder; W&B creates links in its folder."""


def open_file(path: Path | str, kind: Kind | None, *, links: bool = False) -> BufferedReader:
    """Opens a file for reading.

    Args:
        path: path of the file.
        kind: the `Kind` (path and size limit) of a file in a run's folder. None for any other file:
            it may be a link and has no size limit, but must be a regular file.
        links: whether to follow links, as for a path from the user. The size limit of `kind` still
            applies.

    Raises:
        FileNotFoundError: the file is missing.
        RequestError: the file is not regular, is too large, cannot be read, or its path contains a
            link that is not followed.
    """
    try:
        descriptor = _open(path, kind, os.O_RDONLY, links=links or kind is None)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror
        if isinstance(error, NotADirectoryError):
            reason = f"{Path(path).parent} is not a folder"
        raise RequestError(Problem(str(path), "a readable file", hint=reason)) from error
    size = os.fstat(descriptor).st_size
    if kind is not None and size > kind.largest:
        os.close(descriptor)
        raise size_error(path, kind, size)
    return open(descriptor, "rb")


def read_bytes(path: Path | str, kind: Kind | None, *, links: bool = False) -> bytes:
    """Returns the content of a file. Arguments and errors are those of `open_file`."""
    with open_file(path, kind, links=links) as file:
        if kind is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size  # allocating a buffer of the limit is slow
        content = file.read(size + 1)
        if len(content) > size:
            content += file.read(max(0, kind.largest + 1 - len(content)))
    if len(content) > kind.largest:  # the file has grown meanwhile
        raise size_error(path, kind, len(content))
    return content


def open_for_append(path: Path | str, kind: Kind, *, readable: bool = False) -> IO[bytes]:
    """Opens a file of a run for appending; creates the file if it is missing.

    Args:
        path: path of the file.
        kind: the `Kind` of the file (path and size limit).
        readable: whether the file is also opened for reading.

    Raises:
        RequestError: the file is not regular, or its path inside the run's folder contains a link.
        OSError: the file cannot be written.
    """
    access = os.O_RDWR if readable else os.O_WRONLY
    descriptor = _open(path, kind, access | os.O_APPEND | os.O_CREAT)
    return open(descriptor, "a+b" if readable else "ab")


@contextmanager
def open_parent(path: Path | str, depth: int = 0) -> Iterator[int]:
    """Context manager that opens the folder of a file and yields the folder's descriptor.

    Args:
        path: path of the file.
        depth: number of folders directly above the file that are inside the run's folder; these
            must not be links.

    Raises:
        RequestError: one of the `depth` folders is a link or is not a folder.
        OSError: a folder is missing or cannot be opened.
    """
    *above, base = _components(path, depth)
    descriptor = os.open(base, _FOLDER)
    try:
        for name in reversed(above):
            check_file_type(
                os.stat(name, dir_fd=descriptor, follow_symlinks=False), path, "a folder"
            )
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def make_subfolder(base: Path, *names: str) -> Path:
    """Returns the path of the subfolder `names` of `base`; creates the subfolder if it is missing.

    Args:
        base: the folder of a run, or the folder of all runs (for `_sweeps`, `_papers`, ...); may be
            a link.
        names: path components below `base`, none of which may be a link.

    Raises:
        RequestError: one of the components is a link or is not a folder.
    """
    base.mkdir(parents=True, exist_ok=True)
    folder = base
    for name in names:
        folder = folder / name
        try:
            os.mkdir(folder)
        except FileExistsError:
            check_file_type(os.lstat(folder), folder, "a folder")
    return folder


def list_names(folder: Path, depth: int = 1) -> list[str]:
    """Returns the sorted names of the entries of a folder; an empty list if the folder is missing.

    Args:
        folder: path of the folder, inside the folder of a run.
        depth: number of path components of the folder below the run's folder, such as 1 for
            `checkpoints`; none of them may be a link.

    Raises:
        RequestError: the folder is a link, is not a folder, or cannot be read.
    """
    try:
        with open_parent(folder / "*", depth) as descriptor:
            return sorted(os.listdir(descriptor))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(
            Problem(str(folder), "a readable folder", hint=error.strerror)
        ) from error


def path_exists(path: Path | str) -> bool:
    """Returns whether a path exists; also true for a broken link."""
    return os.path.lexists(path)


def special_entries(folder: Path, apart: Collection[str] = ()) -> Iterator[Problem]:
    """Yields a problem for each entry of a folder that is neither a regular file nor a folder.

    Args:
        folder: the folder of a run; all folders inside it are checked, too.
        apart: names of folders directly in the run's folder whose content is not checked, as it
            comes from other programs.
    """
    for current, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = os.path.join(current, name)
            actual = file_type(os.lstat(path).st_mode)
            if actual not in ("a folder", "a file"):
                yield Problem(path, "a regular file or a folder", hint=f"it is {actual}")
        if os.path.samefile(current, folder):
            folders[:] = [name for name in folders if name not in apart]


def check_file_type(stat_result: os.stat_result, path: Path | str, expected: str) -> None:
    """Checks that a path is a regular file, or that it is a folder.

    Args:
        stat_result: result of `os.stat` or `os.lstat` for the path.
        path: path for the message.
        expected: `a file` or `a folder`.

    Raises:
        RequestError: the path has another type; the message names the type.
    """
    actual = file_type(stat_result.st_mode)
    if actual != expected:
        description = "a regular file" if expected == "a file" else "a folder"
        hint = f"it is {actual}"
        if actual == "a link":
            hint += "; links inside a run's folder are not followed"
        raise RequestError(Problem(str(path), description, hint=hint))


def size_error(path: Path | str, kind: Kind, size: int) -> RequestError:
    """Returns the error for a file that is larger than the size limit in `kind`.

    `size` is the file's size in bytes.
    """
    expected = f"a file of at most {kind.largest:,} bytes"
    return RequestError(Problem(str(path), expected, hint=f"it has {size:,} bytes"))


def _open(path: Path | str, kind: Kind | None, flags: int, *, links: bool = False) -> int:
    if links:
        check_file_type(os.stat(path), path, "a file")
        return _regular(os.open(path, flags | (_SAFE & ~os.O_NOFOLLOW), 0o666), path)
    assert kind is not None
    if not kind.depth:
        return _open_no_link(os.fspath(path), None, path, flags)
    with open_parent(path, kind.depth) as folder:
        return _open_no_link(os.path.basename(path), folder, path, flags)


def _open_no_link(name: str, folder: int | None, path: Path | str, flags: int) -> int:
    try:
        check_file_type(os.stat(name, dir_fd=folder, follow_symlinks=False), path, "a file")
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    return _regular(os.open(name, flags | _SAFE, 0o666, dir_fd=folder), path)


def _regular(descriptor: int, path: Path | str) -> int:
    """Returns an open file descriptor after checking that the open file is a regular file.

    The file at `path` may have been replaced since the path was checked.
    """
    try:
        check_file_type(os.fstat(descriptor), path, "a file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _components(path: Path | str, depth: int) -> list[str]:
    """Returns the names of the `depth` folders above a file, innermost first.

    One more item follows: the path of the folder that contains these folders.
    """
    names = []
    above = os.path.dirname(path)
    for _ in range(depth):
        above, name = os.path.split(above)
        names.append(name)
    return [*names, above or "."]


def file_type(mode: int) -> str:
    """Returns a file's type as text, such as `a folder` or `a link`.

    `mode` is the file's `st_mode` from `os.stat`.
    """
    for test, description in _DESCRIPTIONS:
        if test(mode):
            return description
    return "a special file"


def describe_special_file(path: Path) -> str:
    """Returns a description of a path that is neither a file nor a folder, for a message."""
    if not path.exists():
        return "it is a broken link"
    return f"it is {file_type(path.stat().st_mode)}, not a regular file"


_DESCRIPTIONS: tuple[tuple[Any, str], ...] = (
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
