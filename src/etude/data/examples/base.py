"""Examples with fields as a Lightning data module.

A source says what its rows are and how a row becomes fields (`LabelledFiles`, `Pairs`, `Tagged`);
all the rest is here: splits, duplicates, rows to files of numbers, once (`prepare`), and
numbers to batches (`attach`, `train_dataloader`, `val_dataloader`), as the task's objective says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pytorch_lightning as pl
import tokenizers
from torch.utils.data import DataLoader

from etude.data.cache import built_once
from etude.data.examples.batches import ExampleBatches
from etude.data.examples.ragged import Ragged, RaggedWriter
from etude.data.examples.steps import ExampleEvaluation, ExampleSteps, Table
from etude.data.loading import loader
from etude.data.objective import ExampleObjective
from etude.data.order import permute, round_keys
from etude.data.text import Batch
from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Checks, Problem, RequestError

log = logging.getLogger("etude.data")

FORMAT = 1  # of the folder
GROUP = 1000  # rows encoded at a time
EVALUATION_POSITIONS = 8192  # in a batch of evaluation, padding included
FRACTION_STREAM = 0x46524143
SHOWN = 3  # rows that a message names

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("test", "val", "train")
"""In the order in which they are read: a row that stands in two belongs to the first."""


Item = TypeVar("Item")


class Row(NamedTuple):
    """One row of the data.

    Attributes:
        where: for messages, such as `train.csv, line 7`.
        values: by the source's own names.
    """

    where: str
    values: dict[str, Any]


@dataclass
class Encoded:
    """What becomes of a row.

    Attributes:
        fields: an example for each piece of it; usually one.
        truncated: tokens that were cut off.
    """

    fields: list[dict[str, list[int]]]
    truncated: int = 0


@dataclass(frozen=True)
class SplitMeta:
    """What a split holds.

    Attributes:
        rows: rows with text, before any was left out.
        examples: what the files hold.
        tokens: in all fields of tokens.
        longest: the most tokens in an example.
        unknown: tokens that stand for what the tokenizer doesn't know.
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


@dataclass(frozen=True)
class Meta:
    """What a prepared folder holds: `meta.json`.

    Attributes:
        labels: the names of the labels or tags, by number.
        fields: of each example.
    """

    format: int
    content: str
    settings: dict[str, Any]
    recipe: dict[str, Any]
    tokenizer: str
    vocab_size: int
    labels: list[str]
    fields: list[str]
    splits: Mapping[str, SplitMeta] = field(default_factory=dict)


class ExampleData(pl.LightningDataModule, ABC):
    """Examples from rows, each of at most `sequence_length` tokens.

    A run calls, in this order: `for_task`, `check`, `prepare`, `attach`, and then the loaders as
    often as it likes.

    Args:
        tokenizer: how to make the tokenizer.
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
        workers: processes that assemble batches; the batches don't depend on it.

    Attributes:
        fields: of an example.
        text_fields: those of them that hold tokens.
        framed: whether special tokens stand around a text, as encoders read it.
        section_names: none; a mixture of texts has some.
    """

    fields: tuple[str, ...]
    text_fields: tuple[str, ...] = ("tokens",)
    framed = True
    section_names: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        too_long: str = "truncate",
        duplicates: str = "warn",
        fraction: float = 1.0,
        bucket_steps: int = 50,
        workers: int = 0,
        checks: Checks | None = None,
    ) -> None:
        super().__init__()
        checks = checks or Checks()
        checks.positive(sequence_length=sequence_length, bucket_steps=bucket_steps)
        checks.that(0 < fraction <= 1, "fraction", fraction, "a part above 0, up to 1")
        checks.that(workers >= 0, "workers", workers, "a number from 0 on")
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
            enough = batch.tokens >= sequence_length
            expected = f"at least sequence_length = {sequence_length}: an example may take as many"
            checks.that(enough, "batch.tokens", batch.tokens, expected)
        checks.done()
        self.recipe = tokenizer
        self.sequence_length, self.batch = sequence_length, batch
        self.too_long, self.duplicates, self.fraction = too_long, duplicates, fraction
        self.bucket_steps, self.workers = bucket_steps, workers
        self.objective: ExampleObjective | None = None
        self._folder: Path | None = None
        self._meta: Meta | None = None
        self._tokenizer: Tokenizer | None = None
        self._attached: ExampleSteps | None = None

    # -- what a source says -------------------------------------------------------------------

    @abstractmethod
    def rows(self, split: Split) -> Iterator[Row]:
        """The rows of a split, in order; none if there is no such split."""

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """What the tokenizer learns from, and by what a row is known again; empty if it has no
        text.
        """

    @abstractmethod
    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        """The fields of each row."""

    def labels_of(self, row: Row) -> list[str]:
        """The labels that a row states; a source without labels has none."""
        return []

    @property
    def stated_labels(self) -> list[str] | None:
        """All labels in order, if the config says them."""
        return None

    @abstractmethod
    def content_fingerprint(self) -> str:
        """sha256 (hex) of the raw content of all splits."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What, besides the content, decides the examples, as plain JSON values."""

    @abstractmethod
    def check(self) -> None:
        """Looks whether the data is there and readable; writes nothing.

        Raises:
            RequestError: it isn't.
        """

    def origin(self) -> dict[str, object]:
        """Where the data comes from, for the record, if a path in the config doesn't say it."""
        return {}

    # -- as every data module -----------------------------------------------------------------

    def for_task(self, objective: Any) -> None:
        """Says what the task makes of the examples.

        Raises:
            RequestError: the task reads running text, or fields that these have not.
        """
        if objective is None or objective.reads != "examples":
            expected = "data of running text for this task, such as data=text_files"
            raise RequestError(Problem("data", expected, type(self).__name__))
        missing = [name for name in objective.fields if name not in self.fields]
        if missing:
            hint = f"{type(self).__name__} gives {', '.join(self.fields)}"
            expected = f"examples with {', '.join(objective.fields)}"
            raise RequestError(Problem("data", expected, hint=hint))
        self.objective = objective

    def fingerprint(self) -> str:
        """sha256 (hex) of all that the examples come from.

        Raises:
            RequestError: it can't be read.
        """
        content, tokenizer = self.content_fingerprint(), self.recipe.fingerprint()
        if tokenizer is None:
            return content
        return hashlib.sha256(f"{content} {tokenizer}".encode()).hexdigest()

    def prepare(self, cache_dir: Path) -> None:
        """Turns rows into files of numbers, or finds them there.

        Raises:
            RequestError: the rows can't be used; says which, and why.
        """
        identity = {
            "format": FORMAT,
            "kind": type(self).__name__,
            "content": self.content_fingerprint(),
            "settings": {
                **self.settings(),
                "sequence_length": self.sequence_length,
                "too_long": self.too_long,
                "duplicates": self.duplicates,
            },
            "recipe": self.recipe.settings(),
        }
        text = json.dumps(identity, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        folder = built_once(cache_dir, key, lambda folder: self._build(folder, identity))
        try:
            values = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            splits = {name: SplitMeta(**each) for name, each in values.pop("splits").items()}
            meta = Meta(**values, splits=splits)
            self._tokenizer = Tokenizer.load(folder / "tokenizer.json")
        except (OSError, ValueError, TypeError, KeyError) as error:
            hint = f"remove the folder {folder} and it will be made again; {error}"
            raise RequestError(Problem(str(folder), "prepared data", hint=hint)) from error
        self._folder, self._meta = folder, meta
        _tell(meta, self.duplicates, self.too_long)
        assert self.objective is not None
        self.objective = self.objective.bound(self._tokenizer, meta)
        lengths = {name: each.lengths for name, each in self._fields("train").items()}
        if cut := self.objective.cut(lengths):
            if self.too_long == "refuse":
                expected = f"more: {cut:,} training examples are longer"
                hint = "data.too_long=truncate cuts their ends off"
                problem = Problem("data.sequence_length", expected, self.sequence_length, hint)
                raise RequestError(problem)
            log.warning("train: the ends of %s answers are cut off", f"{cut:,}")

    @property
    def meta(self) -> Meta:
        """What the splits hold."""
        if self._meta is None:
            raise RuntimeError("prepare(cache_dir) comes first")
        return self._meta

    @property
    def tokenizer_(self) -> Tokenizer:
        """The tokenizer that the examples were encoded with."""
        if self._tokenizer is None:
            raise RuntimeError("prepare(cache_dir) comes first")
        return self._tokenizer

    @property
    def labels(self) -> list[str]:
        """The names of the labels or tags, by number."""
        return self.meta.labels

    def table(self, split: Split) -> Table:
        """The examples of a split."""
        assert self.objective is not None
        return Table(self._fields(split), self.objective)

    def rows_of(self, split: Split) -> np.ndarray:
        """The number of the row, from 0, that each example of a split is from."""
        assert self._folder is not None
        return Ragged(self._folder / f"{split}.row").values.astype(np.int64)

    @property
    def examples_per_step(self) -> int:
        """Examples in an optimizer step over all ranks; about, if it is a number of positions."""
        if self.batch.examples is not None:
            return self.batch.examples
        assert self.batch.tokens is not None
        mean: float = self.sequence_length
        if self._meta is not None:
            train = self.meta.splits["train"]
            mean = train.tokens / max(1, train.examples)
        return max(1, int(self.batch.tokens / max(mean, 1.0)))

    @property
    def shares_exactly(self) -> bool:
        """Whether a step must be a multiple of the ranks: here it need not."""
        return False

    @property
    def tokens_per_step(self) -> int:
        """Positions in an optimizer step, about: steps differ."""
        if self._meta is None:
            return self.examples_per_step * self.sequence_length
        train = self.meta.splits["train"]
        return max(1, round(self.examples_per_step * train.tokens / max(1, train.examples)))

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which each training example is met once."""
        return float(self._batches(seed=0).steps_in_an_epoch)

    def evaluated_tokens(self, split: Split) -> int:
        """Positions in a whole split."""
        return self.meta.splits[split].tokens

    def bytes_predicted(self, split: Split) -> int | None:
        """None: the examples' tokens are no running text."""
        return None

    def attach(
        self,
        *,
        seed: int,
        micro_batch: int | None,
        total_steps: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Says which part of which run the training loader gives; see `TextData.attach`."""
        if micro_batch is not None and micro_batch < 1:
            problem = Problem("trainer.micro_batch", "a positive number", micro_batch)
            raise RequestError(problem)
        self._attached = ExampleSteps(
            self._training_table(),
            self._batches(seed),
            micro_batch=micro_batch,
            total_steps=total_steps,
            start_step=start_step,
            rank=rank,
            world=world,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The run's optimizer steps from `start_step` on; its length is that of the whole run."""
        if self._attached is None:
            raise RuntimeError("attach(...) comes first")
        return loader(self._attached, self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, on every rank."""
        return self.evaluation_batches("val")

    def evaluation_batches(self, split: Split) -> DataLoader[Any]:
        """A whole split, each example once; batches say by `index` which these are.

        Raises:
            RequestError: there is no such split, or nothing in it.
        """
        if self.meta.splits[split].examples == 0:
            where = {"val": "data.validation", "test": "data.test"}.get(split, "data.path")
            raise RequestError(Problem(where, f"examples for {split}; there are none"))
        return loader(ExampleEvaluation(self.table(split), EVALUATION_POSITIONS))

    def of_rows(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> tuple[Held, list[int]]:
        """Examples of rows that are in no split, and the number of the row that each is from.

        Rows without text have none. The data need not be prepared.
        """
        assert self.objective is not None
        for row in rows:
            for label in self.labels_of(row):
                if label not in labels:
                    expected = f"one of the run's labels, {', '.join(labels[:12])}"
                    raise RequestError(Problem(row.where, expected, label))
        kept = [number for number, row in enumerate(rows) if self.texts(row)]
        examples: list[dict[str, list[int]]] = []
        numbers: list[int] = []
        for first in range(0, len(kept), GROUP):
            group = kept[first : first + GROUP]
            found = self.encoded([rows[number] for number in group], tokenizer, labels)
            for number, each in zip(group, found, strict=True):
                examples += each.fields
                numbers += [number] * len(each.fields)
        return self.held(examples), numbers

    def pieces_of(
        self, encodings: Sequence[tokenizers.Encoding]
    ) -> tuple[Sequence[tokenizers.Encoding], int]:
        """Of a text's pieces those that become examples, and how many tokens the others have."""
        taken = encodings if self.too_long == "chunk" else encodings[:1]
        return taken, sum(len(piece.ids) for piece in encodings[len(taken) :])

    def held(self, examples: Sequence[Mapping[str, list[int]]]) -> Held:
        """Examples in memory, as the task's objective makes them."""
        assert self.objective is not None
        fields = {name: [each[name] for each in examples] for name in self.fields}
        return Held(fields, self.objective)

    # -- preparing ----------------------------------------------------------------------------

    def _build(self, folder: Path, identity: dict[str, Any]) -> None:
        log.info("preparing data in %s", folder.with_suffix(""))
        labels = self._labels()
        tokenizer = self.recipe.train(self._texts())
        if self.framed:
            tokenizer = tokenizer.with_frame()
        tokenizer.save(folder / "tokenizer.json")
        seen: dict[bytes, Split] = {}
        splits = {}
        for split in SPLITS:
            splits[split] = self._write(folder, split, tokenizer, labels, seen)
        for split in ("train", "val"):
            if splits[split].examples == 0:
                where = "data.path" if split == "train" else "data.validation"
                found = splits[split]
                hint = f"{found.rows} rows with text, {found.dropped} of them left out"
                expected = f"examples for {'training' if split == 'train' else 'validation'}"
                raise RequestError(Problem(where, expected, hint=hint))
        meta = Meta(
            format=FORMAT,
            content=identity["content"],
            settings=identity["settings"],
            recipe=identity["recipe"],
            tokenizer=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            labels=labels,
            fields=list(self.fields),
            splits={str(name): found for name, found in splits.items()},
        )
        told = json.dumps(asdict(meta), indent=2, ensure_ascii=False)
        (folder / "meta.json").write_text(told + "\n", encoding="utf-8")

    def _texts(self) -> Iterator[str]:
        for row in self.rows("train"):
            yield from self.texts(row)

    def _labels(self) -> list[str]:
        """The labels in order: as stated, or those of the training split.

        Raises:
            RequestError: a label that is not stated, or that no training row has.
        """
        stated = self.stated_labels
        counts: dict[Split, Counter[str]] = {}
        first: dict[str, str] = {}
        for split in SPLITS:
            counts[split] = Counter()
            for row in self.rows(split):
                if not self.texts(row):
                    continue
                for label in self.labels_of(row):
                    counts[split][label] += 1
                    first.setdefault(label, row.where)
        trained = counts["train"]
        if stated is None:
            if unseen := [name for name in first if name not in trained]:
                expected = "a label that the training split has"
                hint = "data.labels can state them all, also those that nobody has trained on"
                raise RequestError([Problem(first[n], expected, n, hint) for n in unseen[:SHOWN]])
            return sorted(trained, key=_natural)
        if unknown := [name for name in first if name not in stated]:
            expected = f"one of data.labels, {', '.join(stated[:12])}"
            raise RequestError([Problem(first[name], expected, name) for name in unknown[:SHOWN]])
        if untrained := [name for name in stated if not trained[name]]:
            log.warning("no training example has the label %s", ", ".join(untrained))
        return stated

    def _write(
        self,
        folder: Path,
        split: Split,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        seen: dict[bytes, Split],
    ) -> SplitMeta:
        names = [*self.fields, "row"]
        writers = {name: RaggedWriter(folder / f"{split}.{name}") for name in names}
        counts: Counter[str] = Counter()
        balance = [0] * len(labels)
        longest = 0
        leaked_at: list[str] = []
        unknown = tokenizer.unknown

        def kept() -> Iterator[tuple[int, Row]]:
            for number, row in enumerate(self.rows(split)):
                texts = self.texts(row)
                if not texts:
                    counts["empty"] += 1
                    continue
                counts["rows"] += 1
                key = _key(texts)
                before = seen.setdefault(key, split)
                if key in own:
                    counts["repeated"] += 1
                own.add(key)
                if before != split:
                    counts["leaked"] += 1
                    if len(leaked_at) < SHOWN:
                        leaked_at.append(f"{row.where} stands in {_called(before)} too")
                    if self.duplicates == "drop":
                        counts["dropped"] += 1
                        continue
                yield number, row

        own: set[bytes] = set()
        rows = kept()
        while group := list(islice(rows, GROUP)):
            found = self.encoded([row for _, row in group], tokenizer, labels)
            for (number, row), each in zip(group, found, strict=True):
                if (each.truncated or len(each.fields) > 1) and self.too_long == "refuse":
                    expected = f"at most data.sequence_length = {self.sequence_length} tokens"
                    hint = "data.too_long=truncate or chunk takes longer ones"
                    raise RequestError(Problem(row.where, expected, hint=hint))
                counts["truncated"] += each.truncated > 0
                counts["truncated_tokens"] += each.truncated
                for fields in each.fields:
                    counts["examples"] += 1
                    size = sum(len(fields[name]) for name in self.text_fields)
                    counts["tokens"] += size
                    longest = max(longest, size)
                    if unknown is not None:
                        known = (fields[name] for name in self.text_fields)
                        counts["unknown"] += sum(ids.count(unknown) for ids in known)
                    for label in fields.get("label", fields.get("tags", ())):
                        if label >= 0:
                            balance[label] += 1
                    for name in self.fields:
                        writers[name].append(fields[name])
                    writers["row"].append([number])
        digests = "".join(writer.close() for writer in writers.values())
        if leaked_at and self.duplicates == "refuse":
            hint = f"{counts['leaked']} in all; data.duplicates=drop leaves them out"
            expected = "a row of one split alone"
            problems = [Problem(where, expected, hint=hint) for where in leaked_at]
            raise RequestError(problems)
        for where in leaked_at:
            log.debug("%s", where)
        return SplitMeta(
            rows=counts["rows"],
            examples=counts["examples"],
            tokens=counts["tokens"],
            longest=longest,
            unknown=counts["unknown"],
            empty=counts["empty"],
            truncated=counts["truncated"],
            truncated_tokens=counts["truncated_tokens"],
            repeated=counts["repeated"],
            leaked=counts["leaked"],
            dropped=counts["dropped"],
            labels=balance,
            sha256=hashlib.sha256(digests.encode()).hexdigest(),
        )

    # -- reading ------------------------------------------------------------------------------

    def _fields(self, split: Split) -> dict[str, Ragged]:
        assert self._folder is not None
        return {name: Ragged(self._folder / f"{split}.{name}") for name in self.fields}

    def _training_table(self) -> Table:
        assert self.objective is not None
        table = Table(self._fields("train"), self.objective)
        if self.fraction == 1:
            return table
        count = len(table)
        keys = round_keys(FRACTION_STREAM, 0, 0)  # the same part for every seed
        order = permute(np.arange(count, dtype=np.uint64), count, keys).astype(np.int64)
        return Part(table, np.sort(order[: math.ceil(self.fraction * count)]))

    def _batches(self, seed: int) -> ExampleBatches:
        return ExampleBatches(
            self._training_table().lengths(),
            seed=seed,
            examples=self.batch.examples,
            tokens=self.batch.tokens,
            stretch=self.bucket_steps,
        )


class Held(Table):
    """Examples in memory."""

    def __init__(self, fields: Mapping[str, list[list[int]]], objective: ExampleObjective) -> None:
        super().__init__({}, objective)
        self.lists = fields

    def __len__(self) -> int:
        return len(next(iter(self.lists.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.composed({name: each[index] for name, each in self.lists.items()})

    def lengths(self) -> np.ndarray:
        found = {name: np.array([*map(len, each)]) for name, each in self.lists.items()}
        return self.objective.lengths(found)


class Part(Table):
    """Some of a table's examples."""

    def __init__(self, whole: Table, indices: np.ndarray) -> None:
        super().__init__(whole.fields, whole.objective)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(int(self.indices[index]))

    def lengths(self) -> np.ndarray:
        return super().lengths()[self.indices]


def in_parts(items: Iterable[Item], split: Split, v: float, t: float) -> Iterator[Item]:
    """Those items of a list that belong to a split, with parts v for validation and t for testing.

    Item i, from 0, is for testing if floor((i + 1) t) > floor(i t); of the others, counted by j,
    one is for validation if floor((j + 1) w) > floor(j w), w = v / (1 - t).
    """
    w, rest = v / (1 - t), 0
    for count, item in enumerate(items):
        if int((count + 1) * t) > int(count * t):
            belongs: Split = "test"
        else:
            belongs = "val" if int((rest + 1) * w) > int(rest * w) else "train"
            rest += 1
        if belongs == split:
            yield item


def encode(
    texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    longest: int,
    *,
    framed: bool = True,
    words: bool = False,
) -> list[list[tokenizers.Encoding]]:
    """The encoding of each text and, where it is longer than `longest`, of its further pieces.

    Of two texts the longer loses first. The special tokens around a text count, and stand around
    each piece.

    Args:
        texts: a text, a pair of texts, or a list of words each.
        framed: whether the special tokens stand around it.
        words: whether each is a list of words.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    pair = bool(texts) and isinstance(texts[0], tuple) and not words
    room = longest - (backend.num_special_tokens_to_add(pair) if framed else 0)
    if room < 1:
        expected = f"more than the {longest - room} special tokens around a text"
        raise RequestError(Problem("data.sequence_length", expected, longest))
    backend.enable_truncation(longest, strategy="longest_first")
    found = backend.encode_batch(
        [list(each) for each in texts] if words else list(texts),
        is_pretokenized=words,
        add_special_tokens=framed,
    )
    return [[encoding, *encoding.overflowing] for encoding in found]


def _key(texts: Sequence[str]) -> bytes:
    """By which a row is known again: its texts, in any case and however spaced."""
    plain = "\0".join(" ".join(text.casefold().split()) for text in texts)
    return hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=16).digest()


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers by their value, before all other names."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _called(split: Split) -> str:
    return {"train": "the training split", "val": "validation", "test": "test"}[split]


def _tell(meta: Meta, duplicates: str, too_long: str) -> None:
    """What a user should know of the data, a line each."""
    for split in reversed(SPLITS):
        found = meta.splits[split]
        if found.rows == 0 and split == "test":
            continue
        parts = [f"{found.examples:,} examples", f"{found.tokens:,} tokens"]
        if found.truncated:
            parts.append(f"{found.truncated:,} cut to length")
        elif found.examples > found.rows - found.dropped and too_long == "chunk":
            parts.append(f"of {found.rows - found.dropped:,} rows, the long ones in pieces")
        log.info("%s: %s", split, ", ".join(parts))
        if found.empty:
            log.warning("%s: %s rows without text left out", split, f"{found.empty:,}")
        if found.leaked:
            what = "left out" if duplicates == "drop" else "kept: data.duplicates=drop leaves them"
            other = "validation or test" if split == "train" else "test"
            log.warning("%s: %s rows stand in %s too, %s", split, f"{found.leaked:,}", other, what)


__all__ = ["Encoded", "ExampleData", "Meta", "Row", "SplitMeta", "encode", "in_parts"]
