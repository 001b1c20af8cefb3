"""Sentences of words, each with a tag."""

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
from etude.data.text_files import files_of
from etude.errors import Checks, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class TaggedData(WordData):
    """The base: rows have `words` and `tags`, as many of the one as of the other."""

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
    """Sentences in files: CoNLL (a word a line, columns, an empty line after each sentence),
    CoNLL-U, or rows with a list of words and one of tags (JSON, Parquet).

    What the columns of a file are, and what the tags mean, is decided from the whole file, must be
    the same in all files, and is reported; see `etude.data.examples.conll` and
    `etude.data.examples.schemes`. What cannot be decided is to be stated.

    Args:
        path, validation, test: see `TableData`; `.conllu` is CoNLL-U, any text CoNLL.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        words, tags: the columns: a name (of rows; of CoNLL-U `form`, `upos`, `xpos`, `deprel`, ...)
            or a number, from 0, negative from the end (of CoNLL). None is `form` and `upos`, the
            first and the last, or `words` and `tags`.
        labels: the names of all tags in order; None takes those of the training split.
        separator: what stands between columns of CoNLL: a `tab`, or `space`, any number of spaces
            and tabs. None decides.
        comments: whether a line of CoNLL that begins with `#` before the first word of a sentence
            is a comment. None decides.
        scheme: what the tags mean. None decides.
    """

    words: int | str | None = None
    tags: int | str | None = None
    labels: list[str] | None = None
    separator: Separator | None = None
    comments: bool | None = None
    scheme: Scheme | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.named = self.labels
        labels = tuple(self.named or ())
        self.stated = LayoutOptions(self.words, self.tags, self.separator, self.comments, labels)

    def validate(self, checks: Checks) -> None:
        check_label_names(checks, self.labels)
        super().validate(checks)

    @property
    def stated_labels(self) -> list[str] | None:
        return self.named or (None if self.hub is None else self.hub.names(str(self.tags)))

    def columns(self) -> dict[str, str | None]:
        return {
            "words": "words" if self.words is None else str(self.words),
            "tags": "tags" if self.tags is None else str(self.tags),
        }

    def settings(self) -> dict[str, Any]:
        stated = {
            "separator": self.separator,
            "comments": self.comments,
            "scheme": self.scheme,
        }
        return super().settings() | {
            "labels": self.named,
            "columns": [self.words, self.tags],
            **{name: value for name, value in stated.items() if value is not None},
        }

    def check(self) -> None:
        super().check()
        self._describe_layouts()

    def inspection(self) -> Inspection:
        return TagInspection(self.scheme, self._describe_layouts())

    def _describe_layouts(self) -> list[str]:
        """A line on what the columns are in all files; none where there are only rows.

        Raises:
            RequestError: they differ, or something is stated that no file has.
        """
        if self.hub is not None:
            return []
        files = [
            file for split, paths in self.paths.items() if paths for file in self._find_files(split)
        ]
        found = [(file, self._detect_layout(file)) for file in files if not _is_row_file(file)]
        layouts = [(file, layout) for file, layout in found if layout is not None]
        check_same_layout(layouts, self.stated)
        if not found:
            stated = {"separator": self.separator, "comments": self.comments}
            problems = [
                Problem(f"data.{name}", "null: rows have no lines of words", value)
                for name, value in stated.items()
                if value is not None
            ]
            if problems:
                raise RequestError(problems)
        if not layouts:
            return []
        more = f" and {len(layouts) - 1} more" if len(layouts) > 1 else ""
        return [f"{layouts[0][0].name}{more}: {layouts[0][1]}"]

    def _detect_layout(self, file: Path, tagged: bool = True) -> Layout | None:
        found: Layout | None = self._read_once(detect_layout, file, self.stated, tagged)
        return found

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
        """The sentences of a CoNLL or CoNLL-U file."""
        if (layout := self._detect_layout(file)) is None:
            return
        for found in read_sentences(file, layout):
            yield Row(f"{file}, line {found.line}", {"words": found.words, "tags": found.tags})

    @property
    def text_column(self) -> str:
        return str(self.columns()["words"] or "words")

    def texts_in(self, file: Path) -> Iterator[Text] | None:
        """The words of a CoNLL or CoNLL-U file, whether it has tags or not."""
        if not is_conll(file):
            return None
        layout = self._detect_layout(file, False)
        return iter(()) if layout is None else (each.words for each in read_sentences(file, layout))

    def _read_row_file(self, file: Path) -> Iterator[Row]:
        from etude.data.rows import records_of

        names = self.columns()
        form = format_of(file)
        assert form is not None
        wanted = dict.fromkeys([str(names["words"]), str(names["tags"]), *self.extra_columns])
        for number, (_, values) in enumerate(records_of(file, form, list(wanted)), 1):
            where = f"{file}, row {number}"
            words, tags = (values[str(names[key])] for key in ("words", "tags"))
            row = _build_row(where, words, tags)
            yield Row(where, {**{name: values[name] for name in self.extra_columns}, **row.values})


@dataclass(kw_only=True, eq=False)
class HKCanCor(TaggedData):
    """The Hong Kong Cantonese Corpus (Luke and Wong 2015), from the package `pycantonese`: 16,162
    utterances of 58 conversations, tagged with parts of speech; CC BY 4.0.

    Whole conversations are held out: of those in the order of their names the fifth, fifteenth, ...
    for testing, and the tenth, twentieth, ... for validation.

    Args:
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        tagset: `own` are the corpus's 102 tags, `universal` the parts of speech of Universal
            Dependencies 2 that `pycantonese` takes them for.
    """

    tagset: Literal["own", "universal"] = "own"

    @cached_property
    def conversations(self) -> list[tuple[str, list[tuple[list[str], list[str]]]]]:
        """Each file's name, and its utterances as words and tags."""
        try:
            import pycantonese
            from pycantonese.pos_tagging import hkcancor_to_ud
        except ImportError as error:
            hint = "pip install 'etude[corpora]'"
            raise RequestError(Problem("data", "the package pycantonese", hint=hint)) from error
        corpus: Any = pycantonese.hkcancor()
        found = []
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
            found.append((Path(path).name, tagged_utterances))
        found.sort()
        return found

    @property
    def stated_labels(self) -> list[str] | None:
        every = {tag for _, each in self.conversations for _, tags in each for tag in tags}
        return sorted(every)

    def rows(self, split: Split) -> Iterator[Row]:
        for number, (name, utterances) in enumerate(self.conversations, 1):
            belongs = {5: "test", 0: "val"}.get(number % 10, "train")
            if belongs == split:
                for place, (words, tags) in enumerate(utterances, 1):
                    yield Row(f"{name}, utterance {place}", {"words": words, "tags": tags})

    def check(self) -> None:
        if not self.conversations:
            raise RequestError(Problem("data", "the corpus of the package pycantonese"))

    def content_fingerprint(self) -> str:
        return hashlib.sha256(repr(self.conversations).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        return {"tagset": self.tagset}


def find_conll_files(paths: Sequence[str], where: str) -> list[Path]:
    """The files that are meant; beside those that are tables, any of text."""
    found: list[Path] = []
    for path in paths:
        file = Path(path).expanduser()
        found += [file] if file.is_file() else files_of([path], where)
    return found


def _is_row_file(file: Path) -> bool:
    form = format_of(file)
    return form is not None and KINDS[form.suffix] in ("json", "parquet")


def _build_row(where: str, words: Any, tags: Any) -> Row:
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        expected = "a list of words and one of tags, equally long"
        raise RequestError(Problem(where, expected, (words, tags)))
    for word, tag in zip(words, tags, strict=True):
        if not isinstance(word, str) or not word:
            raise RequestError(Problem(where, "words that are texts, none of them empty", word))
        if not isinstance(tag, str | int) or isinstance(tag, bool) or tag == "":
            raise RequestError(Problem(where, "tags that are names or whole numbers", tag))
        for text in (word, str(tag)):
            check_surrogates(where, text)
    return _pairs_to_row(where, [(word, str(tag)) for word, tag in zip(words, tags, strict=True)])


def _pairs_to_row(where: str, pairs: Sequence[tuple[str, str]]) -> Row:
    return Row(where, {"words": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]})
