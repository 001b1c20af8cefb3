"""Writer of prepared splits: a column of numbers for each field of the examples, and statistics."""

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

from etude.counts import counted
from etude.data.columns import FLOATS, INTEGERS, ColumnWriter
from etude.data.examples.classes import class_key, class_name, class_numbers
from etude.data.examples.source import SPLITS, Encoded, ExampleSource, Inspection, Row, Split
from etude.data.examples.spool import GROUP_SIZE, Spool, SpooledRow
from etude.data.store import TOKENIZER, StoreMeta, write_store
from etude.data.tokenizer import Tokenizer, lost_text_problem
from etude.errors import Problem, RequestError
from etude.escaping import printable

log = logging.getLogger("etude.data")

ROW = "row"  # column of the row number of each example
MAX_REPORTED = 3  # rows in an error message
COUNTERS = (
    "rows", "examples", "tokens", "unknown", "empty", "truncated", "truncated_tokens", "repeated",
    "leaked", "dropped",
)  # fmt: skip


@dataclass(frozen=True)
class ExampleSplitMeta:
    """Statistics of a prepared split, as saved in `meta.json`.

    Attributes:
        rows: number of rows with text, including dropped rows.
        examples: number of examples that were built from the rows.
        tokens: number of tokens in all text fields, including special tokens; the end tokens of
            text pairs for generation (`Pairs`, `Catalogs`) are not stored and not counted.
        longest: number of tokens of the longest example, in all its text fields, counted as in
            `tokens`.
        unknown: number of unknown tokens, plus the number of characters that the tokenizer drops
            because it has neither a token for them nor an unknown token.
        empty: number of rows without text, which are skipped.
        truncated: number of truncated examples.
        truncated_tokens: number of tokens that were cut off; see `Encoded`.
        repeated: number of rows whose text occurs earlier in the split.
        leaked: number of rows that are also in an earlier split (in the order test, val, train).
        dropped: number of leaked rows that were dropped.
        labels: number of examples of each label, in the order of `StoreMeta.labels`; for tags, the
            number of words with each tag. All numbers are 0 if the labels are names of columns.
        sha256: SHA-256 hash of the columns.
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
        """Returns the statistics, from the JSON values in `meta.json`."""
        return cls(**values)

    @property
    def lists(self) -> int:
        """The number of lists in each column: one list per example."""
        return self.examples


def write_examples(folder: Path, source: ExampleSource, identity: dict[str, Any]) -> None:
    """Trains the tokenizer, and writes the tokenizer, all splits and `meta.json` to a folder.

    Args:
        folder: an empty folder.
        source: object that yields the rows and converts them to examples.
        identity: settings that determine the result, stored in `meta.json`.

    Raises:
        RequestError: a row is invalid, or there are no examples for training or validation.
    """
    log.info("preparing data in %s", folder.with_suffix(""))
    spool = Spool(source, folder)
    held_out = _held_out_keys(source, spool)
    inspection = source.inspection()
    labels = _collect_labels(source, spool, held_out, inspection)
    notes = inspection.notes(labels)
    tokenizer = source.recipe.train(_training_texts(spool, held_out))
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
            meta = splits[split]
            hint = f"the split has {meta.rows} rows with text and {meta.empty} rows without text"
            if split == "val" and meta.rows == meta.empty == 0:
                hint = f"the split has no rows, and the training split has {splits['train'].rows}; "
                hint += "set a larger fraction, or files with rows"
            if meta.dropped:
                hint += f"; data.duplicates=drop dropped {meta.dropped} rows, "
                hint += "which are also in another split"
            expected = f"examples for {'training' if split == 'train' else 'validation'}"
            raise RequestError(Problem(where, expected, hint=hint))
    write_store(
        folder,
        tokenizer,
        identity=identity,
        columns=column_types(source),
        splits={str(name): meta for name, meta in splits.items()},
        labels=labels,
        notes=notes,
    )


def column_types(source: ExampleSource) -> dict[str, str]:
    """Returns a dict from the name of each column of a source to its data type.

    A data type is a NumPy type: `<i4` for integers, `<f4` for floating-point numbers. The
    columns contain the source's fields and, as `row`, the row number of each example.
    """
    floats = source.kinds.floats
    types = {name: FLOATS if name in floats else INTEGERS for name in source.fields}
    return types | {ROW: INTEGERS}


def log_summary(meta: StoreMeta, duplicates: str, too_long: str) -> None:
    """Logs notes on the prepared data, the size of each split, and warnings.

    Args:
        meta: metadata of the prepared data.
        duplicates, too_long: see `ExampleData`.
    """
    for note in meta.notes:
        log.info("%s", note)
    for split in reversed(SPLITS):
        counts = meta.splits[split]
        if counts.rows == counts.empty == 0 and split == "test":
            continue
        parts = [counted(counts.examples, "example"), counted(counts.tokens, "token")]
        if counts.truncated:
            parts.append(f"{counts.truncated:,} truncated")
        elif counts.examples > counts.rows - counts.dropped and too_long == "chunk":
            rows = counts.rows - counts.dropped
            more = counts.examples - rows
            parts.append(f"from {rows:,} rows ({more:,} additional examples from long rows)")
        log.info("%s: %s", split, ", ".join(parts))
        if split == "val":
            _warn_of_missing_labels(meta)
        if counts.empty:
            log.warning("%s: skipped %s rows without text", split, f"{counts.empty:,}")
        if counts.leaked:
            action = "were kept (to drop them, set data.duplicates=drop)"
            if duplicates == "drop":
                action = "were dropped"
            other = "validation or test" if split == "train" else "test"
            count = f"{counts.leaked:,}"
            log.warning("%s: %s rows are also in %s and %s", split, count, other, action)


def _warn_of_missing_labels(meta: StoreMeta) -> None:
    """Logs a warning if labels of the training split have no validation example."""
    pairs = zip(meta.labels, meta.splits["train"].labels, meta.splits["val"].labels, strict=False)
    missing = [name for name, training, validation in pairs if training and not validation]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        names = ", ".join(printable(name[:40], line=True) for name in missing[:5]) + more
        log.warning("val: no example has the label %s", names)


def _held_out_keys(source: ExampleSource, spool: Spool) -> set[bytes]:
    """Returns the keys of all rows in validation and test.

    A key is a hash of a row's texts; see `spool.text_key`. Training rows with one of the returned
    keys are duplicates and are dropped. The set is empty if the config keeps such duplicates, or if
    no training row would be left.
    """
    if source.duplicates != "drop":
        return set()
    splits: tuple[Split, ...] = ("test", "val")
    held_out = {spooled.key for split in splits for spooled in spool.rows(split)}
    has_others = any(spooled.key not in held_out for spooled in spool.rows("train"))
    return held_out if has_others else set()  # an empty training split is reported later


def _training_texts(spool: Spool, held_out: Container[bytes]) -> Iterator[str]:
    """Yields the texts on which the tokenizer is trained: those of the rows of the training split.

    `held_out` are the keys of rows that are also in another split; these rows are skipped. The key
    of a row is a hash of its texts.
    """
    for spooled in spool.rows("train"):
        if spooled.key not in held_out:
            yield from spooled.texts


def _collect_labels(
    source: ExampleSource, spool: Spool, held_out: Container[bytes], inspection: Inspection
) -> list[str]:
    """Returns the labels in order: those set in the config, or else those of the training rows that
    are not dropped. The list is empty for sources without labels.

    Args:
        held_out: keys of the rows to drop from training.
        inspection: object that checks every row with text.

    Raises:
        RequestError: a label is not in the config, or has no training row.
    """
    stated = source.stated_labels
    training_counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()  # training rows
    first: dict[str, tuple[str, str]] = {}  # of each class: position and spelling
    spellings: dict[str, set[str]] = {}  # of each class, without dropped rows
    earlier: set[bytes] = set()  # texts of earlier splits
    problems: list[Problem] = []
    for split in SPLITS:
        current: set[bytes] = set()
        for row, texts, key in spool.rows(split):
            if not texts:
                continue
            current.add(key)
            try:
                labels = source.labels_of(row)
                inspection.row(row)
            except RequestError as error:
                problems += error.problems
                if len(problems) >= MAX_REPORTED:
                    raise RequestError(problems) from error
                continue
            repeated = source.duplicates == "drop" and key in earlier
            if key in held_out if split == "train" else repeated:
                dropped.update(map(class_key, labels if split == "train" else ()))
                continue
            for label in labels:
                name = class_key(label)
                training_counts[name] += split == "train"
                first.setdefault(name, (row.where, label))
                spellings.setdefault(name, set()).add(label)
        earlier |= current
    if problems:
        raise RequestError(problems)
    if stated is None:
        if unseen := [name for name in first if not training_counts[name]]:
            expected = "a label that occurs in the training split"
            general = "to include labels without training examples, list all labels in data.labels"
            hints = {
                name: f"{general}; data.duplicates=drop drops all {dropped[name]} training rows "
                "with this label, because they are also in another split"
                if dropped[name]
                else general
                for name in unseen[:MAX_REPORTED]
            }
            raise RequestError(
                [Problem(first[n][0], expected, first[n][1], hint) for n, hint in hints.items()]
            )
        names = [class_name(name, spellings[name]) for name in training_counts]
        return sorted(names, key=_label_sort_key)
    if not source.states_classes:
        return stated
    numbers = class_numbers(stated)
    if unknown := [spelling for name, spelling in first.items() if name not in numbers]:
        expected = f"one of the labels in data.labels: {', '.join(stated[:12])}"
        raise RequestError(
            [Problem(where, expected, name) for where, name in unknown[:MAX_REPORTED]]
        )
    if untrained := [name for name in stated if not training_counts[class_key(name)]]:
        log.warning("labels without training examples: %s", ", ".join(untrained))
    return stated


class _SplitWriter:
    """Writer of the encoded rows of a split to columns; also counts rows and examples.

    Args:
        labels: names of the labels, in the order of their numbers.
        seen: dict from the key of each row (a hash of its texts) to the first split that contains
            the row; `write` adds the rows of its split.
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
        self.lost: Counter[str] = Counter()  # characters without a token, by character
        self.characters = 0  # all characters
        self.leaked_at: list[str] = []

    def write(self, spool: Spool) -> ExampleSplitMeta:
        """Writes all rows and returns the statistics.

        Raises:
            RequestError: a row is too long or is also in another split, and the config refuses
                such rows; or the tokenizer has no tokens for more than half of the characters.
        """
        for group, encoded in self._encoded(spool):
            examples: list[Mapping[str, list[Any]]] = []
            rows: list[int] = []
            for (number, spooled), each in zip(group, encoded, strict=True):
                self._check_length(spooled.row, each)
                self._count_lost(spooled.texts)
                examples += each.fields
                rows += [number] * len(each.fields)
            self._append(rows, examples)
        digests = "".join(file.close() for file in self.files.values())
        if problem := lost_text_problem(self.lost, self.characters, self.split):
            raise RequestError(problem)
        if self.leaked_at and self.source.duplicates == "refuse":
            hint = (
                f"{self.counts['leaked']} rows are in two splits; to remove them from training, or "
            )
            hint += "from validation if they are also in test, set data.duplicates=drop"
            expected = "a row in only one split"
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
        """Yields pairs of lists: a group of rows, and the encoded examples of each of these rows.

        Each item of the first list is a row number and its row. The next group is encoded while the
        caller processes the current group.
        """
        rows = self._used_rows(spool)
        waiting = None
        with ThreadPoolExecutor(1, "encoding") as pool:
            while group := list(islice(rows, GROUP_SIZE)):
                batch = [spooled.row for _, spooled in group]
                future = pool.submit(self.source.encoded, batch, self.tokenizer, self.labels)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = group, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _used_rows(self, spool: Spool) -> Iterator[tuple[int, SpooledRow]]:
        """Yields pairs (number in the split, row) for the rows that have text and are not dropped.

        Empty, repeated and dropped rows are counted.
        """
        current: set[bytes] = set()
        for number, spooled in enumerate(spool.rows(self.split)):
            row, texts, key = spooled
            if not texts:
                self.counts["empty"] += 1
                continue
            self.counts["rows"] += 1
            before = self.seen.setdefault(key, self.split)
            if key in current:
                self.counts["repeated"] += 1
            current.add(key)
            if before != self.split:
                self.counts["leaked"] += 1
                if len(self.leaked_at) < MAX_REPORTED:
                    self.leaked_at.append(f"{row.where} (also in {_split_title(before)})")
                if self.source.duplicates == "drop":
                    self.counts["dropped"] += 1
                    continue
            yield number, spooled

    def _check_length(self, row: Row, encoded: Encoded) -> None:
        cut = encoded.truncated > 0
        if (cut or len(encoded.fields) > 1) and self.source.too_long == "refuse":
            expected = f"at most data.sequence_length = {self.source.sequence_length} tokens"
            hint = "to cut off the end, set data.too_long=truncate"
            if self.source.chunks:
                hint += "; to split the row into several examples, set data.too_long=chunk"
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
        """Appends examples to the columns.

        Args:
            rows: for each example, the number of its row in the split.
            examples: for each example, a dict from field names to lists of numbers.
        """
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
    """Returns a sort key of a label: numbers are sorted by value, before all other names.

    A number is a label that Python's `float` can convert. Other names are sorted as Python sorts
    text.
    """
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _split_title(split: Split) -> str:
    return {"train": "the training split", "val": "validation", "test": "test"}[split]
