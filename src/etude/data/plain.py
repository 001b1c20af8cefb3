"""Plain text in files: read through once for what must be known of it, then as characters."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.data.formats import BROKEN, CHUNK, COMPRESSED, open_bytes
from etude.errors import Problem, RequestError


@dataclass(frozen=True)
class Scan:
    """What a file holds: sha256 of its bytes, and its characters after reading as text."""

    sha256: str
    characters: int


def scan(file: Path) -> Scan:
    """Reads a file through, a chunk at a time.

    Raises:
        RequestError: it can't be read, or isn't UTF-8; with the line and the byte (of the text, in
            a compressed file).
    """
    compressed = file.suffix.lower() in COMPRESSED
    with explained(file):
        digest = None if compressed else hashlib.sha256()
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), True)
        characters = offset = lines = 0
        with open_bytes(file) as stream:
            while True:
                chunk = stream.read(CHUNK)
                if digest is not None:
                    digest.update(chunk)
                try:
                    characters += len(decoder.decode(chunk, final=not chunk))
                except UnicodeDecodeError as error:
                    # The decoder may hold bytes of earlier chunks; its data ends where ours does.
                    bad = offset + len(chunk) - len(error.object) + error.start
                    line = lines + chunk[: max(bad - offset, 0)].count(b"\n") + 1
                    where = f"{file}, line {line}, byte {bad}"
                    value = f"0x{error.object[error.start]:02x}"
                    hint = "convert the file, for example with iconv -f latin1 -t utf-8"
                    raise RequestError(Problem(where, "UTF-8 text", value, hint)) from error
                offset += len(chunk)
                lines += chunk.count(b"\n")
                if not chunk:
                    return Scan(digest.hexdigest() if digest else sha256(file), characters)


class ReadOnce:
    """`read(file, *more)`, once as long as the file's size and time stay."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def __call__(self, read: Any, file: Path, *more: Any) -> Any:
        state = file.stat()
        key = (read, file, state.st_size, state.st_mtime_ns)
        if key not in self._known:
            self._known[key] = read(file, *more)
        return self._known[key]


def sha256(file: Path) -> str:
    """sha256 (hex) of the bytes of a file, as they lie on the disk.

    Raises:
        RequestError: it can't be read.
    """
    with explained(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Says what is wrong with `file` where reading it fails."""
    try:
        yield
    except BROKEN as error:
        expected, hint = "a file that can be read", str(error)
        if isinstance(error, OSError) and error.errno is not None:
            hint = error.strerror or hint
        elif (suffix := file.suffix.lower()) in COMPRESSED:
            expected = f"a whole {suffix} file"
            hint = f"it is cut short or damaged: {error}"
        raise RequestError(Problem(str(file), expected, hint=hint)) from error


def characters_of(file: Path, first: int, last: int) -> Iterator[str]:
    """Characters [first, last) of a file, in chunks."""
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream:
        while first > 0:
            skipped = len(stream.read(min(first, CHUNK)))
            first, last = first - skipped, last - skipped
        while last > 0 and (text := stream.read(min(last, CHUNK))):
            last -= len(text)
            yield text
