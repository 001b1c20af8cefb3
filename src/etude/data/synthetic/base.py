"""Base of synthetic data: examples that a rule generates, as a Lightning data module.

Nothing is read, written or cached. A rule (`ModularArithmetic`, `Induction`, ...) defines example
number i; this module selects the numbers of each step and split, and builds the batches. Each
example is a function of (seed, number).
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

from etude.data.loading import loader
from etude.data.module import DataModule
from etude.data.objective import IGNORE, Reads
from etude.data.order import EveryExampleOnce, permute, round_keys
from etude.data.origins import DocumentSpan, SpanRead
from etude.data.steps import Share
from etude.data.synthetic.draws import Draws, Numbers, stream_key
from etude.data.tokenizer import Tokenizer
from etude.data.view import describe_synthetic
from etude.errors import Checks, Problem, RequestError

Arrays = dict[str, np.ndarray[Any, Any]]
TargetMask = NDArray[np.bool_]
Split = Literal["train", "val"]

FORMAT = 1
"""Version of the generated examples, part of the fingerprint."""
SPLIT_STREAM = 0x53504C54
STREAMS: dict[Split, int] = {"train": 0x4D41444C, "val": 0x4D414456}
MAX_EXAMPLES = 2**62
MAX_SYMBOLS = 2**20
"""Largest size of a vocabulary of named symbols."""
MAX_POSITIONS = 2**31
"""Largest number of positions in a step, and of validation examples."""


@dataclass(frozen=True)
class RuleSplitMeta:
    """Size of a split; None where new examples are generated without limit."""

    examples: int | None
    tokens: int | None


@dataclass(frozen=True)
class RuleMeta:
    """Sizes of all splits, for the run's record."""

    splits: Mapping[str, RuleSplitMeta]


@dataclass(kw_only=True, eq=False)
class SyntheticData(DataModule):
    """Base class of rules. An example has `tokens` (n, T) and `labels` (n, T), the target of each
    position or `IGNORE`. A rule with other `fields` overrides `asked`.

    With finitely many examples (`size`), training and validation are disjoint subsets that
    `data_seed` selects, not the run's seed. Rules without `size` draw examples: `training=null`
    draws new ones at every step from the run's seed; a number draws that many from `data_seed`. If
    the rule has few distinct examples, training and validation overlap.

    The arguments are the fields of a dataclass: a rule declares its own and inherits these.

    Args:
        sequence_length: number of positions of an example (T), fixed by the rule.
        batch: examples per step; null uses the whole training split.
        training: training examples, a number or a fraction of `size`; null uses all that are not in
            validation, or draws new ones without limit.
        validation: validation examples, a number or a fraction of `size`.
        validate_training: also evaluates the training split, as `seen/loss`, ...; at most as many
            examples as validation has. Without limit, these are the first ones of the run.
        data_seed: seed of the split, and of examples that are drawn once.

    Raises:
        InvalidArguments: with every error in the arguments.

    Attributes:
        size: number of distinct examples; None for rules that draw.
        validation_size, training_size: examples of each split; a `training_size` of None is
            unlimited.
        answers_last: whether the labels are the last tokens of the sequence, as a model generates
            them.
        dimensions: numbers at each position; None where a position holds a token.
        task: config name of the task for this data.
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
    has_splits = "synthetic data has"

    def validate(self, checks: Checks) -> None:
        """Checks the arguments and counts the examples of the splits.

        A rule checks its own arguments and sets `size` before it calls this method.
        """
        length, batch = self.sequence_length, self.batch
        checks.positive(sequence_length=length)
        super().validate(checks)
        checks.that(self.data_seed >= 0, "data_seed", self.data_seed, "a non-negative integer")
        expected = "null (set data.batch.examples instead)"
        checks.that(batch.tokens is None, "batch.tokens", batch.tokens, expected)
        validation_size = self._count(checks, "validation", self.validation)
        left = None if self.size is None else self.size - validation_size
        stated = self.training
        training_size = left if stated is None else self._count(checks, "training", stated)
        if left is not None and training_size is not None:
            expected = f"at most {left:,}, the examples of {self.size:,} that are not in validation"
            checks.that(0 < training_size <= left, "training", training_size, expected)
        endless = training_size is None or training_size > MAX_EXAMPLES
        if batch.examples is None:
            expected = "a number (the training split is unlimited)"
            checks.that(not endless, "batch.examples", None, expected)
        else:
            fits = 0 < batch.examples * max(1, length) <= MAX_POSITIONS
            expected = f"a positive number, with at most {MAX_POSITIONS:,} positions per step"
            checks.that(fits, "batch.examples", batch.examples, expected)
        expected = f"at most {MAX_POSITIONS:,} examples"
        fits, hint = validation_size <= MAX_POSITIONS, f"it selects {validation_size:,}"
        checks.that(fits, "validation", self.validation, expected, hint)
        self.validation_size, self.training_size = validation_size, training_size

    def _count(self, checks: Checks, key: str, stated: int | float) -> int:
        """Returns the number of examples that a number or a fraction selects."""
        expected = "a number of examples"
        whole = isinstance(stated, int) or (stated.is_integer() and stated >= 1)
        if self.size is not None:
            expected += f" below {self.size:,}, or a fraction between 0 and 1"
            fits = 0 < stated < (self.size if whole else 1)
        else:
            fits = whole and stated > 0
        checks.that(fits, key, stated, expected)
        if not fits:
            return 1
        if whole:
            return int(stated)
        return max(1, round(stated * (self.size or 1)))

    # -- defined by a rule --------------------------------------------------------------------

    @property
    @abstractmethod
    def symbols(self) -> list[str]:
        """The vocabulary: a name for each token, in the order of the ids; empty for numbers."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Returns the settings that determine the examples, as plain JSON values, without seeds and
        T.
        """

    def numbered(self, numbers: Numbers) -> Arrays:
        """Returns the examples with these numbers, from 0 to `size` - 1. For rules with `size`."""
        raise NotImplementedError

    def drawn(self, draws: Draws, count: int) -> Arrays:
        """Returns `count` examples made from random numbers. For rules that draw."""
        raise NotImplementedError

    def asked(self, arrays: Arrays) -> TargetMask:
        """Returns the mask of positions with a target, (n, T)."""
        return arrays["labels"] != IGNORE

    # -- interface of data modules ------------------------------------------------------------

    def meant_for(self, reads: Reads) -> str | None:
        return f"this data is for task={self.task}"

    def check(self) -> None:
        """Does nothing: no file is read."""

    def prepare(self, cache_dir: Path) -> None:
        """Does nothing: examples are generated when they are loaded."""

    def content_fingerprint(self) -> str:
        """Returns the sha256 (hex) of the rule and its settings."""
        identity = {
            "format": FORMAT,
            "kind": type(self).__name__,
            "length": self.sequence_length,
            "settings": self.settings(),
            "splits": [self.training_size, self.validation_size, self.data_seed],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def content_files(self) -> list[Path] | None:
        return []

    @property
    def meta(self) -> RuleMeta:
        """The sizes of the splits."""
        length = self.sequence_length
        sizes = {"train": self.training_size, "val": self.validation_size}
        splits = {
            name: RuleSplitMeta(size, None if size is None else size * length)
            for name, size in sizes.items()
        }
        return RuleMeta(splits)

    @cached_property
    def tokenizer_(self) -> Tokenizer:
        """A tokenizer of space-separated symbols; its vocabulary is empty for numbers."""
        return build_tokenizer(self.symbols)

    @property
    def stated_vocabulary(self) -> int | None:
        return len(self.symbols) or None

    @property
    def examples_per_step(self) -> int:
        """Examples per optimizer step, over all ranks."""
        if self.batch.examples is not None:
            return self.batch.examples
        assert self.training_size is not None
        return self.training_size

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps per pass over the training split; if that is unlimited, steps that read
        as many examples as validation has.
        """
        return (self.training_size or self.validation_size) / self.examples_per_step

    def evaluated_tokens(self, split: str) -> int:
        """Returns the number of positions of a split that are evaluated."""
        return self._evaluation_size("val" if split == "val" else "train") * self.sequence_length

    def assembly(self, share: Share) -> RuleSteps:
        return RuleSteps(self, share)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the whole validation split on every rank, and with `validate_training` the
        training split.
        """
        splits: tuple[Split, ...] = ("val", "train") if self.validate_training else ("val",)
        return loader(_EvaluationBatches(self, splits))

    def described(self, examples: int) -> Iterator[str]:
        return describe_synthetic(self)

    def evaluation_batches(self, split: Split) -> DataLoader[Any]:
        """Returns a whole split; of an unlimited one, as many examples as validation has."""
        return loader(_EvaluationBatches(self, (split,)))

    # -- examples -----------------------------------------------------------------------------

    def step(self, number: int, seed: int) -> Arrays:
        """Returns all examples of an optimizer step, for the seed of a run."""
        return self.examples("train", self.example_numbers(number, seed), seed)

    def example_numbers(self, number: int, seed: int) -> Numbers:
        """Returns the numbers of the training examples in an optimizer step."""
        batch = self.examples_per_step
        if self.training_size is None:
            return np.arange(number * batch, (number + 1) * batch)
        if self.batch.examples is None:
            return np.arange(batch)
        return EveryExampleOnce(self.training_size + 1, 1, batch, seed).starts(number)

    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        return {number: f"generated example {number:,}" for number in documents}

    def places_of(self, text: str) -> Iterator[DocumentSpan]:
        expected = "a run on text data; synthetic data has no text"
        raise RequestError(Problem("RUN", expected, type(self).__name__))

    def examples(self, split: Split, indices: Numbers, seed: int = 0) -> Arrays:
        """Returns examples of a split.

        Args:
            indices: indices within the split, from 0, (n,).
            seed: seed of the run, used only if the training split is unlimited.
        """
        if self.size is not None:
            positions = indices + (self.validation_size if split == "train" else 0)
            keys = round_keys(SPLIT_STREAM, self.data_seed, 0)
            numbers = permute(positions.astype(np.uint64), self.size, keys)
            return self.numbered(numbers.astype(np.int64))
        endless = split == "train" and self.training_size is None
        key = stream_key(STREAMS[split], seed if endless else self.data_seed)
        return self.drawn(Draws(key, indices), len(indices))

    def _evaluation_size(self, split: Split) -> int:
        if split == "val" or self.training_size is None:
            return self.validation_size
        return min(self.training_size, self.validation_size)


@dataclass
class RuleSteps:
    """Optimizer steps of a rule's examples; see `etude.data.steps.StepAssembler`."""

    data: SyntheticData
    share: Share

    def step(self, number: int) -> list[dict[str, Any]]:
        """Returns this process's micro-batches of a step."""
        arrays = self.data.step(number, self.share.seed)
        targets = int(self.data.asked(arrays).sum())
        totals = {"step_targets": targets, "step_tokens": self.data.tokens_per_step}
        selected = self.share.of(len(next(iter(arrays.values()))))
        tensors = {name: torch.from_numpy(rows[selected]) for name, rows in arrays.items()}
        return self.share.micro_batches(tensors, totals)

    def places(self, number: int) -> list[list[DocumentSpan]]:
        numbers = self.data.example_numbers(number, self.share.seed)
        return [[DocumentSpan(int(each))] for each in numbers]

    def readings(
        self, places: Collection[DocumentSpan], steps: Iterable[int]
    ) -> Iterator[SpanRead]:
        """Yields which examples of the steps have the numbers of the given places."""
        wanted = {place.document: place for place in places}
        for number in steps:
            numbers = self.data.example_numbers(number, self.share.seed).tolist()
            for example, each in enumerate(numbers):
                if each in wanted:
                    yield SpanRead(number, example, wanted[each])


class _EvaluationBatches(IterableDataset[dict[str, Any]]):
    """Batches of whole splits; `part` is `val` for validation and `seen` for training."""

    def __init__(self, data: SyntheticData, splits: tuple[Split, ...]) -> None:
        self.data, self.splits = data, splits
        positions = data.evaluation_positions(max(1, len(data.symbols)))
        self.batch_examples = max(1, positions // data.sequence_length)

    def __len__(self) -> int:
        sizes = [self.data._evaluation_size(split) for split in self.splits]
        return sum(-(-size // self.batch_examples) for size in sizes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share = self.data._share
        seed = 0 if share is None else share.seed
        for split in self.splits:
            total = self.data._evaluation_size(split)
            for first in range(0, total, self.batch_examples):
                indices = np.arange(first, min(first + self.batch_examples, total))
                arrays = self.data.examples(split, indices, seed)
                batch: dict[str, Any] = {k: torch.from_numpy(x) for k, x in arrays.items()}
                yield {**batch, "part": "seen" if split == "train" else "val"}


def build_tokenizer(symbols: list[str]) -> Tokenizer:
    """Returns a tokenizer of space-separated symbols."""
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))  # refuses unknown words
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)
