"""Base class of data whose examples have fields: a Lightning data module.

A subclass, called a source (`LabelledFiles`, `Pairs`, `Tagged`, ...), reads rows and converts each
row to examples. An example is a dict of fields, such as `tokens` and `label`, which are lists of
numbers. The base class splits the rows, handles duplicates, writes the fields to disk as columns
(`prepare`), and builds batches from the columns (`attach`, `train_dataloader`, `val_dataloader`).
The task's objective builds the model's inputs and the targets from the fields.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tokenizers
from torch.utils.data import DataLoader

from etude.counts import counted
from etude.data.columns import Column
from etude.data.delimited import Quoting
from etude.data.evaluation_data import Evaluated, EvaluationRequest, unused_quoting_problem
from etude.data.examples.batches import ExampleBatches
from etude.data.examples.classes import class_key, class_numbers
from etude.data.examples.encoding import warn_truncated
from etude.data.examples.example_steps import (
    ExampleEvaluation,
    ExampleSteps,
    ExampleTable,
    MemoryTable,
    TableSubset,
)
from etude.data.examples.source import ExampleSource, Row, Split, Text
from etude.data.examples.split_writer import ROW, ExampleSplitMeta, log_summary, write_examples
from etude.data.examples.spool import GROUP_SIZE
from etude.data.loading import loader
from etude.data.order import permute, round_keys
from etude.data.origins import DocumentSpan
from etude.data.steps import Share
from etude.data.store import Store, Stored
from etude.data.tokenizer import Tokenizer
from etude.data.view import describe_rows
from etude.errors import Checks, Problem, RequestError

log = logging.getLogger("etude.data")

FRACTION_STREAM = 0x46524143


@dataclass(kw_only=True, eq=False)
class ExampleData(Stored, ExampleSource):
    """Base class of data that converts rows to examples of at most `sequence_length` tokens.

    The arguments are dataclass fields. A subclass inherits them and may declare its own.

    Args:
        tokenizer: recipe that trains or loads the tokenizer.
        workers: see `etude.data.module.DataModule`.
        sequence_length: largest number of tokens in an example, including special tokens.
        batch: size of an optimizer step: a number of examples (`batch.examples`), or a maximum
            number of positions, including padding (`batch.tokens`).
        too_long: how to treat a longer text: `truncate` cuts off its end, `chunk` splits it into
            several examples, `refuse` raises an error.
        duplicates: how to treat a row whose text is in two splits (ignoring case and spacing):
            `warn` logs a warning; `drop` removes the row from the training split if it is also in
            validation or test, and from validation if it is also in test; `refuse` raises an error.
            Rows that are repeated within one split are kept.
        fraction: fraction of the training examples to use. The examples that a fraction selects are
            also selected by every larger fraction.
        bucket_steps: number of optimizer steps whose examples are sorted by length together, so
            that batches need little padding; 1 disables sorting.
        pack: whether to pack several short training examples into one sequence of at most
            `sequence_length` positions, instead of padding each example. Packed examples don't
            attend to each other. `batch.tokens` then counts the positions without padding, and the
            micro-batch size counts sequences.

    Attributes:
        reads_words: whether an input text may be given as a list of words.
    """

    too_long: Literal["truncate", "chunk", "refuse"] = "truncate"
    duplicates: Literal["warn", "drop", "refuse"] = "warn"
    fraction: float = 1.0
    bucket_steps: int = 50
    pack: bool = False

    reads = "examples"
    reads_words: ClassVar[bool] = False
    labels: list[str] | None = field(default=None, init=False)
    shares_exactly = False  # steps need not be a multiple of the number of ranks
    split_meta = ExampleSplitMeta

    def validate(self, checks: Checks) -> None:
        """Checks the arguments; adds a problem to `checks` for each invalid value."""
        checks.positive(bucket_steps=self.bucket_steps)
        length, least, batch = self.sequence_length, self.shortest, self.batch
        several = f"at least {least} (a token and the end token)"
        expected = "a positive number" if least == 1 else several
        checks.that(length >= least, "sequence_length", length, expected)
        expected = "a fraction above 0 and at most 1"
        checks.that(0 < self.fraction <= 1, "fraction", self.fraction, expected)
        super().validate(checks)
        sizes = [size for size in (batch.tokens, batch.examples) if size is not None]
        hint = "set data.batch.examples"
        if sizes:
            hint = "set one of the two to null, as in data.batch.examples=null"
        expected = "exactly one of tokens and examples"
        checks.that(len(sizes) == 1, "batch", batch, expected, hint)
        if batch.examples is not None:
            checks.that(batch.examples > 0, "batch.examples", batch.examples, "a positive number")
        elif batch.tokens is not None:
            expected = f"at least sequence_length = {length}, the maximum length of an example"
            checks.that(batch.tokens >= length, "batch.tokens", batch.tokens, expected)

    # -- interface of data modules ------------------------------------------------------------

    def for_task(self, objective: Any) -> None:
        super().for_task(objective)
        if self.pack and not objective.packs:
            expected = f"false ({type(objective).__name__} does not support packed sequences)"
            raise RequestError(Problem("data.pack", expected, True))

    def decided_by(self) -> dict[str, Any]:
        return {
            **self.settings(),
            "sequence_length": self.sequence_length,
            "too_long": self.too_long,
            "duplicates": self.duplicates,
        }

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        write_examples(folder, self, identity)

    def opened(self, store: Store) -> None:
        self.labels = store.meta.labels
        log_summary(store.meta, self.duplicates, self.too_long)

    def prepare(self, cache_dir: Path) -> Store:
        store = super().prepare(cache_dir)
        assert self.objective is not None
        lengths = {name: each.lengths for name, each in self._fields("train").items()}
        if cut := self.objective.cut(lengths):
            if self.too_long == "refuse":
                expected = f"a larger number, because {cut:,} training examples are longer"
                hint = "or set data.too_long=truncate to cut off the ends of their targets"
                problem = Problem("data.sequence_length", expected, self.sequence_length, hint)
                raise RequestError(problem)
            message = "train: %s longer than data.sequence_length = %d tokens; "
            message += "the ends of their targets are cut off"
            log.warning(message, counted(cut, "example"), self.sequence_length)
        return store

    def table(self, split: Split) -> ExampleTable:
        """Returns a table with all examples of a prepared split."""
        assert self.objective is not None
        return ExampleTable(self._fields(split), self.objective, self.kinds)

    def row_numbers(self, split: Split) -> np.ndarray:
        """Returns, for each example of a split, the number of the row from which it was built.

        The rows of a split are numbered from 0.
        """
        return self.store.column(split, ROW).values.astype(np.int64)

    @property
    def examples_per_step(self) -> int:
        """Number of examples of an optimizer step, over all ranks.

        If `batch.tokens` sets the size of a step, this number is an estimate.
        """
        if self.batch.examples is not None:
            return self.batch.examples
        assert self.batch.tokens is not None
        mean: float = self.sequence_length
        if self._store is not None:
            train = self.meta.splits["train"]
            mean = train.tokens / max(1, train.examples)
        return max(1, int(self.batch.tokens / max(mean, 1.0)))

    @property
    def tokens_per_step(self) -> int:
        """Estimated mean number of positions of an optimizer step."""
        if self._store is None:
            return self.examples_per_step * self.sequence_length
        train = self.meta.splits["train"]
        return max(1, round(self.examples_per_step * train.tokens / max(1, train.examples)))

    @property
    def steps_per_epoch(self) -> float:
        """Number of optimizer steps in an epoch, which reads each training example once."""
        return float(self._batches(seed=0).steps_per_epoch)

    @property
    def examples_per_epoch(self) -> float:
        return self.meta.splits["train"].examples

    def evaluated_tokens(self, split: Split) -> int:
        """Returns the number of tokens in all examples of a split."""
        return self.meta.splits[split].tokens

    def assembly(self, share: Share) -> ExampleSteps:
        capacity = self.sequence_length if self.pack else None
        table = self._training_table()
        rows = self.row_numbers("train")[table.indices]
        numbers = np.arange(len(self.row_numbers("train")))[table.indices]
        return ExampleSteps(table, self._batches(share.seed), share, rows, capacity, numbers)

    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        sources = {}
        for number, row in enumerate(self.rows("train")):
            if number in documents:
                sources[number] = row.where
                if len(sources) == len(documents):
                    break
        return sources

    def places_of(self, text: str) -> Iterator[DocumentSpan]:
        rows = self.row_numbers("train")
        example_rows, wanted = set(rows.tolist()), _normalized(text)
        columns = [self.store.column("train", name) for name in self.text_fields]
        for number, row in enumerate(self.rows("train")):
            if number in example_rows and any(text in each for each in self.texts(row)):
                for example in np.flatnonzero(rows == number).tolist():
                    texts = (self.tokenizer_.decode(each[example].tolist()) for each in columns)
                    if any(wanted in _normalized(each) for each in texts):
                        yield DocumentSpan(number, example=example)

    def evaluation_batches(self, split: Split) -> DataLoader[Any]:
        """Returns a loader that yields each example of a split once, in batches.

        Every rank receives all batches. In each batch, the value of the key `index` is a tensor
        with the indices of the batch's examples within the split.

        Raises:
            RequestError: the split is missing or empty.
        """
        self.check_split(split)
        if self.meta.splits[split].examples == 0:
            where = {"val": "data.validation", "test": "data.test"}.get(split, "data.path")
            raise RequestError(Problem(where, f"at least one example in the {split} split"))
        positions = self.evaluation_positions(self.tokenizer_.vocab_size)
        return loader(ExampleEvaluation(self.table(split), positions))

    def evaluated(self, split: Split) -> Evaluated:
        """Returns the examples of a prepared split for evaluation, without the rows' contents.

        Raises:
            RequestError: the data has no such split.
        """
        self.check_split(split)
        table = self.table(split)
        return Evaluated(
            self,
            split,
            lambda: self.evaluation_batches(split),
            lambda: self.row_numbers(split),
            in_order=lambda: (table[index] for index in range(len(table))),
        )

    def evaluated_with_rows(self, asked: EvaluationRequest) -> Evaluated:
        """Returns the examples of a split or of other files, and the rows they were built from.

        Args:
            asked: names the split or the files, and optionally an additional column to read.

        Raises:
            RequestError: the rows are missing or unreadable, or lack a requested column.
        """
        if asked.files is None:
            if asked.quoting is not None:
                raise RequestError(unused_quoting_problem(asked.quoting))
            rows = self._read_split_rows(asked.split, asked.by)  # type: ignore[arg-type]
        else:
            rows = list(self.from_files(asked))
        split = asked.split if asked.files is None else None
        return self.evaluated_rows(rows, asked.tokenizer, asked.labels, split)  # type: ignore[arg-type]

    def _read_split_rows(self, split: Split, by: str | None) -> list[Row]:
        """Returns only those rows of a split from which at least one example was built.

        Rows without text and duplicates that were dropped are missing.

        Args:
            by: name of an additional column to read; None if there is none.

        Raises:
            RequestError: the split has no examples, or the additional column is missing.
        """
        if by is not None:
            self.read_extra_column(split, by)
        example_rows = set(self.row_numbers(split).tolist())
        if not example_rows:
            empty = self.meta.splits[split].empty if split in self.meta.splits else 0
            filled = [name for name, meta in self.meta.splits.items() if meta.examples]
            hint = f"splits with examples: {', '.join(filled)}; "
            hint += "to evaluate other rows, use `etude evaluate RUN --data FILE`"
            if empty:
                hint = f"{empty:,} rows of this split have no text"
            raise RequestError(Problem("split", "a split with examples", split, hint))
        return [row for number, row in enumerate(self.rows(split)) if number in example_rows]

    def read_extra_column(self, split: Split, name: str) -> None:
        """Adds the column `name` to the columns that are read from the rows of a split.

        The base class does nothing; sources whose rows have columns override this method.

        Raises:
            RequestError: the column is missing.
        """

    def from_files(self, asked: EvaluationRequest) -> Iterator[Row]:
        """Yields the rows of files that are not part of the run's data.

        Args:
            asked: names the files, and optionally an additional column to read.

        Raises:
            RequestError: the files can't be read or lack a column, or this class reads no files.
        """
        name = type(self).__name__
        expected = f"a run whose data class can read files; {name} does not define from_files"
        raise RequestError(Problem("files", expected, list(asked.files or ())))

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        """Returns a row for each unlabelled text, with placeholders as labels and targets.

        A subclass selects the placeholder: the first of `labels`, the number 0, a copy of the text,
        or no answers. The base class always raises `RequestError`.

        Args:
            texts: texts, or lists of words.
            pair: for data of text pairs, one second text; each of `texts` forms a pair with it.
                None for other data.
            labels: names of the run's labels.

        Raises:
            RequestError: this class can't read single texts, or `pair` is missing or not expected.
        """
        expected = f"a run whose data class can read single texts; {type(self).__name__} cannot"
        raise RequestError(Problem("run", expected))

    def described(self, examples: int) -> Iterator[str]:
        """Yields lines of text for the user that describe the prepared data.

        Args:
            examples: number of examples to show in these lines.
        """
        return describe_rows(self, examples)

    def padding(self, micro: Mapping[str, Any]) -> float:
        """Returns the fraction of padding among the positions of `micro`, a packed micro-batch."""
        assert self.objective is not None
        positions = sum(micro[name].numel() for name in self.objective.padded)
        return float(1 - micro["step_tokens"] / positions)

    def texts_in(self, file: Path) -> Iterator[Text] | None:
        """Returns the texts of a file in a format that only this class reads, such as CoNLL.

        A text is a string, a list of words, or a pair of strings. Returns None for a file
        in another format.
        """
        return None

    def stated_quoting(self) -> Quoting | None:
        """Returns how quotation marks in TSV and CSV files are read, as set in the config.

        The value is `csv` if they can enclose a cell, and `none` if they are regular characters. It
        is None if the config does not set it; then it is detected from each file.
        """
        return None

    @property
    def text_column(self) -> str:
        """The name of the column with the text."""
        return "text"

    @property
    def second_column(self) -> str | None:
        """The name of the column with the second text of a pair; None for data without pairs."""
        return None

    def evaluated_rows(
        self,
        rows: Sequence[Row],
        tokenizer: Tokenizer,
        labels: Sequence[str],
        split: Split | None = None,
    ) -> Evaluated:
        """Builds examples from `rows`, and returns the examples and the rows for evaluation.

        The data need not be prepared.

        Args:
            rows: rows to evaluate. Rows without text have no examples.
            tokenizer: tokenizer of the run.
            labels: names of the run's labels.
            split: the split of the rows; None for rows of other files.

        Raises:
            RequestError: no row has text, or a row has a label that the run does not have.
        """
        known = class_numbers(labels)
        for row in rows:
            for label in self.labels_of(row):
                if class_key(label) not in known:
                    expected = f"one of the run's labels: {', '.join(labels[:12])}"
                    raise RequestError(Problem(row.where, expected, label))
        with_text = [number for number, row in enumerate(rows) if self.texts(row)]
        if not with_text:
            hint = f"none of the {len(rows):,} rows has text"
            raise RequestError(Problem("files", "rows with text", hint=hint))
        assert self.objective is not None
        objective = self.objective.bound_to_rows(tokenizer, self.sequence_length)
        positions = self.evaluation_positions(tokenizer.vocab_size)

        @cache
        def encoded() -> tuple[MemoryTable, list[int]]:
            fields, numbers = self._encode_rows(rows, with_text, tokenizer, labels)
            return MemoryTable(fields, objective, self.kinds), numbers

        def names(row: int) -> list[str]:
            return [labels[known[class_key(label)]] for label in self.labels_of(rows[row])]

        return Evaluated(
            self,
            split,
            lambda: loader(ExampleEvaluation(encoded()[0], positions)),
            lambda: np.array(encoded()[1]),
            rows,
            with_text,
            names if labels else None,
        )

    def _encode_rows(
        self,
        rows: Sequence[Row],
        selected: Sequence[int],
        tokenizer: Tokenizer,
        labels: Sequence[str],
    ) -> tuple[dict[str, list[Any]], list[int]]:
        """Builds examples from some of the rows.

        Args:
            rows: all rows.
            selected: indices, in `rows`, of the rows to use.
            tokenizer: tokenizer of the run.
            labels: names of all labels; the number of a label is its index in this list.

        Returns:
            A pair: a dict from the name of each field to a list of its values, one per example; and
            a list with one number per example, the index of its row in `rows`.
        """
        examples: list[dict[str, list[Any]]] = []
        numbers: list[int] = []
        cut = 0
        for first in range(0, len(selected), GROUP_SIZE):
            group = selected[first : first + GROUP_SIZE]
            encoded = self.encoded([rows[number] for number in group], tokenizer, labels)
            for number, each in zip(group, encoded, strict=True):
                examples += each.fields
                numbers += [number] * len(each.fields)
                cut += each.truncated > 0
        warn_truncated(cut, self.sequence_length)
        return {name: [each[name] for each in examples] for name in self.fields}, numbers

    def pieces_of(
        self, encodings: Sequence[tokenizers.Encoding]
    ) -> tuple[Sequence[tokenizers.Encoding], int]:
        """Returns those pieces of a text that become examples, and the number of unused tokens.

        With `too_long=chunk`, all pieces are used. Otherwise only the first is used, and the tokens
        of the other pieces are counted, including their special tokens.

        Args:
            encodings: encoded pieces of one text, in order. A text that is too long has several.
        """
        used = encodings if self.too_long == "chunk" else encodings[:1]
        return used, sum(map(len, encodings[len(used) :]))

    # -- reading ------------------------------------------------------------------------------

    def _fields(self, split: Split) -> dict[str, Column]:
        return {name: self.store.column(split, name) for name in self.fields}

    def _training_table(self) -> ExampleTable:
        assert self.objective is not None
        table = ExampleTable(self._fields("train"), self.objective, self.kinds)
        if self.fraction == 1:
            return table
        count = len(table)
        keys = round_keys(FRACTION_STREAM, 0, 0)  # the same examples for every seed
        order = permute(np.arange(count, dtype=np.uint64), count, keys).astype(np.int64)
        return TableSubset(table, np.sort(order[: math.ceil(self.fraction * count)]))

    def _batches(self, seed: int) -> ExampleBatches:
        return ExampleBatches(
            self._training_table().lengths(),
            seed=seed,
            examples=self.batch.examples,
            tokens=self.batch.tokens,
            bucket_steps=self.bucket_steps,
            packed=self.pack,
        )


def _normalized(text: str) -> str:
    """Returns a text in lower case and without white space, to compare it with decoded tokens.

    Tokenizers may change case and white space.
    """
    return "".join(text.casefold().split())
