"""Files with a word a line, its properties in columns, and an empty line after each sentence.

CoNLL-U (`.conllu`) is fixed: https://universaldependencies.org/format.html. Of other files
`layout_of` reads from all lines what stands between columns, how many there are, and whether lines
that begin with `#` are comments or words; what the lines leave open has to be stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etude.data.formats import COMPRESSED
from etude.data.plain import lines_of
from etude.errors import Problem, RequestError, nearest

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
DOCUMENT = "-DOCSTART-"
"""The word of a line that begins a document and belongs to no sentence."""

Separator = Literal["tab", "space"]

_ID = re.compile(r"[1-9][0-9]*")
_NON_WORD_ID = re.compile(r"[1-9][0-9]*-[1-9][0-9]*|[0-9]+\.[1-9][0-9]*")
"""CoNLL-U's id of several words in one, `2-3`, or of a word that is not written, `2.1`."""

_UNSPECIFIED = "_"
_NEVER_EMPTY = ("upos", "xpos", "head", "deprel")  # in others `_` means that there are none


@dataclass(frozen=True)
class LayoutOptions:
    """What the config states of the columns; None leaves a thing to be decided."""

    words: int | str | None = None
    tags: int | str | None = None
    separator: Separator | None = None
    comments: bool | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What the columns of a file are.

    Attributes:
        kind: `CoNLL-U` or `CoNLL`.
        separator: `tab`, or `space`: one or more spaces or tabs.
        columns: how many.
        words, tags: which of them, from 0; without tags the latter is None.
        comments: whether a line that begins with `#` before the first word of a sentence is a
            comment; None if there is no such line.
        empty: whether `_` is a tag like any other.
    """

    kind: str
    separator: Separator
    columns: int
    words: int
    tags: int | None
    comments: bool | None
    empty: bool = True

    def __str__(self) -> str:
        told = f"{self.kind}, {self.columns} columns between {self.separator}s, "
        told += f"words in column {self._column_title(self.words)}"
        if self.tags is not None:
            told += f", tags in column {self._column_title(self.tags)}"
        if self.comments is not None:
            told += f", lines that begin with # are {'comments' if self.comments else 'words'}"
        return told

    def _column_title(self, column: int) -> str:
        return f"{column} ({CONLLU[column]})" if self.kind == "CoNLL-U" else str(column)


@dataclass(frozen=True)
class Sentence:
    """Words and their tags; without a column of tags the words stand for these.

    Attributes:
        line: of the first word.
    """

    line: int
    words: list[str]
    tags: list[str]


def is_conllu(file: Path) -> bool:
    """Whether the name says so, compressed or not."""
    return uncompressed_suffix(file) == ".conllu"


def is_conll(file: Path) -> bool:
    """Whether the name says that words stand in lines, CoNLL-U or not, compressed or not."""
    return uncompressed_suffix(file) in (".conllu", ".conll", ".conll2003", ".iob", ".iob2", ".bio")


def uncompressed_suffix(file: Path) -> str:
    """The last one that says no compression; empty without any."""
    suffixes = [each for each in map(str.lower, file.suffixes) if each not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def detect_layout(file: Path, stated: LayoutOptions, tagged: bool = True) -> Layout | None:
    """What the columns of a file are; None if it has no words.

    Args:
        tagged: whether tags are needed.

    Raises:
        RequestError: the lines leave open what has to be known; says what to state.
    """
    if is_conllu(file):
        words, tags = _column("data.words", stated.words, 1), _column("data.tags", stated.tags, 3)
        empty = CONLLU[tags] not in _NEVER_EMPTY or _UNSPECIFIED in stated.labels
        return Layout("CoNLL-U", "tab", 10, words, tags if tagged else None, True, empty)
    return _LayoutDetector(file, stated, tagged).layout()


def check_same_layout(layouts: Sequence[tuple[Path, Layout]], stated: LayoutOptions) -> None:
    """Checks that the files of a data set have the same columns.

    Raises:
        RequestError: two differ; names both.
    """
    problems: list[Problem] = []
    commented = next(((f, x) for f, x in layouts if x.comments is not None), None)
    for file, layout in layouts[1:]:
        first, like = layouts[0]
        columns = stated.words is not None and stated.tags is not None
        if (layout.kind, layout.separator) != (like.kind, like.separator):
            expected = f"{like.kind} between {like.separator}s, as {first} is"
            hint = "data.separator states what stands between columns"
            found = f"{layout.kind} between {layout.separator}s"
            problems.append(Problem(str(file), expected, found, hint))
        elif layout.columns != like.columns and not columns:
            expected = f"{like.columns} columns, as {first} has"
            hint = "data.words and data.tags state the columns, from 0, if both files are right"
            problems.append(Problem(str(file), expected, layout.columns, hint))
        if commented is not None and layout.comments is (not commented[1].comments):
            what = "comments" if commented[1].comments else "words"
            expected = f"lines that begin with # to be {what}, as they are in {commented[0]}"
            problems.append(Problem(str(file), expected, hint="data.comments states it"))
    if problems:
        raise RequestError(problems)


def read_sentences(file: Path, layout: Layout) -> Iterator[Sentence]:
    """The sentences of a file in order.

    Raises:
        RequestError: a line has another number of columns, or lacks its word or its tag.
    """
    first, words, tags, last = 0, [], [], 0
    for number, cells in _lines(file, layout.separator, layout.comments is True):
        where = f"{file}, line {number}"
        if cells and layout.kind == "CoNLL-U":
            _check_conllu(where, cells)
            if _NON_WORD_ID.fullmatch(cells[0]):
                continue
            last += 1
            if cells[0] != str(last):
                expected = f"the id {last}; a sentence begins at 1, after an empty line"
                raise RequestError(Problem(where, expected, cells[0]))
        if cells:
            first = first or number
            words.append(_cell(where, cells, layout.words, layout, "a word"))
            if layout.tags is None:
                tags.append(words[-1])
            else:
                tags.append(_cell(where, cells, layout.tags, layout, "a tag"))
                if tags[-1] == _UNSPECIFIED and not layout.empty:
                    hint = "_ says that there is none; data.labels can name it as a tag"
                    raise RequestError(Problem(where, "a tag", _UNSPECIFIED, hint))
        elif words:
            yield Sentence(first, words, tags)
            first, words, tags, last = 0, [], [], 0
    if words:
        yield Sentence(first, words, tags)


def _check_conllu(where: str, cells: list[str]) -> None:
    if len(cells) != len(CONLLU):
        expected = f"the {len(CONLLU)} columns of CoNLL-U, between tabs"
        raise RequestError(Problem(where, expected, len(cells)))
    if not (_ID.fullmatch(cells[0]) or _NON_WORD_ID.fullmatch(cells[0])):
        raise RequestError(Problem(where, "an id as 2, 2-3 or 2.1", cells[0]))


def _cell(where: str, cells: list[str], column: int, layout: Layout, what: str) -> str:
    if len(cells) != layout.columns:
        expected = f"a word in column {layout.words}"
        if layout.tags is not None:
            expected += f" and its tag in column {layout.tags}"
        expected += f", of {layout.columns} columns between {layout.separator}s"
        line = ("\t" if layout.separator == "tab" else " ").join(cells)
        raise RequestError(Problem(where, expected, line))
    if not cells[column].strip(" "):
        raise RequestError(Problem(where, f"{what} in column {column}", cells[column]))
    return cells[column]


def _lines(file: Path, separator: Separator, comments: bool) -> Iterator[tuple[int, list[str]]]:
    """The lines with their numbers, as cells; no cells where a sentence ends."""
    inside = False
    for number, line in enumerate(lines_of(file), 1):
        cells = split_cells(line, separator)
        if not cells or cells[0] == DOCUMENT:
            inside = False
            yield number, []
        elif inside or not (comments and line.startswith("#")):
            inside = True
            yield number, cells


def split_cells(line: str, separator: str) -> list[str]:
    """The columns of a line; none if nothing but spaces and tabs stands in it.

    No other white space parts columns: a no-break space belongs to its word.
    """
    line = line.removesuffix("\n")
    if not line.strip(" \t"):
        return []
    if separator == "tab":
        return line.split("\t")
    return re.split("[ \t]+", line.strip(" \t"))


class _LayoutDetector:
    """Reads all lines of a file for what its columns are."""

    def __init__(self, file: Path, stated: LayoutOptions, tagged: bool) -> None:
        self.file, self.stated, self.tagged = file, stated, tagged

    def layout(self) -> Layout | None:
        separator = self.stated.separator or self._separator()
        first = next((c for _, c in _lines(self.file, separator, True) if c), None)
        if first is None:
            first = next((c for _, c in _lines(self.file, separator, False) if c), None)
        if first is None:
            return None
        columns = len(first)
        words = self._number("data.words", self.stated.words, 0)
        last = self._number("data.tags", self.stated.tags, -1)
        needed = self.tagged or (columns > 1 and -columns <= last < columns)
        tags = last if needed else None  # a file to be tagged need not have them
        self._check_columns(separator, columns, words, tags)
        words = words % columns
        tags = None if tags is None else tags % columns
        comments = self._comments(separator, columns, tags)
        self._check_meaning(separator, comments is True, words, tags)
        return Layout("CoNLL", separator, columns, words, tags if self.tagged else None, comments)

    def _separator(self) -> Separator:
        """Tabs, if each line has the same number of them; spaces, if no line has one."""
        widths: dict[Separator, set[int]] = {"tab": set(), "space": set()}
        tabs = False
        for line in lines_of(self.file):
            if line.startswith(("#", DOCUMENT)) or not line.strip(" \t\n"):
                continue
            tabs = tabs or "\t" in line
            for separator, found in widths.items():
                found.add(len(split_cells(line, separator)))
        if not tabs:
            return "space"
        if len(widths["tab"]) > 1 and len(widths["space"]) == 1:
            expected = "data.separator to be stated: columns stand between tabs and between spaces"
            hint = "data.separator=space takes both, data.separator=tab tabs alone"
            raise RequestError(Problem(str(self.file), expected, hint=hint))
        return "tab"

    def _number(self, key: str, stated: int | str | None, usual: int) -> int:
        if stated is None:
            return usual
        if not isinstance(stated, int):
            raise RequestError(Problem(key, "the number of a column, from 0", stated))
        return stated

    def _check_columns(
        self, separator: Separator, columns: int, words: int, tags: int | None
    ) -> None:
        there = -columns <= words < columns
        expected = f"a word in column {words}"
        if tags is not None:
            there = there and -columns <= tags < columns and words % columns != tags % columns
            expected += f" and its tag in column {tags}"
        if not there:
            number, cells = next((n, c) for n, c in _lines(self.file, separator, True) if c)
            where = f"{self.file}, line {number}"
            raise RequestError(Problem(where, expected, " ".join(cells)))

    def _comments(self, separator: Separator, columns: int, tags: int | None) -> bool | None:
        """Whether lines that begin with `#` before a sentence are comments.

        Such a line can be a word if it has as many columns as others, and a tag that others have.
        """
        if self.stated.comments is not None:
            return self.stated.comments
        known: set[str] = set()
        marked: list[tuple[int, list[str]]] = []
        inside = False
        for number, line in enumerate(lines_of(self.file), 1):
            cells = split_cells(line, separator)
            if not cells or cells[0] == DOCUMENT:
                inside = False
            elif line.startswith("#") and not inside:
                marked.append((number, cells))
            else:
                inside = True
                if tags is not None and len(cells) == columns and not line.startswith("#"):
                    known.add(cells[tags])
        if not marked:
            return None
        can = [
            number
            for number, cells in marked
            if len(cells) == columns and (tags is None or cells[tags] in known)
        ]
        if not can or len(can) == len(marked):
            return not can
        expected = "data.comments to be stated: this line can be a word, others are comments"
        other = next(number for number, _ in marked if number not in set(can))
        hint = "data.comments=true takes each line that begins with # before a sentence for a "
        hint += f"comment, as line {other} is; data.comments=false takes it for a word"
        raise RequestError(Problem(f"{self.file}, line {can[0]}", expected, hint=hint))

    def _check_meaning(
        self, separator: Separator, comments: bool, words: int, tags: int | None
    ) -> None:
        """Refuses what the usual columns, the first and the last, can't be."""
        if self.stated.words is not None:
            return
        counting, longest, place = True, 0, 0
        seen: tuple[set[str], set[str]] = (set(), set())
        for _, cells in _lines(self.file, separator, comments):
            place = place + 1 if cells else 0
            if cells and words < len(cells):
                counting = counting and cells[words] in (str(place), str(place - 1))
                longest = max(longest, place)
                seen[0].add(cells[words])
                if tags is not None and tags < len(cells):
                    seen[1].add(cells[tags])
        example = next(c for _, c in _lines(self.file, separator, comments) if c)
        shown = ", ".join(f"{n} is {cell}" for n, cell in enumerate(example))
        where = "data.words"
        if counting and longest > 1:
            expected = f"the column of the words; column {words} of {self.file} numbers them"
            raise RequestError(Problem(where, expected, hint=f"column {shown}"))
        if tags is not None and self.stated.tags is None and len(seen[1]) > len(seen[0]):
            expected = f"the columns of words and tags of {self.file} (data.words, data.tags)"
            hint = f"the last has more different values, {len(seen[1]):,}, than the first, "
            hint += f"{len(seen[0]):,}; column {shown}"
            raise RequestError(Problem(where, expected, hint=hint))


def _column(key: str, stated: int | str | None, usual: int) -> int:
    """A column of CoNLL-U by its name or number."""
    if stated is None:
        return usual
    if isinstance(stated, int):
        if not -len(CONLLU) <= stated < len(CONLLU):
            raise RequestError(Problem(key, f"a column from 0 to {len(CONLLU) - 1}", stated))
        return stated % len(CONLLU)
    if stated not in CONLLU:
        problem = Problem(key, "a column of CoNLL-U", stated, nearest(stated, CONLLU))
        raise RequestError(problem)
    return CONLLU.index(stated)
