"""Which files are read, told by their names, and how their bytes are had: plain or compressed."""

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
STEP = 1 << 10  # compressed bytes at a time: 4 of them can stand for 128 kB

BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What the readers below raise for a file that is cut short, damaged or can't be read."""


@dataclass(frozen=True)
class Format:
    """What a file's name says of it.

    Attributes:
        kind: `text`, or rows as JSON, CSV or Parquet.
        suffix: without the compression's, in lower case: `.jsonl` of `a.jsonl.gz`.
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
    """The format that the name of `path` tells, or None.

    Args:
        path: only its name is looked at.
        without_suffix: take a name without a suffix for plain text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    suffix = suffixes[-1] if suffixes else ""
    if not suffix:
        return Format("text", "", compression) if without_suffix else None
    kind = KINDS.get(suffix)
    if kind is None or (compression and kind == "parquet"):  # is compressed within
        return None
    return Format(kind, suffix, compression)


def endings(*, rows: bool = False) -> str:
    """All that can be read, for a message; with `rows` those of tables alone."""
    plain = ", ".join(suffix for suffix, kind in KINDS.items() if not rows or kind != "text")
    return f"{plain}; all but the last also with {', '.join(COMPRESSED)}"


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, decompressed as its last suffix says.

    Reading raises one of `BROKEN` where the content ends too early or is damaged.
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
    """A reader of all frames of a zstd file.

    Raises:
        ValueError: a mode other than reading.
    """
    if "r" not in mode:
        raise ValueError("only for reading")
    return _buffered(file, lambda: zstandard.ZstdDecompressor().decompressobj())


def _buffered(file: IO[bytes], new: Callable[[], Any], padding: bytes = b"") -> IO[bytes]:
    return io.BufferedReader(_Streams(file, new, padding), CHUNK)


class _Streams(io.RawIOBase):
    """Decompresses all streams of a file, one after the other.

    The libraries' own readers stop in silence where something else follows a stream (bz2, xz), or
    where the file ends within one (zstd).

    Args:
        file: the compressed bytes.
        new: makes the decompressor of one stream.
        padding: the byte that may stand between streams; empty allows none.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], padding: bytes) -> None:
        self._file, self._new, self._padding = file, new, padding
        self._stream = new()
        self._begun = False  # whether the stream has any bytes yet
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            rest = self._stream.unused_data if self._stream.eof else b""
            data = rest or self._file.read(STEP)
            if self._stream.eof:
                self._stream, self._begun = self._new(), False
            if not data:
                if self._begun:
                    raise EOFError("Compressed file ended before the end of a stream")
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
