"""Text files: scanning, and reading as characters or lines."""

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

LONGEST = 1 << 25
"""Maximum number of characters of a line or a row that is read as a whole: 33,554,432."""

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Scan:
    """Result of scanning a file: sha256 of its bytes, and the number of characters of its text."""

    sha256: str
    characters: int


def scan(file: Path) -> Scan:
    """Returns the hash and the length of a text file, and checks that the text is UTF-8.

    The file is read a chunk at a time.

    Raises:
        RequestError: if the file can't be read or is not UTF-8; the message contains the line and
            the byte (of the decompressed text).
    """
    compressed = file.suffix.lower() in COMPRESSED
    with convert_read_errors(file):
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
                    is_utf16 = bad == 0 and chunk.startswith(UTF16)
                    command = "iconv -f utf-16 -t utf-8"
                    if not is_utf16:
                        command = "iconv -f gb18030 -t utf-8 (Chinese) or iconv -f latin1 -t utf-8 "
                        command += "(Western European)"
                    hint = f"convert the file from its encoding, for example with {command}"
                    raise RequestError(Problem(where, "UTF-8 text", value, hint)) from error
                offset += len(chunk)
                lines += chunk.count(b"\n")
                if not chunk:
                    return Scan(digest.hexdigest() if digest else sha256(file), characters)


class ReadOnce:
    """Cache of the results of functions that read a file.

    Calling the cache with `read`, `file` and `more` returns `read(file, *more)`. A result is reused
    until the file's size or modification time changes; `more` must be the same in all calls for a
    file.
    """

    def __init__(self) -> None:
        self._results: dict[tuple[Any, ...], Any] = {}

    def __call__(self, read: Any, file: Path, *more: Any) -> Any:
        state = file.stat()
        key = (read, file, state.st_size, state.st_mtime_ns)
        if key not in self._results:
            self._results[key] = read(file, *more)
        return self._results[key]


def sha256(file: Path) -> str:
    """Returns the sha256 (hex) of a file's bytes, without decompression.

    Raises:
        RequestError: if the file can't be read.
    """
    with convert_read_errors(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def convert_read_errors(file: Path) -> Iterator[None]:
    """Context manager that converts read errors of `file` into a `RequestError` with its path.

    Read errors are the exceptions in `etude.data.formats.BROKEN`, for a file that is unreadable,
    truncated or damaged. Invalid UTF-8 is not among them.
    """
    try:
        yield
    except BROKEN as error:
        expected, hint = "a readable file", str(error)
        if isinstance(error, OSError) and error.errno is not None:
            hint = error.strerror or hint
        elif (suffix := file.suffix.lower()) in COMPRESSED:
            expected = f"a complete {suffix} file"
            hint = f"the file is truncated or damaged: {error}"
        raise RequestError(Problem(str(file), expected, hint=hint)) from error


def characters_of(file: Path, first: int, last: int) -> Iterator[str]:
    """Yields the characters at positions `first` to `last` - 1 of a text file, in chunks.

    Positions are counted from 0. A byte order mark is not a character. If the file ends before
    `last`, its end is the end of the text.
    """
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream:
        while first > 0:
            skipped = len(stream.read(min(first, CHUNK)))
            first, last = first - skipped, last - skipped
        while last > 0 and (text := stream.read(min(last, CHUNK))):
            last -= len(text)
            yield text


def lines_of(file: Path) -> Iterator[str]:
    """Yields the lines of a text file, each with its newline.

    The last line has no newline if the file doesn't end with one. Every kind of line end is read as
    a newline.

    Raises:
        RequestError: if the file is damaged, is not UTF-8, or has a line of more than `LONGEST`
            characters; the message contains the line number.
    """
    with (
        convert_read_errors(file),
        io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream,
    ):
        number = 0
        try:
            while line := stream.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise RequestError(too_long_problem(f"{file}, line {number}"))
                yield line
        except UnicodeDecodeError:
            scan(file)  # reports the line and the byte
            raise


def too_long_problem(where: str) -> Problem:
    """Returns the problem to report for a line or row of more than `LONGEST` characters.

    Args:
        where: file and position of the line or row.
    """
    hint = "lines of plain text may be longer if data.lines is false"
    return Problem(where, f"at most {LONGEST:,} characters in a line or a row", hint=hint)
