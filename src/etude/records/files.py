"""Files that are whole or not there: written beside their place, flushed to disk, renamed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records.opening import Kind, opened, parent, read_bytes
from etude.records.storage import sync
from etude.secrets import without_variables


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system within name `path`: of a write it does not say which file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def temporary(path: Path, more: str = "") -> Path:
    """The name, beside `path`, of what this process is about to put there or takes away from there.

    Every temporary file and folder has such a name, so that `sweep_temporaries` removes what a
    killed process left.
    """
    return path.with_name(_beside(path.name, more))


def write_text(path: Path, text: str, kind: Kind | None = None) -> None:
    """Replaces the file at once: a reader sees the old content or the new, also after a crash.

    No value of a secret variable gets into it (`etude.secrets.without_variables`).

    Args:
        kind: of the record's file that it is: no link inside the record is followed. None for a
            file that is of no record.
    """
    write_bytes(path, without_variables(text).encode(), kind)


def write_bytes(path: Path, content: bytes, kind: Kind | None = None) -> None:
    """`write_text` of bytes."""
    write_parts(path, [content], kind)


def write_parts(path: Path, parts: Iterable[bytes], kind: Kind | None = None) -> None:
    """`write_bytes` of what need not fit into memory at once."""
    beside = _beside(path.name)
    with naming(path), parent(path, 0 if kind is None else kind.depth) as folder:
        try:
            with suppress(FileNotFoundError):  # of an earlier process with this number
                os.unlink(beside, dir_fd=folder)
            with open(_new_file(beside, folder), "wb") as file:
                file.writelines(parts)
                file.flush()
                sync(file.fileno())
            os.replace(beside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=folder)
        sync(folder)


def _beside(name: str, more: str = "") -> str:
    """A temporary name that no other process and no other thread uses."""
    return f".{name}.tmp-{os.getpid()}-{threading.get_ident()}{more}"


def _new_file(name: str, folder: int) -> int:
    """A file that nobody else has made, so that no link of this name is followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=folder)


def write_json(path: Path, value: Any, kind: Kind | None = None) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", kind)


def read_json(path: Path | str, kind: Kind | None = None) -> Any:
    """The value in a JSON file.

    Args:
        kind: of the record's file that it is; None for a file that is of no record.

    Raises:
        RequestError: the file is missing, is no JSON, or is none that `opened` opens; names the
            file and the line.
    """
    try:
        return json.loads(read_bytes(path, kind).decode(), parse_int=whole_number)
    except FileNotFoundError:
        raise RequestError(Problem(str(path), "a JSON file", hint="it is not there")) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(Problem(str(path), "valid JSON", hint=str(error))) from error


def whole_number(digits: str) -> int:
    """A whole number of JSON, as `json.loads` takes it for `parse_int`.

    Raises:
        ValueError: no float is as large, so nothing can be computed with it.
    """
    if len(digits) > 308:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as `json.loads` takes it for `object_pairs_hook`.

    Raises:
        ValueError: a key stands in it twice: readers take different values of it.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder that appears under its name only when everything in it is on the disk.

    Yields a temporary folder beside `destination`; on a clean exit its files are flushed and it is
    renamed (replacing nothing: an existing destination is moved away first and removed).
    """
    beside = temporary(destination)
    shutil.rmtree(beside, ignore_errors=True)
    make_folder(destination.parent)
    beside.mkdir()
    try:
        yield beside
        for place, _, names in os.walk(beside, topdown=False):
            for name in names:
                file = Path(place, name)  # safetensors' are for their owner alone
                file.chmod(beside.stat().st_mode & 0o666)
                fsync_file(file)
            fsync_folder(Path(place))
        if destination.exists():
            remove_folder(destination)
        os.rename(beside, destination)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    fsync_folder(destination.parent)


def remove_folder(folder: Path) -> None:
    """Takes the name away first, so that a half-removed folder is never taken for a whole one."""
    doomed = temporary(folder, "-old")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


_TEMPORARY = re.compile(r"\..+(\.tmp-(\d+(-\d+)?(-old)?|try)|\.\d+\.(partial|old))")
"""What `temporary` names, and what versions before it did."""


def sweep_temporaries(folder: Path, *, of: str | None = None, age: float = 0.0) -> None:
    """Removes temporary files and folders that killed processes left in `folder`.

    Args:
        folder: may be missing.
        of: only those of this file or folder.
        age: only those that nobody has written to for so many seconds. 0 is for the folder's
            holder: nobody else writes there.
    """
    oldest = time.time() - age
    for path in folder.glob(".*" if of is None else f".{glob.escape(of)}.*"):
        with suppress(OSError):  # its writer has just removed it
            if not _TEMPORARY.fullmatch(path.name) or (age and path.lstat().st_mtime > oldest):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it that are missing; their names survive a power cut."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in new:
        fsync_folder(each.parent)


def fsync_file(path: Path) -> None:
    """Flushes a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Flushes a folder's list of names, so that a rename in it survives a power cut."""
    fsync_file(path)


def sha256_file(path: Path, kind: Kind | None = None) -> str:
    """The file's sha256, 64 hex digits. Arguments and errors as of `opened`."""
    with opened(path, kind) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
