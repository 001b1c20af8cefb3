"""Plain text files of one's own: a file, a folder, a glob, or a list of these."""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etude.data.passages import cut
from etude.data.prepare import Passage, Split
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Recipe
from etude.errors import Checks, Problem, RequestError, nearest

SUFFIXES = (".txt", ".md")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Scan:
    """What a file holds: sha256 of its bytes, and its characters after reading as text."""

    sha256: str
    characters: int


class TextFiles(TextData):
    """Each file is a document; the last part of the text is for validation.

    Files are UTF-8. A byte order mark is dropped and every line end is read as a newline, so a
    file saved on Windows gives the same tokens as its Unix twin. The text is the files one after
    the other: those of a folder or a glob sorted by path, a list in its own order, a file that is
    met twice taken once. The first `int(n * (1 - validation))` of its n characters are for
    training, so the file in which that place lies is in both splits. With one file that is the
    split of nanoGPT's Shakespeare.

    Args:
        path: a file (`.txt`, `.md` or no suffix), a folder (its `.txt` and `.md` files at any
            depth, hidden ones left out), a glob (`**` included), or a list of these.
        validation: the part of the characters that is held out, between 0 and 1.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        validation: float = 0.1,
        order: Literal["windows", "epochs"] = "windows",
        workers: int = 0,
    ) -> None:
        self.paths = [path] if isinstance(path, str) else list(path)
        checks = Checks()
        checks.that(
            bool(self.paths) and all(self.paths),
            "path",
            path,
            "a file, a folder, a glob, or a list",
        )
        checks.that(0 < validation < 1, "validation", validation, "a part between 0 and 1")
        super().__init__(
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            batch=batch,
            order=order,
            workers=workers,
            checks=checks,
        )
        self.validation = validation
        self._scans: dict[tuple[Path, int, int], Scan] = {}

    def files(self) -> list[Path]:
        """The files in order.

        Raises:
            RequestError: with every path that can't be used.
        """
        found: dict[Path, Path] = {}
        problems: list[Problem] = []
        for path in self.paths:
            try:
                for file in _resolve(path):
                    found.setdefault(file.resolve(), file)
            except RequestError as error:
                problems += error.problems
        if problems:
            raise RequestError(problems)
        return list(found.values())

    def check(self) -> None:
        problems: list[Problem] = []
        for file in self.files():
            try:
                self._scan(file)
            except RequestError as error:
                problems += error.problems
        if problems:
            raise RequestError(problems)
        if not any(self._scan(file).characters for file in self.files()):
            raise RequestError(Problem("data.path", "text; its files are empty", self.paths))

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(bytes.fromhex(self._scan(file).sha256))
        return digest.hexdigest()

    def split_settings(self) -> dict[str, object]:
        return {"corpus": "text_files", "validation": self.validation}

    def documents(self, split: Split) -> Iterator[str]:
        for file, first, last in self._spans(split):
            yield "".join(_characters(file, first, last))

    def passages(self, split: Split) -> Iterator[Passage]:
        for number, (file, first, last) in enumerate(self._spans(split)):
            for text in cut(_characters(file, first, last)):
                yield number, text

    def _spans(self, split: Split) -> Iterator[tuple[Path, int, int]]:
        """Each file's characters [first, last) that belong to the split, unless there are none."""
        files = self.files()
        counts = [self._scan(file).characters for file in files]
        border = int(sum(counts) * (1 - self.validation))
        start = 0
        for file, count in zip(files, counts, strict=True):
            inside = min(max(border - start, 0), count)
            first, last = (0, inside) if split == "train" else (inside, count)
            if first < last:
                yield file, first, last
            start += count

    def _scan(self, file: Path) -> Scan:
        """One reading serves the checks, the fingerprint and the border of the splits."""
        state = file.stat()
        key = (file, state.st_size, state.st_mtime_ns)
        if key not in self._scans:
            self._scans[key] = scan(file)
        return self._scans[key]


def scan(file: Path) -> Scan:
    """Reads a file through, a chunk at a time.

    Raises:
        RequestError: it can't be read, or isn't UTF-8; with the line and the byte.
    """
    digest = hashlib.sha256()
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), True)
    characters = offset = lines = 0
    try:
        with file.open("rb") as stream:
            while True:
                chunk = stream.read(CHUNK)
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
                    return Scan(digest.hexdigest(), characters)
    except OSError as error:
        problem = Problem(str(file), "a file that can be read", hint=error.strerror)
        raise RequestError(problem) from error


def _characters(file: Path, first: int, last: int) -> Iterator[str]:
    """Characters [first, last) of a file, in chunks."""
    with file.open(encoding="utf-8-sig") as stream:
        while first > 0:
            skipped = len(stream.read(min(first, CHUNK)))
            first, last = first - skipped, last - skipped
        while last > 0 and (text := stream.read(min(last, CHUNK))):
            last -= len(text)
            yield text


def _resolve(typed: str) -> list[Path]:
    path = Path(os.path.expanduser(typed))
    if path.is_file():
        if path.suffix.lower() not in (*SUFFIXES, ""):
            expected = f"a text file: {' or '.join(SUFFIXES)}, or without a suffix"
            raise RequestError(Problem("data.path", expected, typed))
        if path.stat().st_size == 0:
            raise RequestError(Problem("data.path", "a file with text in it; it is empty", typed))
        return [path]
    if path.is_dir():
        inside = [Path(root, name) for root, _, names in os.walk(path) for name in names]
        texts = [file for file in inside if not _hidden(file.relative_to(path))]
        return _texts(texts, SUFFIXES, typed, "a folder with")
    if glob.has_magic(typed):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        return _texts(matches, (*SUFFIXES, ""), typed, "a glob that matches")
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()]
    hint = f"{parent} has no {path.name}"
    close = nearest(path.name, names)
    hint = f"{hint}; {close}" if close else hint
    raise RequestError(Problem("data.path", "a file, a folder or a glob", typed, hint))


def _texts(files: list[Path], suffixes: tuple[str, ...], typed: str, what: str) -> list[Path]:
    texts = sorted(file for file in files if file.suffix.lower() in suffixes and file.is_file())
    if not texts:
        endings = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise RequestError(Problem("data.path", f"{what} text files, {endings}", typed))
    return texts


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
