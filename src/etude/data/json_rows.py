"""Rows of JSON: an object a line, or one list of objects. Neither is read as a whole.

A name that an object has twice is refused: which of both values counts, programs decide
differently. `NaN` and `Infinity`, which Python writes for numbers, are read as such.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.data.formats import CHUNK, open_bytes
from etude.data.plain import LONGEST, explained, lines_of, too_long
from etude.errors import Problem, RequestError
from etude.records.files import each_key_once

EXPECTED = "JSON: an object a line, or one list of objects"
NEAR = 16  # characters before the end of what was read, in which an error can come from the cut


def rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects of the file in order, and where each is: `line 3`, or of a list `row 3`.

    Raises:
        RequestError: it is no JSON, holds something other than objects, or an object has a name
            twice; says where.
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
            place = f"{file}, {where}, column {error.colno}"
            raise RequestError(Problem(place, EXPECTED, hint=error.msg)) from error
        except (ValueError, RecursionError) as error:
            raise RequestError(Problem(f"{file}, {where}", EXPECTED, hint=str(error))) from error
        if not isinstance(row, dict):
            raise RequestError(Problem(f"{file}, {where}", EXPECTED, row))
        yield where, row


_DECODER = json.JSONDecoder(object_pairs_hook=each_key_once)


def _is_list(file: Path) -> bool:
    with explained(file), io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as stream:
        while character := stream.read(1):
            if not character.isspace():
                return character == "["
    return False


class _List:
    """The objects of a file that is one list, read a piece at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text, self.place = "", 0  # what was read, and how far it is done with
        self.line, self.column = 1, 1  # of the first character of `text`

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with io.TextIOWrapper(open_bytes(self.file), encoding="utf-8-sig") as self.stream:
            self._take("[")
            if self._next() == "]":
                self._take("]")
            else:
                number = 1
                yield self._item(number)
                while self._next() == ",":
                    self._take(",")
                    number += 1
                    yield self._item(number)
                self._take("]")
            if self._next():
                raise self._error("the end of the file after the list")

    def _more(self, size: int = CHUNK) -> bool:
        """Reads on; False at the end of the file."""
        done = self.text[: self.place]
        self.line += done.count("\n")
        last = done.rfind("\n")
        self.column = len(done) - last if last >= 0 else self.column + len(done)
        more = self.stream.read(size)
        self.text, self.place = self.text[self.place :] + more, 0
        return bool(more)

    def _step(self, held: int) -> int:
        """How much to read on, where so many characters of a row are held: as much again, but no
        more than shows that the row is too long.
        """
        return min(max(CHUNK, held), LONGEST + CHUNK - held)

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self.place < len(self.text):
                if self.text[self.place] not in " \t\r\n":
                    return self.text[self.place]
                self.place += 1
            if not self._more():
                return ""

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"{EXPECTED}; here {character}")
        self.place += 1

    def _item(self, number: int) -> dict[str, Any]:
        self._next()
        where = f"{self.file}, row {number}"
        while True:
            try:
                row, end = _DECODER.raw_decode(self.text, self.place)
                if end - self.place > LONGEST:
                    raise RequestError(too_long(where))
                self.place = end
                break
            except json.JSONDecodeError as error:
                begun, at = self.place, error.pos
                cut = error.msg.startswith("Unterminated string") or at > len(self.text) - NEAR
                if cut and len(self.text) - begun > LONGEST:
                    raise RequestError(too_long(where)) from error
                if cut and self._more(self._step(len(self.text) - begun)):
                    continue
                self.place = at - begun if cut else at
                raise self._error(EXPECTED, error.msg) from error
            except (ValueError, RecursionError) as error:
                raise RequestError(Problem(where, EXPECTED, hint=str(error))) from error
        if not isinstance(row, dict):
            raise RequestError(Problem(where, "an object", row))
        return row

    def _error(self, expected: str, hint: str | None = None) -> RequestError:
        self.place = min(self.place, len(self.text))
        before = self.text[: self.place]
        line = self.line + before.count("\n")
        last = before.rfind("\n")
        column = len(before) - last if last >= 0 else self.column + len(before)
        return RequestError(
            Problem(f"{self.file}, line {line}, column {column}", expected, hint=hint)
        )
