"""Reading of CoNLL files: one word per line, its properties in columns, an empty line after each
sentence.

CoNLL-U (`.conllu`) has a fixed layout: https://universaldependencies.org/format.html. For other
files `detect_layout` detects from all lines the separator and number of columns, and whether lines
that start with `#` are comments or words. What the lines don't determine must be set in the config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etude.data.formats import COMPRESSED
from etude.data.text_io import lines_of
from etude.errors import Problem, RequestError, nearest

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
DOCUMENT = "-DOCSTART-"
"""First cell of a line that starts a document. Such a line belongs to no sentence."""

Separator = Literal["tab", "space"]

_ID = re.compile(r"[1-9][0-9]*")
_NON_WORD_ID = re.compile(r"[1-9][0-9]*-[1-9][0-9]*|[0-9]+\.[1-9][0-9]*")
"""CoNLL-U's id of a multiword token, `2-3`, or of an empty node, `2.1`."""

_UNSPECIFIED = "_"
_NEVER_EMPTY = ("upos", "xpos", "head", "deprel")  # in other columns `_` is an empty value


@dataclass(frozen=True)
class LayoutOptions:
    """Options in the config that describe the columns of CoNLL files: `data.words`, `data.tags` and
    so on.

    The options are described in `etude.data.examples.tagged.Tagged`. An option that is None is not
    set in the config; it is detected from the file. `labels` contains
    the names of all tags; it is empty if the config does not set them.
    """

    words: int | str | None = None
    tags: int | str | None = None
    separator: Separator | None = None
    comments: bool | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Layout of a file: its format and the meaning of its columns.

    Attributes:
        kind: format of the file: `CoNLL-U` or `CoNLL`.
        separator: `tab`, or `space`: one or more spaces or tabs.
        columns: number of columns.
        words, tags: numbers of the columns with words and with tags, from 0; `tags` is None if the
            file has no tags.
        comments: whether a line that starts with `#` before the first word of a sentence is a
            comment; None if there is no such line.
        empty: whether `_` is a regular tag; if false, it means that a word has no tag.
    """

    kind: str
    separator: Separator
    columns: int
    words: int
    tags: int | None
    comments: bool | None
    empty: bool = True

    def __str__(self) -> str:
        description = f"{self.kind}, {self.columns} {self.separator}-separated columns, "
        description += f"words in column {self._column_title(self.words)}"
        if self.tags is not None:
            description += f", tags in column {self._column_title(self.tags)}"
        if self.comments is not None:
            description += f", lines starting with # are {'comments' if self.comments else 'words'}"
        return description

    def _column_title(self, column: int) -> str:
        return f"{column} ({CONLLU[column]})" if self.kind == "CoNLL-U" else str(column)


@dataclass(frozen=True)
class Sentence:
    """Sentence of a file: its words and their tags.

    If the file has no column of tags, `tags` contains the words.

    Attributes:
        line: number of the line with the first word.
    """

    line: int
    words: list[str]
    tags: list[str]


def is_conllu(file: Path) -> bool:
    """Returns whether a file name is that of a CoNLL-U file, compressed or not."""
    return uncompressed_suffix(file) == ".conllu"


def is_conll(file: Path) -> bool:
    """Returns whether a file name is that of a CoNLL or CoNLL-U file, compressed or not."""
    return uncompressed_suffix(file) in (".conllu", ".conll", ".conll2003", ".iob", ".iob2", ".bio")


def uncompressed_suffix(file: Path) -> str:
    """Returns the suffix of a file name, without suffixes of compression such as `.gz`.

    The suffix is in lower case; empty if there is none.
    """
    suffixes = [each for each in map(str.lower, file.suffixes) if each not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def detect_layout(file: Path, stated: LayoutOptions, tagged: bool = True) -> Layout | None:
    """Returns the layout of the columns of a file; None if the file has no words.

    Args:
        stated: options that the config sets.
        tagged: whether each word must have a tag.

    Raises:
        RequestError: the layout is ambiguous; the message names the option to set.
    """
    if is_conllu(file):
        words = _conllu_column("data.words", stated.words, 1)
        tags = _conllu_column("data.tags", stated.tags, 3)
        empty = CONLLU[tags] not in _NEVER_EMPTY or _UNSPECIFIED in stated.labels
        return Layout("CoNLL-U", "tab", 10, words, tags if tagged else None, True, empty)
    return _LayoutDetector(file, stated, tagged).layout()


def check_same_layout(layouts: Sequence[tuple[Path, Layout]], stated: LayoutOptions) -> None:
    """Checks that the files of a data set have the same columns.

    Args:
        layouts: each file with its layout.
        stated: options that the config sets.

    Raises:
        RequestError: the layouts of two files differ.
    """
    problems: list[Problem] = []
    commented = next(((f, x) for f, x in layouts if x.comments is not None), None)
    for file, layout in layouts[1:]:
        first, reference = layouts[0]
        columns = stated.words is not None and stated.tags is not None
        if (layout.kind, layout.separator) != (reference.kind, reference.separator):
            expected = f"{reference.kind}, {reference.separator}-separated, as in {first}"
            value = f"{layout.kind}, {layout.separator}-separated"
            hint = (
                "the files of one run need the same separator; convert one of these files, or set "
            )
            hint += "data.separator if the separator was detected wrongly"
            if layout.kind != reference.kind:
                hint = "use files of only one of these formats"
            problems.append(Problem(str(file), expected, value, hint))
        elif layout.columns != reference.columns and not columns:
            expected = f"{reference.columns} columns, as in {first}, not {layout.columns}"
            hint = "if the files may differ in this way, set data.words and data.tags to the "
            hint += "numbers of the columns, counted from 0"
            problems.append(Problem(str(file), expected, hint=hint))
        if commented is not None and layout.comments is (not commented[1].comments):
            detected = ("comments", "words") if commented[1].comments else ("words", "comments")
            expected = f"{detected[0]}, not {detected[1]}, in the lines that start with #, "
            expected += f"as in {commented[0]}"
            hint = "set data.comments=true if they are comments, data.comments=false if words"
            problems.append(Problem(str(file), expected, hint=hint))
    if problems:
        raise RequestError(problems)


def read_sentences(file: Path, layout: Layout) -> Iterator[Sentence]:
    """Yields the sentences of a file, in order.

    Raises:
        RequestError: a line does not have `layout.columns` columns, or its word or tag is missing.
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
                expected = f"the id {last} (ids count the words of a sentence from 1; "
                expected += "an empty line ends a sentence)"
                raise RequestError(Problem(where, expected, cells[0]))
        if cells:
            first = first or number
            words.append(_cell(where, cells, layout.words, layout, "a word"))
            if layout.tags is None:
                tags.append(words[-1])
            else:
                tags.append(_cell(where, cells, layout.tags, layout, "a tag"))
                if tags[-1] == _UNSPECIFIED and not layout.empty:
                    hint = "_ means no tag; to use _ as a tag, add it to data.labels"
                    raise RequestError(Problem(where, "a tag", _UNSPECIFIED, hint))
        elif words:
            yield Sentence(first, words, tags)
            first, words, tags, last = 0, [], [], 0
    if words:
        yield Sentence(first, words, tags)


def _check_conllu(where: str, cells: list[str]) -> None:
    if len(cells) != len(CONLLU):
        expected = f"{len(CONLLU)} tab-separated columns (CoNLL-U), not {len(cells)}"
        raise RequestError(Problem(where, expected))
    if not (_ID.fullmatch(cells[0]) or _NON_WORD_ID.fullmatch(cells[0])):
        expected = "an id such as 2, 2-3 or 2.1 in the first column (CoNLL-U)"
        raise RequestError(Problem(where, expected, cells[0]))


def _cell(where: str, cells: list[str], column: int, layout: Layout, what: str) -> str:
    if len(cells) != layout.columns:
        expected = f"a word in column {layout.words}"
        if layout.tags is not None:
            expected += f" and its tag in column {layout.tags}"
        expected += f", of {layout.columns} {layout.separator}-separated columns"
        line = ("\t" if layout.separator == "tab" else " ").join(cells)
        raise RequestError(Problem(where, expected, line, "columns are counted from 0"))
    if not cells[column].strip(" "):
        hint = "columns are counted from 0"
        raise RequestError(Problem(where, f"{what} in column {column}", cells[column], hint))
    return cells[column]


def _lines(file: Path, separator: Separator, comments: bool) -> Iterator[tuple[int, list[str]]]:
    """Yields the number (from 1) and the column values of each line.

    The list of values is empty for each empty line and each line that begins with the value
    `-DOCSTART-`; such a line ends the sentence before it, if there is one.

    Args:
        separator: separator of the columns.
        comments: whether to skip lines that start with `#` before the first word of a sentence.
    """
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
    """Splits a line into the values of its columns.

    The result is empty if the line has only spaces and tabs. Other white space, such as a no-break
    space, does not separate columns; it belongs to a value.

    Args:
        line: the line, with or without its line end.
        separator: `tab` for one tab, `space` for one or more spaces or tabs.
    """
    line = line.removesuffix("\n")
    if not line.strip(" \t"):
        return []
    if separator == "tab":
        return line.split("\t")
    return re.split("[ \t]+", line.strip(" \t"))


class _LayoutDetector:
    """Detector of a file's layout, which reads all lines of the file."""

    def __init__(self, file: Path, stated: LayoutOptions, tagged: bool) -> None:
        self.file, self.stated, self.tagged = file, stated, tagged

    def layout(self) -> Layout | None:
        separator = self.stated.separator or self._detect_separator()
        first = next((c for _, c in _lines(self.file, separator, True) if c), None)
        if first is None:
            first = next((c for _, c in _lines(self.file, separator, False) if c), None)
        if first is None:
            return None
        columns = len(first)
        words = self._column_number("data.words", self.stated.words, 0)
        last = self._column_number("data.tags", self.stated.tags, -1)
        needed = self.tagged or (columns > 1 and -columns <= last < columns)
        tags = last if needed else None  # a file to be tagged need not have tags
        self._check_columns(separator, columns, words, tags)
        words = words % columns
        tags = None if tags is None else tags % columns
        comments = self._detect_comments(separator, columns, tags)
        self._check_meaning(separator, comments is True, words, tags)
        return Layout("CoNLL", separator, columns, words, tags if self.tagged else None, comments)

    def _detect_separator(self) -> Separator:
        """Returns the separator of the columns: `space` if no line has a tab, otherwise `tab`.

        Raises:
            RequestError: the lines have different numbers of tabs, but the same number of columns
                if spaces separate columns, too.
        """
        widths: dict[Separator, set[int]] = {"tab": set(), "space": set()}
        tabs = False
        for line in lines_of(self.file):
            if line.startswith(("#", DOCUMENT)) or not line.strip(" \t\n"):
                continue
            tabs = tabs or "\t" in line
            for separator, counts in widths.items():
                counts.add(len(split_cells(line, separator)))
        if not tabs:
            return "space"
        if len(widths["tab"]) > 1 and len(widths["space"]) == 1:
            expected = "an explicit data.separator, because both tabs and spaces may separate "
            expected += "columns"
            hint = "data.separator=space accepts tabs and spaces, data.separator=tab only tabs"
            raise RequestError(Problem(str(self.file), expected, hint=hint))
        return "tab"

    def _column_number(self, key: str, stated: int | str | None, usual: int) -> int:
        if stated is None:
            return usual
        if not isinstance(stated, int):
            hint = f"{self.file} is a CoNLL file, whose columns have no names"
            raise RequestError(Problem(key, "a column number, counted from 0", stated, hint))
        return stated

    def _check_columns(
        self, separator: Separator, columns: int, words: int, tags: int | None
    ) -> None:
        valid = -columns <= words < columns
        expected = f"a word in column {words}"
        if tags is not None:
            valid = valid and -columns <= tags < columns and words % columns != tags % columns
            expected += f" and its tag in column {tags}"
        if not valid:
            number, cells = next((n, c) for n, c in _lines(self.file, separator, True) if c)
            where = f"{self.file}, line {number}"
            hint = "set data.words and data.tags to column numbers, counted from 0"
            raise RequestError(Problem(where, expected, " ".join(cells), hint))

    def _detect_comments(self, separator: Separator, columns: int, tags: int | None) -> bool | None:
        """Returns whether lines that start with `#` before a sentence are comments.

        The value in the config is returned if it is set. Otherwise a line with `#` may contain a
        word if it has as many columns as the other lines, and a tag that occurs in them. The result
        is true if no line with `#` may contain a word, false if all may, and None if no line starts
        with `#`.

        Args:
            separator: separator of the columns.
            columns: number of columns.
            tags: number of the column with the tags, from 0; None if the file has no tags. Then
                only the number of columns is compared.

        Raises:
            RequestError: only some of the lines with `#` may contain a word.
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
        candidates = [
            number
            for number, cells in marked
            if len(cells) == columns and (tags is None or cells[tags] in known)
        ]
        if not candidates or len(candidates) == len(marked):
            return not candidates
        expected = "a value for data.comments, because some lines that start with # look like "
        expected += "words, as here, and others like comments"
        other = next(number for number, _ in marked if number not in set(candidates))
        hint = "data.comments=true: all lines before the first word of a sentence that start with #"
        hint += f", such as line {other}, are comments; data.comments=false: they all are words"
        raise RequestError(Problem(f"{self.file}, line {candidates[0]}", expected, hint=hint))

    def _check_meaning(
        self, separator: Separator, comments: bool, words: int, tags: int | None
    ) -> None:
        """Checks that the first column can contain the words, and the last column the tags.

        These columns are the defaults. Nothing is checked if the config sets the column of the
        words. The tags are not checked if the config sets their column.

        Args:
            separator: separator of the columns.
            comments: whether lines that start with `#` before a sentence are comments.
            words, tags: numbers of the columns with the words and with the tags, from 0; `tags` is
                None if the file has no tags.

        Raises:
            RequestError: the first column contains the numbers of the words, or the last column
                has more different values than the first.
        """
        if self.stated.words is not None:
            return
        counting, longest, position = True, 0, 0
        seen: tuple[set[str], set[str]] = (set(), set())
        for _, cells in _lines(self.file, separator, comments):
            position = position + 1 if cells else 0
            if cells and words < len(cells):
                counting = counting and cells[words] in (str(position), str(position - 1))
                longest = max(longest, position)
                seen[0].add(cells[words])
                if tags is not None and tags < len(cells):
                    seen[1].add(cells[tags])
        example = next(c for _, c in _lines(self.file, separator, comments) if c)
        shown = ", ".join(f"column {n} is {cell!r}" for n, cell in enumerate(example))
        where = "data.words"
        if counting and longest > 1:
            expected = "the number of the column with the words, because "
            expected += f"column {words} of {self.file} contains the words' numbers, not the words"
            raise RequestError(Problem(where, expected, hint=f"for example, {shown}"))
        if tags is not None and self.stated.tags is None and len(seen[1]) > len(seen[0]):
            expected = "explicit values of data.words and data.tags, because the last column of "
            expected += f"{self.file} probably does not contain tags"
            hint = f"the last column has {len(seen[1]):,} different values, more than the first "
            hint += f"column, which has {len(seen[0]):,}; for example, {shown}"
            raise RequestError(Problem(where, expected, hint=hint))


def _conllu_column(key: str, stated: int | str | None, usual: int) -> int:
    """Returns the number of a CoNLL-U column, counted from 0.

    Args:
        key: config key of the column, for error messages.
        stated: name or number of the column in the config; None if the config does not set it. A
            negative number counts from the last column.
        usual: number to return if `stated` is None.

    Raises:
        RequestError: CoNLL-U has no column with this name or number.
    """
    if stated is None:
        return usual
    if isinstance(stated, int):
        if not -len(CONLLU) <= stated < len(CONLLU):
            raise RequestError(Problem(key, f"a column number from 0 to {len(CONLLU) - 1}", stated))
        return stated % len(CONLLU)
    if stated not in CONLLU:
        expected = f"a column of CoNLL-U, one of {', '.join(CONLLU)}"
        problem = Problem(key, expected, stated, nearest(stated, CONLLU))
        raise RequestError(problem)
    return CONLLU.index(stated)
