"""The data module: what all data has in common, whether it is stored, made by a rule, or read on.

A source of data says what its optimizer steps and its splits hold; all the rest is here: what fits
a task, which steps a run reads, by how many processes, and what is evaluated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from etude.data.evaluated import Evaluated, Request
from etude.data.loading import loader
from etude.data.objective import Objective, Reads, wanted
from etude.data.places import Place
from etude.data.steps import Assembly, Share, Steps
from etude.errors import Checks, Problem, RequestError


@dataclass(frozen=True)
class Batch:
    """The size of an optimizer step over all ranks, in one of two units.

    Args:
        tokens: positions that enter the loss.
        examples: windows of `sequence_length` such positions.
    """

    tokens: int | None = None
    examples: int | None = None


class Attributes(pl.LightningDataModule, ABC):
    """What a source says of itself: no arguments, so they stand before the dataclass.

    Attributes:
        reads: which objectives read this data; see `etude.data.objective.Objective`.
        fields: of an example.
        section_names: the sources of a mixture, in the order in which they lie in the files; a
            source of one has none.
        labels: the names of labels or tags, by number, once `prepare` has found them.
        has_splits: what has these splits and no rows, for messages.
        shares_exactly: whether a step must be a multiple of the ranks.
        pack: whether several examples share a sequence, so that one may begin anywhere in it.
    """

    reads: Reads
    fields: tuple[str, ...] = ()
    section_names: tuple[str, ...] = ()
    labels: Any = ()
    has_splits: str
    shares_exactly: bool = True
    pack: bool = False


@dataclass(kw_only=True, eq=False)
class DataModule(Attributes):
    """Optimizer steps to train on, and splits to evaluate.

    A run calls, in this order: `for_task`, `check`, `prepare`, `attach`, and then the loaders as
    often as it likes.

    The arguments are the fields of a dataclass: a source declares its own and inherits these.

    Args:
        sequence_length: the most positions of an example (T).
        batch: the size of an optimizer step.
        workers: processes that assemble batches; 0 is the training process itself. The batches
            don't depend on it.

    Attributes:
        objective: what the task makes of the data; None where it takes running text as it is.

    Raises:
        InvalidArguments: with every mistake in the arguments.
    """

    sequence_length: int
    batch: Batch
    workers: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        checks = Checks()
        self.validate(checks)
        checks.done()
        self.objective: Any = None
        self._share: Share | None = None
        self._attached: Steps | None = None

    def validate(self, checks: Checks) -> None:
        """Notes what is wrong with the arguments; a source adds what is wrong with its own."""
        checks.that(self.workers >= 0, "workers", self.workers, "a number from 0 on")

    # -- what a source says -------------------------------------------------------------------

    @abstractmethod
    def content_fingerprint(self) -> str:
        """sha256 (hex) of the raw content, wherever it lies.

        Raises:
            RequestError: it can't be read.
        """

    def content_files(self) -> list[Path] | None:
        """The files that this content is in, and the folders that were searched for them; None if
        it is not in files alone.
        """
        return None

    def origin(self) -> dict[str, object]:
        """Where the data comes from, for the record, if a path in the config doesn't say it."""
        return {}

    @abstractmethod
    def check(self) -> None:
        """Looks whether the data is there and readable; writes nothing.

        Raises:
            RequestError: it isn't.
        """

    @abstractmethod
    def prepare(self, cache_dir: Path) -> Any:
        """Makes what the loaders read, in `cache_dir`, or finds it there.

        Raises:
            RequestError: the data can't be used; says what, and why.
        """

    @property
    @abstractmethod
    def tokenizer_(self) -> Any:
        """The tokenizer, once the data is prepared."""

    @property
    @abstractmethod
    def meta(self) -> Any:
        """What the splits hold, once the data is prepared."""

    @abstractmethod
    def assembly(self, share: Share) -> Assembly:
        """What puts a run's optimizer steps together."""

    @abstractmethod
    def evaluation_batches(self, split: Any) -> DataLoader[Any]:
        """A whole split, each example once.

        Raises:
            RequestError: there is no such split, or nothing in it.
        """

    @abstractmethod
    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        """Where documents of the training split come from, for people, by their numbers."""

    @abstractmethod
    def places_of(self, text: str) -> Iterator[Place]:
        """Where a text stands in the training split.

        Raises:
            RequestError: this data has no texts.
        """

    @property
    @abstractmethod
    def examples_per_step(self) -> int:
        """Examples in an optimizer step over all ranks; the most, or about, where steps differ."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which as many examples are read as there are."""

    @abstractmethod
    def evaluated_tokens(self, split: Any) -> int:
        """Positions that an evaluation of a split computes."""

    @abstractmethod
    def described(self, examples: int) -> Iterator[str]:
        """What it holds, once prepared, a line each, and some of its examples."""

    # -- what every source has ----------------------------------------------------------------

    def for_task(self, objective: Objective | None) -> None:
        """Says what the task makes of the data; None takes running text as it is.

        Raises:
            RequestError: the task reads other data, or fields that these examples have not.
        """
        name = type(self).__name__
        if (reads := "windows" if objective is None else objective.reads) != self.reads:
            expected, hint = wanted(objective)
            raise RequestError(Problem("data", expected, name, hint or self.meant_for(reads)))
        needed = () if objective is None else objective.fields
        if any(field not in self.fields for field in needed):
            given = f"{name} gives {', '.join(self.fields)}"
            hint = ", ".join(filter(None, [given, self.meant_for(reads)]))
            expected = f"examples with {', '.join(needed)}"
            raise RequestError(Problem("data", expected, hint=hint))
        self.objective = objective

    def meant_for(self, reads: Reads) -> str | None:
        """Which task this data is for, for the message about one that is not."""
        return None

    def fingerprint(self) -> str:
        """sha256 (hex) of all that the examples come from.

        Raises:
            RequestError: it can't be read.
        """
        return self.content_fingerprint()

    def files_read(self) -> list[Path] | None:
        """The files that the fingerprint is of, and the folders that were searched for them; None
        if it is not of files alone.
        """
        return self.content_files()

    @property
    def stated_vocabulary(self) -> int | None:
        """The size of the vocabulary, as far as it is known before the data is prepared."""
        return None

    @property
    def tokens_per_step(self) -> int:
        """Positions in an optimizer step over all ranks; the most, or about, where steps differ."""
        return self.examples_per_step * self.sequence_length

    def tokens_in(self, first: int, end: int) -> int:
        """Positions in the optimizer steps from `first` on, before `end`; about, where steps
        differ.
        """
        return (end - first) * self.tokens_per_step

    def batch_of(self, seed: int, number: int) -> dict[str, Any]:
        """All that an optimizer step reads, over all processes, as one batch.

        Args:
            seed: the run's.
            number: of the step, from 0.
        """
        (batch,) = self.assembly(Share(seed)).step(number)
        found: dict[str, Any] = batch
        return found

    def bytes_predicted(self, split: Any) -> int | None:
        """UTF-8 bytes of the text that a split's targets stand for; None where they spell none."""
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
        """Says which part of which run the training loader gives.

        Args:
            seed: the run's seed.
            micro_batch: the most examples in a micro-batch; None for no limit.
            total_steps: optimizer steps in the whole run.
            start_step: steps that are done already.
            rank: this process, of `world`.
            world: processes that share each step.

        Raises:
            RequestError: the step can't be shared equally, or the micro-batch is empty.
        """
        problems = list(self.misfits(world))
        if micro_batch is not None and micro_batch < 1:
            problems.append(Problem("trainer.micro_batch", "a positive number", micro_batch))
        if problems:
            raise RequestError(problems)
        self._share = Share(seed, micro_batch, rank, world)
        self._attached = Steps(self.assembly(self._share), start_step, total_steps)

    def misfits(self, processes: int, max_epochs: float | None = None) -> Iterator[Problem]:
        """What does not fit how a run goes on.

        Args:
            processes: share each step, equally if they must.
            max_epochs: how long it is, if that is stated in epochs.
        """
        if self.shares_exactly and self.examples_per_step % processes:
            expected = f"a multiple of the {processes} processes, in examples"
            yield Problem("data.batch", expected, self.examples_per_step)

    def changes(self) -> Iterator[tuple[str, int]]:
        """What changes as a run goes on, and at which step."""
        return iter(())

    def train_dataloader(self) -> DataLoader[Any]:
        """The run's optimizer steps from `start_step` on; its length is that of the whole run."""
        if self._attached is None:
            raise RuntimeError("attach(...) comes first")
        return loader(self._attached, self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, on every rank."""
        return self.evaluation_batches("val")

    def evaluated(self, split: Any) -> Evaluated:
        """A split of the data."""
        return Evaluated(self, split, lambda: self.evaluation_batches(split))

    def evaluated_with_rows(self, asked: Request) -> Evaluated:
        """A split of the data, or, where it has rows, other files, the rows with their contents.

        Raises:
            RequestError: there are none, they can't be read, or lack what is asked.
        """
        return self.evaluated(asked.without_rows(self.evaluated_splits, self.has_splits))

    @property
    def evaluated_splits(self) -> Sequence[str]:
        """The splits that can be evaluated."""
        return ("val", "train")

    def padding(self, micro: Mapping[str, Any]) -> float | None:
        """The part of a packed micro-batch's positions that holds nothing; None without any."""
        return None
