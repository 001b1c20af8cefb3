"""Reader of rows in JSON files: one object per line, or one list of objects.

Files of both forms are streamed. Duplicate keys in an object are rejected, since programs differ in
which value they use. `NaN` and `Infinity`, which Python writes, are read as numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.data.formats import CHUNK, open_bytes
from etude.data.text_io import LONGEST, convert_read_errors, lines_of, too_long_problem
from etude.errors import Problem, RequestError
from etude.records.files import unique_keys_object

EXPECTED = "JSON with one object per line, or one list of objects"
NEAR = 16  # characters before the end of the buffer in which it may cause an error by truncation


def rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a file in order, each as a pair (position, object).

    The position is text: `line 3` in a file with one object per line, `row 3` in a list. Both are
    counted from 1. Blank lines are skipped, but counted.

    Raises:
        RequestError: if the file is not JSON, contains anything but objects, or an object has a
            duplicate key; the message contains the position.
    """
    if _is_list(file):
        for number, row in enumerate(_List(file), 1):
            yield f"row {number}", row
        return
    for number, line in enumerate(lines_of(file), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = _DECODER.decode(line.rstrip())
        except json.JSONDecodeError as error:
            position = f"{file}, {where}, column {error.colno}"
            raise RequestError(Problem(position, EXPECTED, hint=error.msg)) from error
        except (ValueError, RecursionError) as error:
            raise RequestError(Problem(f"{file}, {where}", EXPECTED, hint=str(error))) from error
        if not isinstance(row, dict):
            raise RequestError(Problem(f"{file}, {where}", EXPECTED, row))
        yield where, row


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys_object)


def _is_list(file: Path) -> bool:
    with (
        convert_read_errors(file),
        io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream,
    ):
        while character := stream.read(1):
            if not character.isspace():
                return character == "["
    return False


class _List:
    """Iterable over the objects of a JSON file with one list, which is read in chunks."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text, self.position = "", 0  # the buffer, and the position of the next character
        self.line, self.column = 1, 1  # of the first character of `text`

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with io.TextIOWrapper(open_bytes(self.file), encoding="utf-8-sig") as self.stream:
            self._expect("[")
            if self._next() == "]":
                self._expect("]")
            else:
                number = 1
                yield self._read_item(number)
                while self._next() == ",":
                    self._expect(",")
                    number += 1
                    yield self._read_item(number)
                self._expect("]")
            if self._next():
                raise self._error("the end of the file after the list")

    def _read_more(self, size: int = CHUNK) -> bool:
        """Reads up to `size` characters into the buffer; returns False at the file's end."""
        done = self.text[: self.position]
        self.line += done.count("\n")
        last = done.rfind("\n")
        self.column = len(done) - last if last >= 0 else self.column + len(done)
        more = self.stream.read(size)
        self.text, self.position = self.text[self.position :] + more, 0
        return bool(more)

    def _read_size(self, held: int) -> int:
        """Returns the number of characters to read next if the buffer ends within a row.

        The number is at least `held`, so that a long row is read with few calls. It is limited to
        about as many characters as are needed to detect that the row is longer than `LONGEST`, the
        maximum number of characters of a row.

        Args:
            held: number of characters of the row that are already in the buffer.
        """
        return min(max(CHUNK, held), LONGEST + CHUNK - held)

    def _next(self) -> str:
        """Skips whitespace and returns the next character without consuming it; "" at the end."""
        while True:
            while self.position < len(self.text):
                if self.text[self.position] not in " \t\r\n":
                    return self.text[self.position]
                self.position += 1
            if not self._read_more():
                return ""

    def _expect(self, character: str) -> None:
        if self._next() != character:
            wanted = "a comma or ]" if character == "]" else character
            raise self._error(f"{EXPECTED}, with {wanted} at this position")
        self.position += 1

    def _read_item(self, number: int) -> dict[str, Any]:
        self._next()
        where = f"{self.file}, row {number}"
        while True:
            try:
                row, end = _DECODER.raw_decode(self.text, self.position)
                if end - self.position > LONGEST:
                    raise RequestError(too_long_problem(where))
                self.position = end
                break
            except json.JSONDecodeError as error:
                begun, at = self.position, error.pos
                cut = error.msg.startswith("Unterminated string") or at > len(self.text) - NEAR
                if cut and len(self.text) - begun > LONGEST:
                    raise RequestError(too_long_problem(where)) from error
                if cut and self._read_more(self._read_size(len(self.text) - begun)):
                    continue
                self.position = at - begun if cut else at
                raise self._error(EXPECTED, error.msg) from error
            except (ValueError, RecursionError) as error:
                raise RequestError(Problem(where, EXPECTED, hint=str(error))) from error
        if not isinstance(row, dict):
            raise RequestError(Problem(where, "a JSON object", row))
        return row

    def _error(self, expected: str, hint: str | None = None) -> RequestError:
        self.position = min(self.position, len(self.text))
        before = self.text[: self.position]
        line = self.line + before.count("\n")
        last = before.rfind("\n")
        column = len(before) - last if last >= 0 else self.column + len(before)
        return RequestError(
            Problem(f"{self.file}, line {line}, column {column}", expected, hint=hint)
        )
