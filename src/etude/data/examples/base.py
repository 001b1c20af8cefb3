"""Examples with fields as a Lightning data module.

A source says what its rows are and how a row becomes fields (`LabelledFiles`, `Pairs`, `Tagged`);
all the rest is here: splits, duplicates, rows to files of numbers, once (`prepare`), and
numbers to batches (`attach`, `train_dataloader`, `val_dataloader`), as the task's objective says.
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

from etude.data.columns import Column
from etude.data.delimited import Quoting
from etude.data.evaluated import Evaluated, Request, needless
from etude.data.examples.batches import ExampleBatches
from etude.data.examples.classes import class_key, class_numbers
from etude.data.examples.encoding import warn_of_cut
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
from etude.data.loading import evaluation_positions, loader
from etude.data.order import permute, round_keys
from etude.data.places import Place
from etude.data.steps import Share
from etude.data.store import Store, Stored
from etude.data.tokenizer import Tokenizer
from etude.data.view import of_rows
from etude.errors import Checks, Problem, RequestError

log = logging.getLogger("etude.data")

FRACTION_STREAM = 0x46524143


@dataclass(kw_only=True, eq=False)
class ExampleData(Stored, ExampleSource):
    """Examples from rows, each of at most `sequence_length` tokens.

    The arguments are the fields of a dataclass: a source declares its own and inherits these.

    Args:
        sequence_length: the most tokens in an example, the special ones around a text included.
        batch: the size of an optimizer step: a number of examples, or the most positions, padding
            included.
        too_long: what becomes of a longer example: `truncate` cuts off its end, `chunk` makes
            several of it, `refuse` ends with a message.
        duplicates: what to do with a row whose text stands in two splits (in any case, and however
            spaced): `warn`; `drop` it from the training split if it is in validation or test too,
            and from validation if it is in test; `refuse`.
        fraction: the part of the training examples that is used, each smaller part being in each
            larger one.
        bucket_steps: steps whose examples are sorted by length together; 1 sorts nothing.
        pack: several short training examples in one sequence of at most `sequence_length`
            positions, none of which sees another, instead of padding. `batch.tokens` and the
            micro-batch then count what the sequences hold, and sequences.

    Attributes:
        reads_words: whether a text may be a list of words.
    """

    too_long: Literal["truncate", "chunk", "refuse"] = "truncate"
    duplicates: Literal["warn", "drop", "refuse"] = "warn"
    fraction: float = 1.0
    bucket_steps: int = 50
    pack: bool = False

    reads = "examples"
    reads_words: ClassVar[bool] = False
    labels: list[str] | None = field(default=None, init=False)
    shares_exactly = False  # a step of examples of different lengths is shared as it comes
    split_meta = ExampleSplitMeta

    def validate(self, checks: Checks) -> None:
        """Notes what is wrong with the arguments; a source adds what is wrong with its own."""
        checks.positive(bucket_steps=self.bucket_steps)
        length, least, batch = self.sequence_length, self.shortest, self.batch
        expected = "a positive number" if least == 1 else f"{least} or more: a token and the end"
        checks.that(length >= least, "sequence_length", length, expected)
        checks.that(0 < self.fraction <= 1, "fraction", self.fraction, "a part above 0, up to 1")
        super().validate(checks)
        sizes = [size for size in (batch.tokens, batch.examples) if size is not None]
        checks.that(
            len(sizes) == 1,
            "batch",
            batch,
            "tokens or examples, just one",
            "set the other to null, as in data.batch.examples=null" if sizes else "state one",
        )
        if batch.examples is not None:
            checks.that(batch.examples > 0, "batch.examples", batch.examples, "a positive number")
        elif batch.tokens is not None:
            expected = f"at least sequence_length = {length}: an example may take as many"
            checks.that(batch.tokens >= length, "batch.tokens", batch.tokens, expected)

    # -- as every data module -----------------------------------------------------------------

    def for_task(self, objective: Any) -> None:
        super().for_task(objective)
        if self.pack and not objective.packs:
            expected = f"false: {type(objective).__name__} can't keep examples in a sequence apart"
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
                expected = f"more: {cut:,} training examples are longer"
                hint = "data.too_long=truncate cuts their ends off"
                problem = Problem("data.sequence_length", expected, self.sequence_length, hint)
                raise RequestError(problem)
            log.warning("train: the ends of %s answers are cut off", f"{cut:,}")
        return store

    def table(self, split: Split) -> ExampleTable:
        """The examples of a split."""
        assert self.objective is not None
        return ExampleTable(self._fields(split), self.objective, self.kinds)

    def row_numbers(self, split: Split) -> np.ndarray:
        """The number of the row, from 0, that each example of a split is from."""
        return self.store.column(split, ROW).values.astype(np.int64)

    @property
    def examples_per_step(self) -> int:
        """Examples in an optimizer step over all ranks; about, if it is a number of positions."""
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
        """Positions in an optimizer step, about: steps differ."""
        if self._store is None:
            return self.examples_per_step * self.sequence_length
        train = self.meta.splits["train"]
        return max(1, round(self.examples_per_step * train.tokens / max(1, train.examples)))

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which each training example is met once."""
        return float(self._batches(seed=0).steps_per_epoch)

    def evaluated_tokens(self, split: Split) -> int:
        """Positions in a whole split."""
        return self.meta.splits[split].tokens

    def assembly(self, share: Share) -> ExampleSteps:
        capacity = self.sequence_length if self.pack else None
        table = self._training_table()
        rows = self.row_numbers("train")[table.indices]
        numbers = np.arange(len(self.row_numbers("train")))[table.indices]
        return ExampleSteps(table, self._batches(share.seed), share, rows, capacity, numbers)

    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        found = {}
        for number, row in enumerate(self.rows("train")):
            if number in documents:
                found[number] = row.where
                if len(found) == len(documents):
                    break
        return found

    def places_of(self, text: str) -> Iterator[Place]:
        rows = self.row_numbers("train")
        kept, wanted = set(rows.tolist()), _normalized(text)
        columns = [self.store.column("train", name) for name in self.text_fields]
        for number, row in enumerate(self.rows("train")):
            if number in kept and any(text in each for each in self.texts(row)):
                for example in np.flatnonzero(rows == number).tolist():
                    read = (self.tokenizer_.decode(each[example].tolist()) for each in columns)
                    if any(wanted in _normalized(each) for each in read):
                        yield Place(number, example=example)

    def evaluation_batches(self, split: Split) -> DataLoader[Any]:
        """A whole split, each example once; batches say by `index` which these are.

        Raises:
            RequestError: there is no such split, or nothing in it.
        """
        if self.meta.splits[split].examples == 0:
            where = {"val": "data.validation", "test": "data.test"}.get(split, "data.path")
            raise RequestError(Problem(where, f"examples for {split}; there are none"))
        positions = evaluation_positions(self.tokenizer_.vocab_size)
        return loader(ExampleEvaluation(self.table(split), positions))

    def evaluated(self, split: Split) -> Evaluated:
        """A split of the prepared data, its rows without their contents."""
        table = self.table(split)
        return Evaluated(
            self,
            split,
            lambda: self.evaluation_batches(split),
            lambda: self.row_numbers(split),
            in_order=lambda: (table[index] for index in range(len(table))),
        )

    def evaluated_with_rows(self, asked: Request) -> Evaluated:
        """A split of the prepared data, or other files, the rows with their contents.

        Raises:
            RequestError: there are none, they can't be read, or lack what is asked.
        """
        if asked.files is None:
            if asked.quoting is not None:
                raise RequestError(needless(asked.quoting))
            rows = self._read_split_rows(asked.split, asked.by)  # type: ignore[arg-type]
        else:
            rows = list(self.from_files(asked))
        split = asked.split if asked.files is None else None
        return self.evaluated_rows(rows, asked.tokenizer, asked.labels, split)  # type: ignore[arg-type]

    def _read_split_rows(self, split: Split, by: str | None) -> list[Row]:
        """The rows of a split, as far as they are examples."""
        if by is not None:
            self.read_extra_column(split, by)
        kept = set(self.row_numbers(split).tolist())
        if not kept:
            empty = self.meta.splits[split].empty if split in self.meta.splits else 0
            hint = f"its {empty:,} rows have no text" if empty else None
            raise RequestError(Problem("--split", "a split that the run's data has", split, hint))
        return [row for number, row in enumerate(self.rows(split)) if number in kept]

    def read_extra_column(self, split: Split, name: str) -> None:
        """Reads a column of a split besides; a source without columns has what its rows have.

        Raises:
            RequestError: it is not there.
        """

    def from_files(self, asked: Request) -> Iterator[Row]:
        """The rows of other files, with the column that is asked for besides.

        Raises:
            RequestError: they can't be read, or lack a column; or the source reads no files.
        """
        expected = f"no files: {type(self).__name__} reads no other files (no method from_files)"
        raise RequestError(Problem("--data", expected, list(asked.files or ())))

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        """Rows of texts that nobody has labelled; a label or target in them stands for none.

        Raises:
            RequestError: this source makes no examples of texts alone, or `pair` does not fit.
        """
        expected = f"a run on data that reads texts; {type(self).__name__} does not"
        raise RequestError(Problem("RUN", expected))

    def described(self, examples: int) -> Iterator[str]:
        """What it holds, once prepared, a line each, and some of its examples."""
        return of_rows(self, examples)

    def padding(self, micro: Mapping[str, Any]) -> float:
        """The part of a packed micro-batch's positions that holds nothing."""
        assert self.objective is not None
        there = sum(micro[name].numel() for name in self.objective.padded)
        return float(1 - micro["step_tokens"] / there)

    def texts_in(self, file: Path) -> Iterator[Text] | None:
        """The texts of a file that this source reads in a way of its own; None of other files."""
        return None

    def stated_quoting(self) -> Quoting | None:
        """How TSV and CSV are quoted; None decides."""
        return None

    @property
    def text_column(self) -> str:
        """The column of rows that a text stands in."""
        return "text"

    @property
    def second_column(self) -> str | None:
        """The column of a second text that is read with the first; None where there is none."""
        return None

    def evaluated_rows(
        self,
        rows: Sequence[Row],
        tokenizer: Tokenizer,
        labels: Sequence[str],
        split: Split | None = None,
    ) -> Evaluated:
        """Rows with their contents. The data need not be prepared.

        Args:
            labels: the run's.
            split: that they are, if they are one.

        Raises:
            RequestError: none has text, or one has a label that the run does not know.
        """
        known = class_numbers(labels)
        for row in rows:
            for label in self.labels_of(row):
                if class_key(label) not in known:
                    expected = f"one of the run's labels, {', '.join(labels[:12])}"
                    raise RequestError(Problem(row.where, expected, label))
        kept = [number for number, row in enumerate(rows) if self.texts(row)]
        if not kept:
            hint = f"none of the {len(rows):,} has any"
            raise RequestError(Problem("--data", "rows with text", hint=hint))
        assert self.objective is not None
        objective = self.objective.bound_to_rows(tokenizer, self.sequence_length)
        positions = evaluation_positions(tokenizer.vocab_size)

        @cache
        def held() -> tuple[MemoryTable, list[int]]:
            fields, numbers = self._encode_rows(rows, kept, tokenizer, labels)
            return MemoryTable(fields, objective, self.kinds), numbers

        def names(row: int) -> list[str]:
            return [labels[known[class_key(label)]] for label in self.labels_of(rows[row])]

        return Evaluated(
            self,
            split,
            lambda: loader(ExampleEvaluation(held()[0], positions)),
            lambda: np.array(held()[1]),
            rows,
            kept,
            names if labels else None,
        )

    def _encode_rows(
        self,
        rows: Sequence[Row],
        kept: Sequence[int],
        tokenizer: Tokenizer,
        labels: Sequence[str],
    ) -> tuple[dict[str, list[Any]], list[int]]:
        """The fields of some rows' examples, and the number of the row that each is from."""
        examples: list[dict[str, list[Any]]] = []
        numbers: list[int] = []
        cut = 0
        for first in range(0, len(kept), GROUP_SIZE):
            group = kept[first : first + GROUP_SIZE]
            found = self.encoded([rows[number] for number in group], tokenizer, labels)
            for number, each in zip(group, found, strict=True):
                examples += each.fields
                numbers += [number] * len(each.fields)
                cut += each.truncated > 0
        warn_of_cut(cut, self.sequence_length)
        return {name: [each[name] for each in examples] for name in self.fields}, numbers

    def pieces_of(
        self, encodings: Sequence[tokenizers.Encoding]
    ) -> tuple[Sequence[tokenizers.Encoding], int]:
        """Of a text's pieces those that become examples, and how many tokens the others have."""
        taken = encodings if self.too_long == "chunk" else encodings[:1]
        return taken, sum(map(len, encodings[len(taken) :]))

    # -- reading ------------------------------------------------------------------------------

    def _fields(self, split: Split) -> dict[str, Column]:
        return {name: self.store.column(split, name) for name in self.fields}

    def _training_table(self) -> ExampleTable:
        assert self.objective is not None
        table = ExampleTable(self._fields("train"), self.objective, self.kinds)
        if self.fraction == 1:
            return table
        count = len(table)
        keys = round_keys(FRACTION_STREAM, 0, 0)  # the same part for every seed
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
    """A text without its spaces and case, which tokenizers may change."""
    return "".join(text.casefold().split())
