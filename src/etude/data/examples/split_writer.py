"""A source's rows to files of numbers, a file for each field, with counts of both."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.columns import FLOATS, INTEGERS, ColumnWriter
from etude.data.examples.classes import class_key, class_name, class_numbers
from etude.data.examples.source import SPLITS, Encoded, ExampleSource, Inspection, Row, Split
from etude.data.examples.spool import GROUP_SIZE, Spool, SpooledRow
from etude.data.store import TOKENIZER, Meta, write_store
from etude.data.tokenizer import Tokenizer, most_is_lost
from etude.errors import Problem, RequestError

log = logging.getLogger("etude.data")

ROW = "row"  # the column of the row that each example is from
MAX_REPORTED = 3  # rows that a message names
COUNTERS = (
    "rows", "examples", "tokens", "unknown", "empty", "truncated", "truncated_tokens", "repeated",
    "leaked", "dropped",
)  # fmt: skip


@dataclass(frozen=True)
class ExampleSplitMeta:
    """What a split holds.

    Attributes:
        rows: rows with text, before any was left out.
        examples: what the files hold.
        tokens: in all fields of tokens.
        longest: the most tokens in an example.
        unknown: tokens that stand for what the tokenizer doesn't know, and characters without any.
        empty: rows without text, left out.
        truncated: examples of which something was cut off, and
        truncated_tokens: how much.
        repeated: rows that another row of the split says too.
        leaked: rows that stand in a split before (test, val, train), and
        dropped: how many of these were left out.
        labels: how many examples have each label, in the order of `Meta.labels`.
        sha256: of the numbers.
    """

    rows: int
    examples: int
    tokens: int
    longest: int
    unknown: int
    empty: int
    truncated: int
    truncated_tokens: int
    repeated: int
    leaked: int
    dropped: int
    labels: list[int]
    sha256: str

    @classmethod
    def of(cls, values: dict[str, Any]) -> ExampleSplitMeta:
        """From plain data, as `meta.json` holds it."""
        return cls(**values)

    @property
    def lists(self) -> int:
        """Of each column."""
        return self.examples


def write_examples(folder: Path, source: ExampleSource, identity: dict[str, Any]) -> None:
    """Makes the tokenizer and writes all splits, and `meta.json`.

    Args:
        folder: empty.
        identity: what decides what is written; `meta.json` says it.

    Raises:
        RequestError: the rows can't be used; says which, and why.
    """
    log.info("preparing data in %s", folder.with_suffix(""))
    spool = Spool(source, folder)
    held = _held_out_keys(source, spool)
    inspection = source.inspection()
    labels = _collect_labels(source, spool, held, inspection)
    notes = inspection.notes(labels)
    tokenizer = source.recipe.train(_training_texts(spool, held))
    if source.framed:
        tokenizer = tokenizer.with_frame()
    tokenizer.save(folder / TOKENIZER)
    seen: dict[bytes, Split] = {}
    splits = {}
    for split in SPLITS:
        splits[split] = _SplitWriter(folder, source, split, tokenizer, labels, seen).write(spool)
    spool.remove()
    for split in ("train", "val"):
        if splits[split].examples == 0:
            where = "data.path" if split == "train" else "data.validation"
            found = splits[split]
            hint = f"{found.rows} rows with text, {found.empty} without"
            if found.dropped:
                hint += f"; {found.dropped} stand in another split too: data.duplicates=drop"
            expected = f"examples for {'training' if split == 'train' else 'validation'}"
            raise RequestError(Problem(where, expected, hint=hint))
    write_store(
        folder,
        tokenizer,
        identity=identity,
        columns=column_types(source),
        splits={str(name): found for name, found in splits.items()},
        labels=labels,
        notes=notes,
    )


def column_types(source: ExampleSource) -> dict[str, str]:
    """The types of a source's columns: its fields, and the row that each example is from."""
    floats = source.kinds.floats
    types = {name: FLOATS if name in floats else INTEGERS for name in source.fields}
    return types | {ROW: INTEGERS}


def log_summary(meta: Meta, duplicates: str, too_long: str) -> None:
    """What a user should know of the data, a line each."""
    for note in meta.notes:
        log.info("%s", note)
    for split in reversed(SPLITS):
        found = meta.splits[split]
        if found.rows == found.empty == 0 and split == "test":
            continue
        parts = [f"{found.examples:,} examples", f"{found.tokens:,} tokens"]
        if found.truncated:
            parts.append(f"{found.truncated:,} cut to length")
        elif found.examples > found.rows - found.dropped and too_long == "chunk":
            rows = found.rows - found.dropped
            more = found.examples - rows
            parts.append(f"of {rows:,} rows, the long ones in {more:,} pieces more")
        log.info("%s: %s", split, ", ".join(parts))
        if found.empty:
            log.warning("%s: %s rows without text left out", split, f"{found.empty:,}")
        if found.leaked:
            what = "left out" if duplicates == "drop" else "kept: data.duplicates=drop leaves them"
            other = "validation or test" if split == "train" else "test"
            log.warning("%s: %s rows stand in %s too, %s", split, f"{found.leaked:,}", other, what)


def _held_out_keys(source: ExampleSource, spool: Spool) -> set[bytes]:
    """The keys of the rows that are not trained on, if some are left out for that."""
    if source.duplicates != "drop":
        return set()
    splits: tuple[Split, ...] = ("test", "val")
    held = {read.key for split in splits for read in spool.rows(split)}
    some_left = any(read.key not in held for read in spool.rows("train"))
    return held if some_left else set()  # else it is refused when the splits are written


def _training_texts(spool: Spool, held: Container[bytes]) -> Iterator[str]:
    """What the tokenizer learns from: what is trained on."""
    for read in spool.rows("train"):
        if read.key not in held:
            yield from read.texts


def _collect_labels(
    source: ExampleSource, spool: Spool, held: Container[bytes], inspection: Inspection
) -> list[str]:
    """The labels in order: as stated, or those of the training split, of rows that are kept.

    Args:
        held: the keys of the rows that are not trained on.
        inspection: sees every row that has text.

    Raises:
        RequestError: a label that is not stated, or that no training row has.
    """
    stated = source.stated_labels
    trained: Counter[str] = Counter()
    left_out: Counter[str] = Counter()  # of training
    first: dict[str, tuple[str, str]] = {}  # where each class is met, and how it is spelt there
    spellings: dict[str, set[str]] = {}  # of each class, in rows that are kept
    earlier: set[bytes] = set()  # of splits before this one
    problems: list[Problem] = []
    for split in SPLITS:
        own: set[bytes] = set()
        for row, texts, key in spool.rows(split):
            if not texts:
                continue
            own.add(key)
            try:
                labels = source.labels_of(row)
                inspection.row(row)
            except RequestError as error:
                problems += error.problems
                if len(problems) >= MAX_REPORTED:
                    raise RequestError(problems) from error
                continue
            if key in held if split == "train" else source.duplicates == "drop" and key in earlier:
                left_out.update(map(class_key, labels if split == "train" else ()))
                continue
            for label in labels:
                name = class_key(label)
                trained[name] += split == "train"
                first.setdefault(name, (row.where, label))
                spellings.setdefault(name, set()).add(label)
        earlier |= own
    if problems:
        raise RequestError(problems)
    if stated is None:
        if unseen := [name for name in first if not trained[name]]:
            expected = "a label that the training split has"
            usual = "data.labels can state them all, also those that nobody has trained on"
            hints = {
                name: f"{usual}; all {left_out[name]} training rows with it are left out by "
                "data.duplicates=drop, as they stand in another split, too"
                if left_out[name]
                else usual
                for name in unseen[:MAX_REPORTED]
            }
            raise RequestError(
                [Problem(first[n][0], expected, first[n][1], hint) for n, hint in hints.items()]
            )
        names = [class_name(name, spellings[name]) for name in trained]
        return sorted(names, key=_label_sort_key)
    if not source.states_classes:
        return stated
    numbers = class_numbers(stated)
    if unknown := [found for name, found in first.items() if name not in numbers]:
        expected = f"one of data.labels, {', '.join(stated[:12])}"
        raise RequestError(
            [Problem(where, expected, name) for where, name in unknown[:MAX_REPORTED]]
        )
    if untrained := [name for name in stated if not trained[class_key(name)]]:
        log.warning("no training example has the label %s", ", ".join(untrained))
    return stated


class _SplitWriter:
    """Rows of a split in, numbers out, and counts of both.

    Args:
        labels: the names, by number.
        seen: the split of each row before, by its key; those of this one are added.
    """

    def __init__(
        self,
        folder: Path,
        source: ExampleSource,
        split: Split,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        seen: dict[bytes, Split],
    ) -> None:
        self.source, self.split, self.tokenizer = source, split, tokenizer
        self.labels, self.seen = labels, seen
        self.files = {
            name: ColumnWriter(folder / f"{split}.{name}", dtype)
            for name, dtype in column_types(source).items()
        }
        self.counts: Counter[str] = Counter()
        self.balance = np.zeros(len(labels), dtype=np.int64)
        self.longest = 0
        self.lost: Counter[str] = Counter()  # characters without a token
        self.characters = 0  # that are counted for that
        self.leaked_at: list[str] = []

    def write(self, spool: Spool) -> ExampleSplitMeta:
        """Writes all, and says what was written.

        Raises:
            RequestError: a row is too long, or stands in another split too, and that is refused.
        """
        for group, encoded in self._encoded(spool):
            examples: list[Mapping[str, list[Any]]] = []
            rows: list[int] = []
            for (number, read), each in zip(group, encoded, strict=True):
                self._check_length(read.row, each)
                self._count_lost(read.texts)
                examples += each.fields
                rows += [number] * len(each.fields)
            self._append(rows, examples)
        digests = "".join(file.close() for file in self.files.values())
        if problem := most_is_lost(self.lost, self.characters, self.split):
            raise RequestError(problem)
        if self.leaked_at and self.source.duplicates == "refuse":
            hint = f"{self.counts['leaked']} in all; data.duplicates=drop leaves them out"
            expected = "a row of one split alone"
            raise RequestError([Problem(where, expected, hint=hint) for where in self.leaked_at])
        for where in self.leaked_at:
            log.debug("%s", where)
        return ExampleSplitMeta(
            **{name: self.counts[name] for name in COUNTERS},
            longest=self.longest,
            labels=self.balance.tolist(),
            sha256=hashlib.sha256(digests.encode()).hexdigest(),
        )

    def _encoded(
        self, spool: Spool
    ) -> Iterator[tuple[list[tuple[int, SpooledRow]], list[Encoded]]]:
        """Groups of rows, encoded; the next one is encoded while the caller works on this one."""
        rows = self._kept(spool)
        waiting = None
        with ThreadPoolExecutor(1, "encoding") as pool:
            while group := list(islice(rows, GROUP_SIZE)):
                batch = [read.row for _, read in group]
                future = pool.submit(self.source.encoded, batch, self.tokenizer, self.labels)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = group, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _kept(self, spool: Spool) -> Iterator[tuple[int, SpooledRow]]:
        """The rows with text that are not left out, with their numbers."""
        own: set[bytes] = set()
        for number, read in enumerate(spool.rows(self.split)):
            row, texts, key = read
            if not texts:
                self.counts["empty"] += 1
                continue
            self.counts["rows"] += 1
            before = self.seen.setdefault(key, self.split)
            if key in own:
                self.counts["repeated"] += 1
            own.add(key)
            if before != self.split:
                self.counts["leaked"] += 1
                if len(self.leaked_at) < MAX_REPORTED:
                    self.leaked_at.append(f"{row.where} stands in {_split_title(before)} too")
                if self.source.duplicates == "drop":
                    self.counts["dropped"] += 1
                    continue
            yield number, read

    def _check_length(self, row: Row, encoded: Encoded) -> None:
        cut = encoded.truncated > 0
        if (cut or len(encoded.fields) > 1) and self.source.too_long == "refuse":
            expected = f"at most data.sequence_length = {self.source.sequence_length} tokens"
            ways = "truncate or chunk takes" if self.source.chunks else "truncate takes"
            hint = f"data.too_long={ways} longer ones"
            raise RequestError(Problem(row.where, expected, hint=hint))
        self.counts["truncated"] += cut
        self.counts["truncated_tokens"] += encoded.truncated

    def _count_lost(self, texts: Sequence[str]) -> None:
        if self.tokenizer.loses:
            for text in texts:
                lost = self.tokenizer.lost_pieces(text)
                self.characters += len(text)
                self.lost.update(lost)
                self.counts["unknown"] += lost.total()

    def _append(self, rows: Sequence[int], examples: Sequence[Mapping[str, list[Any]]]) -> None:
        """Writes examples, each with the number of its row."""
        sizes = np.zeros(len(examples), dtype=np.int64)
        unknown = self.tokenizer.unknown
        for name in self.source.fields:
            lists = [fields[name] for fields in examples]
            lengths = self.files[name].extend(lists)
            if name in self.source.text_fields:
                sizes += lengths
                if unknown is not None:
                    self.counts["unknown"] += sum(ids.count(unknown) for ids in lists)
            elif name in ("label", "tags"):
                numbers = np.fromiter(chain.from_iterable(lists), np.int64)
                self.balance += np.bincount(numbers[numbers >= 0], minlength=len(self.balance))
        self.files[ROW].extend([[number] for number in rows])
        self.counts["examples"] += len(examples)
        self.counts["tokens"] += int(sizes.sum())
        self.longest = max(self.longest, int(sizes.max(initial=0)))


def _label_sort_key(label: str) -> tuple[int, float, str]:
    """Numbers by their value, before all other names."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _split_title(split: Split) -> str:
    return {"train": "the training split", "val": "validation", "test": "test"}[split]
