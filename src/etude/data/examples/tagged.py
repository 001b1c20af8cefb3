"""Data of sentences in which each word has a tag."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from etude.data.examples.classes import check_label_names, class_key, class_numbers
from etude.data.examples.conll import (
    Layout,
    LayoutOptions,
    Separator,
    check_same_layout,
    detect_layout,
    is_conll,
    read_sentences,
)
from etude.data.examples.schemes import Scheme, TagInspection
from etude.data.examples.source import Inspection, Row, Split, Text
from etude.data.examples.tables import SPLIT_KEYS, TableData
from etude.data.examples.word_data import WordData, split_words
from etude.data.formats import KINDS, format_of
from etude.data.objective import IGNORE
from etude.data.rows import check_surrogates
from etude.data.text_files import find_files
from etude.errors import Checks, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class TaggedData(WordData):
    """Base class of data whose rows have `words` and `tags`, one tag per word."""

    fields = ("tokens", "tags")
    word_field = "tags"
    fill_value = IGNORE

    def labels_of(self, row: Row) -> list[str]:
        return list(row.values["tags"])

    def word_targets(self, row: Row, labels: Sequence[str]) -> list[int]:
        numbers = class_numbers(labels)
        return [numbers[class_key(name)] for name in row.values["tags"]]

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        words = split_words(texts, pair)
        return [Row("", {"words": each, "tags": [labels[0]] * len(each)}) for each in words]

    def inspection(self) -> Inspection:
        return TagInspection()


@dataclass(kw_only=True, eq=False)
class Tagged(TaggedData, TableData):
    """Data of tagged sentences in files: CoNLL (one word per line, its tag in another column, an
    empty line after each sentence), CoNLL-U, or rows with a list of words and a list of tags (JSON,
    Parquet).

    The columns of a file and the scheme of the tags are detected from the whole file, must be the
    same in all files, and are logged; see `etude.data.examples.conll` and
    `etude.data.examples.schemes`. If they cannot be detected, they must be set in the config.

    Args:
        path, validation, test: see `TableData`. A `.conllu` file is CoNLL-U, any other text file
            is CoNLL.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        words: column of the words: a name in rows and in CoNLL-U (such as `form`); in CoNLL, a
            number, from 0, or negative from the end. None is `words` in rows, `form` in CoNLL-U,
            and the first column in CoNLL.
        tags: column of the tags, given in the same way. None is `tags` in rows, `upos` in CoNLL-U,
            and the last column in CoNLL.
        labels: names of all tags, in order; if None, the tags of the training split.
        separator: separator of the columns of CoNLL: `tab` is one tab; `space` is any number of
            spaces and tabs. If None, the separator is detected.
        comments: whether a line of CoNLL that starts with `#` before the first word of a sentence
            is a comment. If None, this is detected.
        scheme: scheme of the tags: `iob1`, `iob2`, `iobes`, `bilou`, or `plain` (each tag is a
            label of one word). If None, the scheme is detected.
    """

    words: int | str | None = None
    tags: int | str | None = None
    labels: list[str] | None = None
    separator: Separator | None = None
    comments: bool | None = None
    scheme: Scheme | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.configured_labels = self.labels
        labels = tuple(self.configured_labels or ())
        self.layout_options = LayoutOptions(
            self.words, self.tags, self.separator, self.comments, labels
        )

    def validate(self, checks: Checks) -> None:
        check_label_names(checks, self.labels)
        super().validate(checks)

    @property
    def stated_labels(self) -> list[str] | None:
        return self.configured_labels or (
            None if self.hub is None else self.hub.names(str(self.tags))
        )

    def columns(self) -> dict[str, str | None]:
        return {
            "words": "words" if self.words is None else str(self.words),
            "tags": "tags" if self.tags is None else str(self.tags),
        }

    def settings(self) -> dict[str, Any]:
        options = {
            "separator": self.separator,
            "comments": self.comments,
            "scheme": self.scheme,
        }
        return super().settings() | {
            "labels": self.configured_labels,
            "columns": [self.words, self.tags],
            **{name: value for name, value in options.items() if value is not None},
        }

    def check(self) -> None:
        super().check()
        self._describe_layouts()

    def inspection(self) -> Inspection:
        return TagInspection(self.scheme, self._describe_layouts())

    def _describe_layouts(self) -> list[str]:
        """Returns a list with one line that describes the columns of all CoNLL files.

        The list is empty if there are no CoNLL files.

        Raises:
            RequestError: the layouts differ, or the config sets an option for CoNLL files but there
                are none.
        """
        if self.hub is not None:
            return []
        files = [
            file for split, paths in self.paths.items() if paths for file in self._find_files(split)
        ]
        detected = [(file, self._detect_layout(file)) for file in files if not _is_row_file(file)]
        layouts = [(file, layout) for file, layout in detected if layout is not None]
        check_same_layout(layouts, self.layout_options)
        if not detected:
            options = {"separator": self.separator, "comments": self.comments}
            problems = [
                Problem(f"data.{name}", "null (the option applies only to CoNLL files)", value)
                for name, value in options.items()
                if value is not None
            ]
            if problems:
                raise RequestError(problems)
        if not layouts:
            return []
        others = f" and {len(layouts) - 1} more" if len(layouts) > 1 else ""
        return [f"{layouts[0][0].name}{others}: {layouts[0][1]}"]

    def _detect_layout(self, file: Path, tagged: bool = True) -> Layout | None:
        layout: Layout | None = self._read_once(detect_layout, file, self.layout_options, tagged)
        return layout

    def _find_files(self, split: str) -> list[Path]:
        where = SPLIT_KEYS[split]
        return find_conll_files(self.paths[split], where)

    def _missing_columns(self, file: Path) -> Iterator[Problem]:
        if _is_row_file(file):
            yield from super()._missing_columns(file)
        else:
            self._detect_layout(file)

    def _read_rows(self, split: str) -> Iterator[Row]:
        if self.hub is not None and split != "other":
            names = self.columns()
            for row in super()._read_rows(split):
                pair = (row.values[str(names[key])] for key in ("words", "tags"))
                yield _build_row(row.where, *pair)
            return
        for file in self._find_files(split):
            if _is_row_file(file):
                yield from self._read_row_file(file)
            else:
                yield from self.read_conll_file(file)

    def read_conll_file(self, file: Path) -> Iterator[Row]:
        """Yields a row for each sentence of a CoNLL or CoNLL-U file."""
        if (layout := self._detect_layout(file)) is None:
            return
        for sentence in read_sentences(file, layout):
            values = {"words": sentence.words, "tags": sentence.tags}
            yield Row(f"{file}, line {sentence.line}", values)

    @property
    def text_column(self) -> str:
        return str(self.columns()["words"] or "words")

    def texts_in(self, file: Path) -> Iterator[Text] | None:
        """Returns the words of each sentence in a CoNLL or CoNLL-U file, which need not have tags.

        Returns None for other files.
        """
        if not is_conll(file):
            return None
        layout = self._detect_layout(file, False)
        return iter(()) if layout is None else (each.words for each in read_sentences(file, layout))

    def _read_row_file(self, file: Path) -> Iterator[Row]:
        from etude.data.rows import iterate_rows

        names = self.columns()
        file_format = format_of(file)
        assert file_format is not None
        wanted = dict.fromkeys([str(names["words"]), str(names["tags"]), *self.extra_columns])
        for number, (_, values) in enumerate(iterate_rows(file, file_format, list(wanted)), 1):
            where = f"{file}, row {number}"
            words, tags = (values[str(names[key])] for key in ("words", "tags"))
            row = _build_row(where, words, tags)
            yield Row(where, {**{name: values[name] for name in self.extra_columns}, **row.values})


@dataclass(kw_only=True, eq=False)
class HKCanCor(TaggedData):
    """The Hong Kong Cantonese Corpus (Luke and Wong 2015), from the package `pycantonese`: 16,162
    utterances of 58 conversations, tagged with parts of speech; CC BY 4.0.

    All utterances of a conversation are in one split: in the order of the conversations' names, the
    fifth, fifteenth, ... are for testing, and the tenth, twentieth, ... for validation.

    Args:
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        tagset: `own` for the 102 tags of the corpus, `universal` for the parts of speech of
            Universal Dependencies 2 to which `pycantonese` maps the tags.
    """

    tagset: Literal["own", "universal"] = "own"

    @cached_property
    def conversations(self) -> list[tuple[str, list[tuple[list[str], list[str]]]]]:
        """For each conversation, a pair: its file name and its utterances, as (words, tags)."""
        try:
            import pycantonese
            from pycantonese.pos_tagging import hkcancor_to_ud
        except ImportError as error:
            expected = "the Python package pycantonese, which is not installed"
            hint = "pip install 'etude[corpora]'"
            raise RequestError(Problem("data", expected, hint=hint)) from error
        corpus: Any = pycantonese.hkcancor()
        conversations = []
        for path, utterances in zip(
            corpus.file_paths, corpus.utterances(by_file=True), strict=True
        ):
            tagged_utterances = []
            for utterance in utterances:
                pairs = [(token.word, token.pos) for token in utterance.tokens if token.word]
                words = [word for word, _ in pairs]
                tags = [tag or word for word, tag in pairs]
                if self.tagset == "universal":
                    tags = [hkcancor_to_ud(tag) for tag in tags]
                tagged_utterances.append((words, tags))
            conversations.append((Path(path).name, tagged_utterances))
        conversations.sort()
        return conversations

    @property
    def stated_labels(self) -> list[str] | None:
        tagset = {tag for _, each in self.conversations for _, tags in each for tag in tags}
        return sorted(tagset)

    def rows(self, split: Split) -> Iterator[Row]:
        for number, (name, utterances) in enumerate(self.conversations, 1):
            conversation_split = {5: "test", 0: "val"}.get(number % 10, "train")
            if conversation_split == split:
                for position, (words, tags) in enumerate(utterances, 1):
                    yield Row(f"{name}, utterance {position}", {"words": words, "tags": tags})

    def check(self) -> None:
        if not self.conversations:
            expected = "the conversations of HKCanCor in the package pycantonese"
            raise RequestError(Problem("data", expected))

    def content_fingerprint(self) -> str:
        return hashlib.sha256(repr(self.conversations).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        return {"tagset": self.tagset}


def find_conll_files(paths: Sequence[str], where: str) -> list[Path]:
    """Returns the files that the paths select.

    A path to an existing file selects this file, even if its suffix is unknown. A folder or a glob
    selects its files with a supported suffix, which include files of other formats.

    Args:
        paths: files, folders or globs.
        where: config key of the paths, for error messages.

    Raises:
        RequestError: a path does not exist, or selects no files.
    """
    files: list[Path] = []
    for path in paths:
        file = Path(path).expanduser()
        files += [file] if file.is_file() else find_files([path], where)
    return files


def _is_row_file(file: Path) -> bool:
    file_format = format_of(file)
    return file_format is not None and KINDS[file_format.suffix] in ("json", "parquet")


def _build_row(where: str, words: Any, tags: Any) -> Row:
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        expected = "a list of words and a list of tags of the same length"
        raise RequestError(Problem(where, expected, (words, tags)))
    for word, tag in zip(words, tags, strict=True):
        if not isinstance(word, str) or not word:
            raise RequestError(Problem(where, "words that are non-empty texts", word))
        if not isinstance(tag, str | int) or isinstance(tag, bool) or tag == "":
            raise RequestError(Problem(where, "tags that are names or whole numbers", tag))
        for text in (word, str(tag)):
            check_surrogates(where, text)
    return _pairs_to_row(where, [(word, str(tag)) for word, tag in zip(words, tags, strict=True)])


def _pairs_to_row(where: str, pairs: Sequence[tuple[str, str]]) -> Row:
    return Row(where, {"words": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]})
