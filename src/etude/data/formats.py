"""File formats, derived from file names, and readers of their decompressed bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import zstandard

Kind = Literal["text", "json", "csv", "parquet"]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
CHUNK = 1 << 20
STEP = 1 << 10  # compressed bytes at a time: 4 of them can expand to 128 kB

BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""Exceptions of this module's readers for a file that is truncated, damaged or unreadable."""


@dataclass(frozen=True)
class Format:
    """Format of a file, derived from its name.

    Attributes:
        kind: `text` for plain text; `json`, `csv` (also for TSV) or `parquet` for rows.
        suffix: the suffix in lower case, without that of the compression: `.jsonl` for
            `a.jsonl.gz`.
        compression: `.gz`, `.bz2`, `.xz`, `.zst`, or empty.
    """

    kind: Kind
    suffix: str
    compression: str

    @property
    def rows(self) -> bool:
        """Whether the file is a table, whose rows are the documents."""
        return self.kind != "text"


def format_of(path: Path, *, without_suffix: bool = False) -> Format | None:
    """Returns the format that a file's name indicates, or None if the suffix is unknown.

    Args:
        path: the file; only its name is read.
        without_suffix: whether a name without a suffix means plain text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    suffix = suffixes[-1] if suffixes else ""
    if not suffix:
        return Format("text", "", compression) if without_suffix else None
    kind = KINDS.get(suffix)
    if kind is None or (compression and kind == "parquet"):  # Parquet compresses internally
        return None
    return Format(kind, suffix, compression)


def endings(*, rows: bool = False) -> str:
    """Returns text for messages that lists the supported suffixes, and those of compression.

    Args:
        rows: whether to list only the suffixes of tables.
    """
    suffixes = ", ".join(suffix for suffix, kind in KINDS.items() if not rows or kind != "text")
    return f"{suffixes}; all but .parquet may be compressed ({', '.join(COMPRESSED)})"


def open_bytes(path: Path) -> IO[bytes]:
    """Returns a reader of the decompressed bytes of a file.

    The last suffix of the name sets the compression: `.gz`, `.bz2`, `.xz` or `.zst`. With any
    other suffix, the file is read unchanged. Reading raises one of the exceptions in `BROKEN`, such
    as `EOFError`, if the content is truncated or damaged.
    """
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": lambda path: _buffered(path.open("rb"), bz2.BZ2Decompressor),
        ".xz": lambda path: _buffered(path.open("rb"), lzma.LZMADecompressor, padding=b"\0"),
        ".zst": lambda path: open_zstd(path.open("rb")),
    }
    file: IO[bytes] = openers.get(path.suffix.lower(), lambda path: path.open("rb"))(path)
    return file


def open_zstd(file: IO[bytes], mode: str = "rb") -> IO[bytes]:
    """Returns a reader of the decompressed bytes of a zstd file, which may have several frames.

    Args:
        file: the compressed file.
        mode: mode of the reader, which must contain `r`.

    Raises:
        ValueError: if the mode is not a reading mode.
    """
    if "r" not in mode:
        raise ValueError("zstd files can only be opened for reading")
    return _buffered(file, lambda: zstandard.ZstdDecompressor().decompressobj())


def _buffered(file: IO[bytes], new: Callable[[], Any], padding: bytes = b"") -> IO[bytes]:
    return io.BufferedReader(_Streams(file, new, padding), CHUNK)


class _Streams(io.RawIOBase):
    """Raw reader that decompresses all compressed streams of a file, one after the other.

    It raises an exception where other data follows a stream, or where the file ends within a
    stream. The libraries' own readers stop without an error: for bz2 and xz in the first case, for
    zstd in the second.

    Args:
        file: the compressed bytes.
        new: function that creates the decompressor of one stream.
        padding: the only byte that may occur between streams; empty if none may.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], padding: bytes) -> None:
        self._file, self._new, self._padding = file, new, padding
        self._stream = new()
        self._begun = False  # whether any bytes of the stream were read
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            leftover = self._stream.unused_data if self._stream.eof else b""
            data = leftover or self._file.read(STEP)
            if self._stream.eof:
                self._stream, self._begun = self._new(), False
            if not data:
                if self._begun:
                    raise EOFError("compressed file ended before the end of a stream")
                return 0
            if not self._begun and self._padding:
                data = data.lstrip(self._padding)
                if not data:
                    continue
            self._begun = True
            self._ready = memoryview(self._stream.decompress(data))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
