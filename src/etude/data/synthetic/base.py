"""Examples that a rule makes, as a Lightning data module: nothing is read, written or kept.

A rule says what example number i is (`ModularArithmetic`, `Induction`, ...); all the rest is here:
which numbers make up a step, which are for validation, and batches of them. Each example is a
function of (seed, number).
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers
from torch.utils.data import DataLoader, IterableDataset

from etude.data.loading import evaluation_positions, loader
from etude.data.module import DataModule
from etude.data.objective import IGNORE, Reads
from etude.data.order import EveryExampleOnce, permute, round_keys
from etude.data.places import Place, Reading
from etude.data.steps import Share
from etude.data.synthetic.draws import Draws, Numbers, key_of
from etude.data.tokenizer import Tokenizer
from etude.data.view import of_a_rule
from etude.errors import Checks, Problem, RequestError

Arrays = dict[str, np.ndarray[Any, Any]]
Asked = NDArray[np.bool_]
Split = Literal["train", "val"]

FORMAT = 1
"""Of what the rules make: a rule that makes something else has another fingerprint."""
SPLIT_STREAM = 0x53504C54
STREAMS: dict[Split, int] = {"train": 0x4D41444C, "val": 0x4D414456}
LARGEST = 2**62
SYMBOLS = 2**20
"""The most symbols of a vocabulary, each of which has a name."""
MOST = 2**31
"""Positions of a step, and examples that are held out: more are a mistake."""


@dataclass(frozen=True)
class SplitMeta:
    """How much there is; None where new examples are made for ever."""

    examples: int | None
    tokens: int | None


@dataclass(frozen=True)
class Meta:
    """What a run writes down of its data."""

    splits: Mapping[str, SplitMeta]


@dataclass(kw_only=True, eq=False)
class SyntheticData(DataModule):
    """The base: `tokens` (n, T), and `labels` (n, T), what is to be said at each place or `IGNORE`.
    A rule may make other `fields`, and then says where something is `asked`.

    Of a rule with finitely many examples (`size`) the training split is a part, and validation the
    rest: `data_seed` decides, not the run's seed. Other rules draw: `training=null` makes new
    examples at every step, from the run's seed; a number makes so many, from `data_seed`. Where
    there are few different ones, what is drawn for training is also drawn for validation.

    The arguments are the fields of a dataclass: a rule declares its own and inherits these.

    Args:
        sequence_length: T, as the rule has it.
        batch: examples of a step; null takes the whole training split.
        training: examples to train on, a number or a part of `size`; null is all that are left, or
            new ones for ever.
        validation: examples that are held out, a number or a part of `size`.
        validate_training: measure the training split too, as `seen/loss`, ...; at most as many
            examples of it as are held out, of new ones for ever those that the run begins with.
        data_seed: of what is held out, and of examples that are drawn once.

    Raises:
        InvalidArguments: with every mistake in the arguments.

    Attributes:
        size: how many different examples there are; None for rules that draw.
        held, taught: examples that are held out, and that are trained on; None of the latter is
            new ones for ever.
        answers_last: the labels are the last tokens of the sequence, as a model would write them.
        dimensions: how many numbers stand at a place; None where a token does.
        task: the config of the task that is meant.
    """

    training: int | float | None = None
    validation: int | float = 1000
    validate_training: bool = False
    data_seed: int = 0

    size: int | None = field(default=None, init=False)
    dimensions: int | None = field(default=None, init=False)
    answers_last: ClassVar[bool] = False
    task: ClassVar[str] = "algorithmic"
    reads = "made"
    fields = ("tokens", "labels")
    has_splits = "a rule's examples have"

    def validate(self, checks: Checks) -> None:
        """Notes what is wrong with the arguments, and counts the examples of the splits.

        A rule adds what is wrong with its own and sets its `size` first.
        """
        length, batch = self.sequence_length, self.batch
        checks.positive(sequence_length=length)
        super().validate(checks)
        checks.that(self.data_seed >= 0, "data_seed", self.data_seed, "a number from 0 on")
        expected = "null: examples are counted in data.batch.examples"
        checks.that(batch.tokens is None, "batch.tokens", batch.tokens, expected)
        held = self._count(checks, "validation", self.validation)
        left = None if self.size is None else self.size - held
        stated = self.training
        taught = left if stated is None else self._count(checks, "training", stated)
        if left is not None and taught is not None:
            expected = f"at most the {left:,} of {self.size:,} that validation leaves"
            checks.that(0 < taught <= left, "training", taught, expected)
        endless = taught is None or taught > LARGEST
        if batch.examples is None:
            checks.that(not endless, "batch.examples", None, "a number: there is no whole")
        else:
            fits = 0 < batch.examples * max(1, length) <= MOST
            expected = f"a positive number, at most {MOST:,} positions a step"
            checks.that(fits, "batch.examples", batch.examples, expected)
        expected = f"at most {MOST:,} examples"
        checks.that(held <= MOST, "validation", self.validation, expected, f"it takes {held:,}")
        self.held, self.taught = held, taught

    def _count(self, checks: Checks, key: str, stated: int | float) -> int:
        expected = "a number of examples"
        whole = isinstance(stated, int) or (stated.is_integer() and stated >= 1)
        if self.size is not None:
            expected += f" below {self.size:,}, or a part between 0 and 1"
            fits = 0 < stated < (self.size if whole else 1)
        else:
            fits = whole and stated > 0
        checks.that(fits, key, stated, expected)
        if not fits:
            return 1
        if whole:
            return int(stated)
        return max(1, round(stated * (self.size or 1)))

    # -- what a rule says ---------------------------------------------------------------------

    @property
    @abstractmethod
    def symbols(self) -> list[str]:
        """The vocabulary: a name for each token, in the order of their ids; none of numbers."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What decides the examples, besides the seeds and T, as plain JSON values."""

    def numbered(self, numbers: Numbers) -> Arrays:
        """The examples with these numbers, 0 to `size` - 1, of a rule that has finitely many."""
        raise NotImplementedError

    def drawn(self, draws: Draws, count: int) -> Arrays:
        """Examples of random numbers, of a rule that draws."""
        raise NotImplementedError

    def asked(self, arrays: Arrays) -> Asked:
        """Where examples have a target, (n, T)."""
        return arrays["labels"] != IGNORE

    # -- as every data module -----------------------------------------------------------------

    def meant_for(self, reads: Reads) -> str | None:
        return f"its rules are for task={self.task}"

    def check(self) -> None:
        """Nothing can be missing."""

    def prepare(self, cache_dir: Path) -> None:
        """Nothing is to be prepared."""

    def content_fingerprint(self) -> str:
        """sha256 (hex) of the rule."""
        told = {
            "format": FORMAT,
            "kind": type(self).__name__,
            "length": self.sequence_length,
            "settings": self.settings(),
            "splits": [self.taught, self.held, self.data_seed],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def content_files(self) -> list[Path] | None:
        return []

    @property
    def meta(self) -> Meta:
        """How much there is of each split."""
        length = self.sequence_length
        sizes = {"train": self.taught, "val": self.held}
        splits = {
            name: SplitMeta(size, None if size is None else size * length)
            for name, size in sizes.items()
        }
        return Meta(splits)

    @cached_property
    def tokenizer_(self) -> Tokenizer:
        """Words for symbols, with spaces between; of numbers one without any words."""
        return tokenizer_of(self.symbols)

    @property
    def stated_vocabulary(self) -> int | None:
        return len(self.symbols) or None

    @property
    def examples_per_step(self) -> int:
        """Examples in an optimizer step over all ranks."""
        if self.batch.examples is not None:
            return self.batch.examples
        assert self.taught is not None
        return self.taught

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which as many examples are read as there are; of new ones for ever,
        as many as are held out.
        """
        return (self.taught or self.held) / self.examples_per_step

    def evaluated_tokens(self, split: str) -> int:
        """Positions of a split that are evaluated."""
        return self._evaluated("val" if split == "val" else "train") * self.sequence_length

    def assembly(self, share: Share) -> RuleSteps:
        return RuleSteps(self, share)

    def val_dataloader(self) -> DataLoader[Any]:
        """All that is held out, on every rank, and perhaps what is trained on."""
        splits: tuple[Split, ...] = ("val", "train") if self.validate_training else ("val",)
        return loader(_Evaluation(self, splits))

    def described(self, examples: int) -> Iterator[str]:
        return of_a_rule(self)

    def evaluation_batches(self, split: Split) -> DataLoader[Any]:
        """A whole split; of examples that are new for ever, as many as are held out."""
        return loader(_Evaluation(self, (split,)))

    # -- examples -----------------------------------------------------------------------------

    def step(self, number: int, seed: int) -> Arrays:
        """All examples of an optimizer step of the run with this seed."""
        return self.examples("train", self.chosen(number, seed), seed)

    def chosen(self, number: int, seed: int) -> Numbers:
        """Which examples of the training split those are."""
        batch = self.examples_per_step
        if self.taught is None:
            return np.arange(number * batch, (number + 1) * batch)
        if self.batch.examples is None:
            return np.arange(batch)
        return EveryExampleOnce(self.taught + 1, 1, batch, seed).starts(number)

    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        return {number: f"example {number:,} of the rule" for number in documents}

    def places_of(self, text: str) -> Iterator[Place]:
        expected = "a run on data with texts: a rule's examples have none"
        raise RequestError(Problem("RUN", expected, type(self).__name__))

    def examples(self, split: Split, indices: Numbers, seed: int = 0) -> Arrays:
        """Some examples of a split.

        Args:
            indices: from 0, (n,).
            seed: the run's, which matters only where new examples are made for ever.
        """
        if self.size is not None:
            places = indices + (self.held if split == "train" else 0)
            keys = round_keys(SPLIT_STREAM, self.data_seed, 0)
            numbers = permute(places.astype(np.uint64), self.size, keys)
            return self.numbered(numbers.astype(np.int64))
        endless = split == "train" and self.taught is None
        key = key_of(STREAMS[split], seed if endless else self.data_seed)
        return self.drawn(Draws(key, indices), len(indices))

    def _evaluated(self, split: Split) -> int:
        return self.held if split == "val" else min(self.taught or self.held, self.held)


@dataclass
class RuleSteps:
    """Optimizer steps of what a rule makes; see `etude.data.steps.Assembly`."""

    data: SyntheticData
    share: Share

    def step(self, number: int) -> list[dict[str, Any]]:
        """This process's share of a step."""
        arrays = self.data.step(number, self.share.seed)
        targets = int(self.data.asked(arrays).sum())
        told = {"step_targets": targets, "step_tokens": self.data.tokens_per_step}
        mine = self.share.of(len(next(iter(arrays.values()))))
        tensors = {name: torch.from_numpy(rows[mine]) for name, rows in arrays.items()}
        return self.share.micro_batches(tensors, told)

    def places(self, number: int) -> list[list[Place]]:
        numbers = self.data.chosen(number, self.share.seed)
        return [[Place(int(each))] for each in numbers]

    def readings(self, places: Collection[Place], steps: Iterable[int]) -> Iterator[Reading]:
        """Which examples have the numbers of some."""
        wanted = {place.document: place for place in places}
        for number in steps:
            for example, each in enumerate(self.data.chosen(number, self.share.seed).tolist()):
                if each in wanted:
                    yield Reading(number, example, wanted[each])


class _Evaluation(IterableDataset[dict[str, Any]]):
    """Splits in batches; `part` is `val` for what is held out, `seen` for what is trained on."""

    def __init__(self, data: SyntheticData, splits: tuple[Split, ...]) -> None:
        self.data, self.splits = data, splits
        positions = evaluation_positions(max(1, len(data.symbols)))
        self.most = max(1, positions // data.sequence_length)

    def __len__(self) -> int:
        return sum(-(-self.data._evaluated(split) // self.most) for split in self.splits)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share = self.data._share
        seed = 0 if share is None else share.seed
        for split in self.splits:
            total = self.data._evaluated(split)
            for first in range(0, total, self.most):
                indices = np.arange(first, min(first + self.most, total))
                arrays = self.data.examples(split, indices, seed)
                batch: dict[str, Any] = {k: torch.from_numpy(x) for k, x in arrays.items()}
                yield {**batch, "part": "seen" if split == "train" else "val"}


def tokenizer_of(symbols: list[str]) -> Tokenizer:
    """Symbols without spaces in them as a tokenizer of words."""
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))  # all else is refused
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)
