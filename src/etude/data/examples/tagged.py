"""Sentences of words, each with a tag."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO

import tokenizers

from etude.data.examples.base import ExampleData
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Row, Split
from etude.data.examples.tables import WHERE, Part, TableData, TrainingRows
from etude.data.formats import COMPRESSED, KINDS, format_of, open_bytes
from etude.data.objective import IGNORE
from etude.data.plain import explained, scan
from etude.data.rows import check_surrogates
from etude.data.text import Batch
from etude.data.text_files import files_of
from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Checks, Problem, RequestError, nearest

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U, https://universaldependencies.org/format.html."""

UNSEEN = "\u25a1"
"""Stands for a word of which a tokenizer reads nothing: a white square."""


class TaggedData(ExampleData):
    """The base: rows have `words` and `tags`, as many of the one as of the other."""

    fields: tuple[str, ...] = ("tokens", "tags")

    def texts(self, row: Row) -> list[str]:
        words = row.values["words"]
        return [" ".join(words)] if words else []

    def labels_of(self, row: Row) -> list[str]:
        return list(row.values["tags"])

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        numbers = {name: number for number, name in enumerate(labels)}
        found = self._encodings(rows, tokenizer)
        result = []
        for row, pieces in zip(rows, found, strict=True):
            tags = [numbers[name] for name in row.values["tags"]]
            taken, lost = self.pieces_of(pieces)
            examples, done = [], -1
            for piece in taken:
                marks = []
                for word in piece.word_ids:
                    if word is None or word <= done:
                        marks.append(IGNORE)
                    else:
                        marks.append(tags[word])
                        done = word
                examples.append({"tokens": piece.ids, "tags": marks})
            result.append(Encoded(examples, lost))
        return result

    def _encodings(
        self, rows: Sequence[Row], tokenizer: Tokenizer
    ) -> list[list[tokenizers.Encoding]]:
        """The pieces of each row; a word of which the tokenizer reads nothing, as of a zero-width
        space, is read as `UNSEEN`, so that each word has its tag.
        """
        sentences = [spelt(row.values["words"], tokenizer) for row in rows]
        found = encode(sentences, tokenizer, self.sequence_length, words=True)
        for place, (row, words) in enumerate(zip(rows, sentences, strict=True)):
            if not (missing := _unread(words, found[place])):
                continue
            seen = spelt(
                [UNSEEN if n in missing else word for n, word in enumerate(row.values["words"])],
                tokenizer,
            )
            (found[place],) = encode([seen], tokenizer, self.sequence_length, words=True)
            if missing := _unread(seen, found[place]):
                word = row.values["words"][min(missing)]
                raise RequestError(Problem(row.where, "words that the tokenizer reads", word))
        return found


def _unread(words: Sequence[str], pieces: Sequence[tokenizers.Encoding]) -> set[int]:
    """The words that stand in none of the pieces."""
    return set(range(len(words))) - {word for piece in pieces for word in piece.word_ids}


def spelt(words: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The words as they stand in running text: after a space, where a tokenizer reads spaces."""
    if tokenizer.rewrites:
        return list(words)
    return [word if place == 0 else f" {word}" for place, word in enumerate(words)]


class Tagged(TaggedData, TableData):
    """Sentences in files: CoNLL (a word a line, columns, an empty line after each sentence),
    CoNLL-U, or rows with a list of words and one of tags (JSON, Parquet).

    Args:
        path, validation, test: see `TableData`; `.conllu` is CoNLL-U, any text CoNLL.
        tokenizer, sequence_length, batch, too_long, duplicates, fraction, bucket_steps, workers,
            pack: see `ExampleData`.
        words, tags: the columns: a name (of rows; of CoNLL-U `form`, `upos`, `xpos`, `deprel`, ...)
            or a number, from 0, negative from the end (of CoNLL). None is `form` and `upos`, the
            first and the last, or `words` and `tags`.
        labels: the names of all tags in order; None takes those of the training split.
    """

    def __init__(
        self,
        *,
        path: TrainingRows,
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        validation: Part = 0.1,
        test: Part = None,
        words: int | str | None = None,
        tags: int | str | None = None,
        labels: list[str] | None = None,
        too_long: Literal["truncate", "chunk", "refuse"] = "chunk",
        duplicates: Literal["warn", "drop", "refuse"] = "warn",
        fraction: float = 1.0,
        bucket_steps: int = 50,
        workers: int = 0,
        pack: bool = False,
    ) -> None:
        checks = Checks()
        several = labels is None or len(set(labels)) == len(labels) > 1
        checks.that(several, "labels", labels, "two names or more, all different")
        super().__init__(
            checks=checks,
            path=path,
            validation=validation,
            test=test,
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            batch=batch,
            too_long=too_long,
            duplicates=duplicates,
            fraction=fraction,
            bucket_steps=bucket_steps,
            workers=workers,
            pack=pack,
        )
        self.words, self.tags, self.named = words, tags, labels

    @property
    def stated_labels(self) -> list[str] | None:
        return self.named or (None if self.hub is None else self.hub.names(str(self.tags)))

    def columns(self) -> dict[str, str | None]:
        return {
            "words": "words" if self.words is None else str(self.words),
            "tags": "tags" if self.tags is None else str(self.tags),
        }

    def settings(self) -> dict[str, Any]:
        return super().settings() | {
            "labels": self.named,
            "columns": [self.words, self.tags],
        }

    def _files(self, split: str) -> list[Path]:
        where = WHERE[split]
        return conll_files(self.paths[split], where)

    def _missing(self, file: Path) -> Iterator[Problem]:
        if _is_rows(file):
            yield from super()._missing(file)

    def _all(self, split: str) -> Iterator[Row]:
        if self.hub is not None and split != "other":
            names = self.columns()
            for where, values in super()._all(split):
                yield _sentence(where, *(values[str(names[key])] for key in ("words", "tags")))
            return
        for file in self._files(split):
            if _is_rows(file):
                yield from self._rows_of(file)
            else:
                yield from self.sentences_of(file)

    def sentences_of(self, file: Path) -> Iterator[Row]:
        """The sentences of a CoNLL or CoNLL-U file."""
        if is_conllu(file):
            words, tags = _column("data.words", self.words, 1), _column("data.tags", self.tags, 3)
            yield from self._conll(file, words, tags, "\t")
        else:
            words, tags = _number("data.words", self.words, 0), _number("data.tags", self.tags, -1)
            yield from self._conll(file, words, tags, None)

    def words_of(self, file: Path) -> Iterator[list[str]]:
        """The words of a CoNLL or CoNLL-U file, whether it has tags or not."""
        if is_conllu(file):
            rows = self._conll(file, _column("data.words", self.words, 1), None, "\t")
        else:
            rows = self._conll(file, _number("data.words", self.words, 0), None, None)
        yield from (row.values["words"] for row in rows)

    def _rows_of(self, file: Path) -> Iterator[Row]:
        from etude.data.rows import records_of

        names = self.columns()
        form = format_of(file)
        assert form is not None
        wanted = dict.fromkeys([str(names["words"]), str(names["tags"]), *self.also])
        for number, values in records_of(file, form, list(wanted)):
            where = f"{file}, row {number}"
            words, tags = (values[str(names[key])] for key in ("words", "tags"))
            row = _sentence(where, words, tags)
            yield Row(where, {**{name: values[name] for name in self.also}, **row.values})

    def _conll(
        self, file: Path, words: int, tags: int | None, between: str | None
    ) -> Iterator[Row]:
        """Without a column of tags the words stand for these."""
        first, sentence = 0, []
        with _text(file) as lines:
            for number, line in enumerate(lines, 1):
                cells = line.rstrip("\n\r").split(between) if line.strip() else []
                comment = line.startswith("#") and (between is not None or len(cells) < 2)
                if comment or line.startswith("-DOCSTART-"):
                    continue
                if cells:
                    if between is not None and ("-" in cells[0] or "." in cells[0]):
                        continue  # several words in one, or an empty one
                    first = first or number
                    size = len(cells)
                    there = -size <= words < size
                    expected = f"a word in column {words}"
                    if tags is not None:
                        there = there and -size <= tags < size and words % size != tags % size
                        expected += f" and its tag in column {tags}"
                    if not there:
                        problem = Problem(f"{file}, line {number}", expected, line.strip())
                        raise RequestError(problem)
                    sentence.append((cells[words], cells[words if tags is None else tags]))
                elif sentence:
                    yield _of_pairs(f"{file}, line {first}", sentence)
                    first, sentence = 0, []
        if sentence:
            yield _of_pairs(f"{file}, line {first}", sentence)


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

    def __init__(
        self,
        *,
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        too_long: Literal["truncate", "chunk", "refuse"] = "chunk",
        duplicates: Literal["warn", "drop", "refuse"] = "warn",
        fraction: float = 1.0,
        bucket_steps: int = 50,
        workers: int = 0,
        pack: bool = False,
        tagset: Literal["own", "universal"] = "own",
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            batch=batch,
            too_long=too_long,
            duplicates=duplicates,
            fraction=fraction,
            bucket_steps=bucket_steps,
            workers=workers,
            pack=pack,
        )
        self.tagset = tagset

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
            sentences = []
            for utterance in utterances:
                pairs = [(token.word, token.pos) for token in utterance.tokens if token.word]
                words = [word for word, _ in pairs]
                tags = [tag or word for word, tag in pairs]
                if self.tagset == "universal":
                    tags = [hkcancor_to_ud(tag) for tag in tags]
                sentences.append((words, tags))
            found.append((Path(path).name, sentences))
        found.sort()
        return found

    @property
    def stated_labels(self) -> list[str] | None:
        every = {tag for _, each in self.conversations for _, tags in each for tag in tags}
        return sorted(every)

    def rows(self, split: Split) -> Iterator[Row]:
        for number, (name, sentences) in enumerate(self.conversations, 1):
            belongs = {5: "test", 0: "val"}.get(number % 10, "train")
            if belongs == split:
                for place, (words, tags) in enumerate(sentences, 1):
                    yield Row(f"{name}, utterance {place}", {"words": words, "tags": tags})

    def check(self) -> None:
        if not self.conversations:
            raise RequestError(Problem("data", "the corpus of the package pycantonese"))

    def content_fingerprint(self) -> str:
        return hashlib.sha256(repr(self.conversations).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        return {"tagset": self.tagset}


def conll_files(paths: Sequence[str], where: str) -> list[Path]:
    """The files that are meant; beside those that are tables, any of text."""
    found: list[Path] = []
    for path in paths:
        file = Path(path).expanduser()
        found += [file] if file.is_file() else files_of([path], where)
    return found


@contextmanager
def _text(file: Path) -> Iterator[TextIO]:
    """The lines of a file, which says where it isn't UTF-8."""
    with explained(file), io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as lines:
        try:
            yield lines
        except UnicodeDecodeError:
            scan(file)
            raise


def is_conllu(file: Path) -> bool:
    """Whether the name says so, compressed or not."""
    return _suffix(file) == ".conllu"


def is_conll(file: Path) -> bool:
    """Whether the name says that words stand in lines, CoNLL-U or not, compressed or not."""
    return _suffix(file) in (".conllu", ".conll", ".conll2003", ".iob", ".iob2", ".bio")


def _suffix(file: Path) -> str:
    """The last one that says no compression; empty without any."""
    suffixes = [each for each in map(str.lower, file.suffixes) if each not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _is_rows(file: Path) -> bool:
    form = format_of(file)
    return form is not None and KINDS[form.suffix] in ("json", "parquet")


def _sentence(where: str, words: Any, tags: Any) -> Row:
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
    return _of_pairs(where, [(word, str(tag)) for word, tag in zip(words, tags, strict=True)])


def _of_pairs(where: str, pairs: Sequence[tuple[str, str]]) -> Row:
    return Row(where, {"words": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]})


def _column(key: str, stated: int | str | None, usual: int) -> int:
    """A column of CoNLL-U by its name or number."""
    if stated is None:
        return usual
    if isinstance(stated, int):
        return stated
    if stated not in CONLLU:
        problem = Problem(key, "a column of CoNLL-U", stated, nearest(stated, CONLLU))
        raise RequestError(problem)
    return CONLLU.index(stated)


def _number(key: str, stated: int | str | None, usual: int) -> int:
    if stated is None:
        return usual
    if not isinstance(stated, int):
        raise RequestError(Problem(key, "the number of a column, from 0", stated))
    return stated
