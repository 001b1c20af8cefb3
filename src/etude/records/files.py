"""Atomic writes: files are written under a temporary name, flushed to disk, and renamed."""

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
from etude.records.opening import Kind, open_file, open_parent, read_bytes
from etude.records.storage import try_fsync
from etude.secrets import mask_variables


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Context manager that sets the file name of each `OSError` raised inside it to `path`.

    Python's errors of failed writes, such as those of a full disk, do not name the file.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def temporary_path(path: Path, more: str = "") -> Path:
    """Returns a temporary path next to `path`.

    All temporary files and folders of Étude have names of the same form, so that
    `remove_temporaries` can remove those that killed processes left.

    Args:
        path: final path of the file or folder.
        more: end of the temporary name, such as `-old`.
    """
    return path.with_name(_temporary_name(path.name, more))


def write_text(path: Path, text: str, kind: Kind | None = None) -> None:
    """Writes a text to a file atomically: readers see the old or the new content, even after a
    crash.

    Values of secret environment variables are masked (`etude.secrets.mask_variables`).

    Args:
        path: path of the file.
        text: new content of the file.
        kind: the `Kind` (path and size limit) of a file in a run's folder, where links are not
            followed; None for a file that is not in a run's folder. The size limit applies only
            when a file is read, not here.
    """
    write_bytes(path, mask_variables(text).encode(), kind)


def write_bytes(path: Path, content: bytes, kind: Kind | None = None) -> None:
    """Writes bytes to a file atomically.

    `kind` is as for `write_text`.
    """
    write_parts(path, [content], kind)


def write_parts(path: Path, parts: Iterable[bytes], kind: Kind | None = None) -> None:
    """Writes byte strings, one after the other, to a file; the file is replaced atomically.

    Args:
        path: the file.
        parts: the byte strings. They can come from a generator, so that the content need not fit
            into memory.
        kind: see `write_text`.
    """
    temporary_name = _temporary_name(path.name)
    with naming_errors(path), open_parent(path, 0 if kind is None else kind.depth) as folder:
        try:
            with suppress(FileNotFoundError):  # left by an earlier process with the same process id
                os.unlink(temporary_name, dir_fd=folder)
            with open(_new_file(temporary_name, folder), "wb") as file:
                file.writelines(parts)
                file.flush()
                try_fsync(file.fileno())
            os.replace(temporary_name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary_name, dir_fd=folder)
        try_fsync(folder)


def _temporary_name(name: str, more: str = "") -> str:
    """Returns a temporary name for the file or folder `name`, with `more` at its end.

    The temporary name is unique to this process and thread.
    """
    return f".{name}.tmp-{os.getpid()}-{threading.get_ident()}{more}"


def _new_file(name: str, folder: int) -> int:
    """Creates the file `name` and returns its file descriptor.

    `folder` is the file descriptor of the folder in which the file is created.

    Raises:
        FileExistsError: the name exists. It may be a link, so writing to it could change another
            file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=folder)


def write_json(path: Path, value: Any, kind: Kind | None = None) -> None:
    """Writes a value to a file atomically as indented JSON.

    Values of secret environment variables are masked. `kind` is as for `write_text`.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", kind)


def read_json(path: Path | str, kind: Kind | None = None) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: path of the file.
        kind: the `Kind` (path and size limit) of a file in a run's folder; None for any other file.

    Raises:
        RequestError: the file is missing, is not JSON, or is rejected by `open_file`.
    """
    try:
        return json.loads(read_bytes(path, kind).decode(), parse_int=parse_integer)
    except FileNotFoundError:
        raise RequestError(Problem(str(path), "a JSON file", hint="file not found")) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(Problem(str(path), "valid JSON", hint=str(error))) from error


def parse_integer(digits: str) -> int:
    """Converts a string of digits to an integer.

    It is passed to `json.loads` as the argument `parse_int`.

    Raises:
        ValueError: there are more than 308 digits, which exceeds the range of floats.
    """
    if len(digits) > 308:
        raise ValueError(f"an integer of {len(digits)} digits; at most 308 digits are supported")
    return int(digits)


def unique_keys_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a dictionary from the keys and values of a JSON object.

    It is passed to `json.loads` as the argument `object_pairs_hook`.

    Raises:
        ValueError: a key occurs twice. JSON libraries differ in which of the values they return.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {duplicate!r} in an object")
    return result


@contextmanager
def atomic_folder(destination: Path) -> Iterator[Path]:
    """Context manager that writes the folder `destination` atomically.

    Yields a temporary folder next to `destination`. The caller writes the files there. If the
    `with` block ends without an exception, the files are flushed to disk, an existing destination
    is removed, and the temporary folder is renamed to `destination`. After an exception in
    the block, the temporary folder is removed, and an existing destination stays unchanged.
    """
    partial = temporary_path(destination)
    shutil.rmtree(partial, ignore_errors=True)
    create_folder(destination.parent)
    partial.mkdir()
    try:
        yield partial
        for parent_folder, _, names in os.walk(partial, topdown=False):
            for name in names:
                file = Path(parent_folder, name)  # safetensors creates files with mode 600
                file.chmod(partial.stat().st_mode & 0o666)
                fsync_file(file)
            fsync_folder(Path(parent_folder))
        if destination.exists():
            remove_folder(destination)
        os.rename(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_folder(destination.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder.

    The folder is renamed first, so that no process finds a partly removed folder under its name.
    Files that cannot be removed stay in the renamed folder, without an error.

    Raises:
        OSError: the folder is missing or cannot be renamed.
    """
    doomed = temporary_path(folder, "-old")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


_TEMPORARY = re.compile(r"\..+(\.tmp-(\d+(-\d+)?(-old)?|try)|\.\d+\.(partial|old))")
"""Pattern of names from `temporary_path`, and of temporary names of earlier versions."""


def remove_temporaries(folder: Path, *, of: str | None = None, age: float = 0.0) -> None:
    """Removes temporary files and folders that killed processes left in `folder`.

    Args:
        folder: folder to search; may be missing.
        of: name of one file or folder; only its temporary versions are removed. None removes the
            temporary versions of all names.
        age: minimum age in seconds; newer files are kept, as another process may be writing them.
            0 is safe only for the process that has locked the folder.
    """
    oldest = time.time() - age
    for path in folder.glob(".*" if of is None else f".{glob.escape(of)}.*"):
        with suppress(OSError):  # its writer has removed it meanwhile
            if not _TEMPORARY.fullmatch(path.name) or (age and path.lstat().st_mtime > oldest):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def create_folder(path: Path) -> None:
    """Creates a folder and its missing parents, and flushes their names to disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_folder(folder.parent)


def fsync_file(path: Path) -> None:
    """Flushes a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try_fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Flushes the entries of a folder to disk, so that a rename survives a power failure."""
    fsync_file(path)


def sha256_file(path: Path, kind: Kind | None = None) -> str:
    """Returns the sha256 of a file's content as 64 hexadecimal digits.

    The arguments and the errors are those of `open_file`.
    """
    with open_file(path, kind) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
