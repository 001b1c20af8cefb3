"""Base class of the data modules for stored, synthetic and streamed data.

A subclass defines the content of its optimizer steps and splits. The base class checks that the
data fits the task, assigns steps to a run and its processes, and evaluates splits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from etude.data.evaluation_data import Evaluated, EvaluationRequest
from etude.data.loading import evaluation_positions, loader
from etude.data.objective import Objective, Reads, describe_required_data
from etude.data.origins import DocumentSpan
from etude.data.steps import Share, StepAssembler, Steps
from etude.errors import Checks, Problem, RequestError


@dataclass(frozen=True)
class Batch:
    """Size of an optimizer step over all ranks, as a number of either tokens or examples.

    Exactly one of the arguments is set.

    Args:
        tokens: number of positions. For continuous text, each step has exactly this number, which
            is a multiple of `sequence_length`. For other data, a step has at most this number;
            padding counts, unless examples are packed.
        examples: number of examples; an example of continuous text is a window of
            `sequence_length` positions.
    """

    tokens: int | None = None
    examples: int | None = None


def nearest_multiple(value: int, unit: int) -> int:
    """Returns the positive multiple of `unit` that is nearest to `value`."""
    return max(1, round(value / unit)) * unit


class DataAttributes(pl.LightningDataModule, ABC):
    """Attributes of a data module that are not arguments of its constructor.

    This class is not a dataclass, so its attributes don't become fields of `DataModule`.

    Attributes:
        reads: kind of this data: `windows` (of text), `examples` (with fields) or `made` (synthetic
            examples). The objective, which converts data for the task, must read the same kind.
        fields: names of the fields of an example.
        section_names: sources of a mixture, in the order in which they are stored; empty for a
            single source.
        labels: names of labels or tags, by id, available after `prepare`; empty for data without
            labels.
        has_splits: the beginning of a message about a missing split: a name of the data and the
            verb "has", such as `continuous text has`. Set only for data without rows.
        shares_exactly: whether the number of examples of a step must be a multiple of the number
            of ranks.
        pack: whether one sequence may contain several examples, so an example may begin at any
            position.
        model_vocabulary: `model.vocab_size` if the config sets it, otherwise 0. If it is larger
            than the tokenizer's vocabulary, evaluation batches are smaller.
    """

    reads: Reads
    fields: tuple[str, ...] = ()
    section_names: tuple[str, ...] = ()
    labels: Any = ()
    has_splits: str
    shares_exactly: bool = True
    pack: bool = False
    model_vocabulary: int = 0


@dataclass(kw_only=True, eq=False)
class DataModule(DataAttributes):
    """Base class of data modules, which provide steps for training and splits for evaluation.

    A run calls, in this order: `for_task`, `check`, `prepare`, `attach`, and then the loaders any
    number of times.

    The arguments are the fields of a dataclass: a subclass declares further fields and inherits
    those of this class.

    Args:
        sequence_length: maximum number of positions of an example (T).
        batch: size of an optimizer step over all ranks, as a number of tokens or of examples; see
            `Batch`.
        workers: number of processes that assemble batches; 0 for the training process itself. The
            batches don't depend on this number.

    Attributes:
        objective: converts the data to inputs and targets; None for next-token prediction on
            continuous text.

    Raises:
        InvalidArguments: contains every error in the arguments.
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
        """Checks the arguments; a subclass adds checks of its own arguments.

        Args:
            checks: collects the problems.
        """
        checks.that(self.workers >= 0, "workers", self.workers, "a non-negative number")

    # -- defined by a subclass ----------------------------------------------------------------

    @abstractmethod
    def content_fingerprint(self) -> str:
        """Returns the sha256 (hex) of the raw content, independent of its location.

        Raises:
            RequestError: if the content can't be read.
        """

    def content_files(self) -> list[Path] | None:
        """Returns the files that contain the data, and the folders that were searched for them.

        Returns None if the content does not come from files only.
        """
        return None

    def origin(self) -> dict[str, object]:
        """Returns where the data comes from, as JSON values that are saved with a run.

        For a dataset on the Hugging Face Hub, these are its name, commit, config and splits. The
        dict is empty if the config already contains the path of the data.
        """
        return {}

    @abstractmethod
    def check(self) -> None:
        """Checks that the data exists and is readable; writes nothing.

        Raises:
            RequestError: if the data is missing or unreadable.
        """

    @abstractmethod
    def prepare(self, cache_dir: Path) -> Any:
        """Prepares the files that the loaders read, unless `cache_dir` already contains them.

        Returns the prepared data as an `etude.data.store.Store`, or None for synthetic data, which
        has no files.

        Args:
            cache_dir: parent folder of the prepared data.

        Raises:
            RequestError: if the data can't be used; contains the reason.
        """

    @property
    @abstractmethod
    def tokenizer_(self) -> Any:
        """The tokenizer, available after `prepare`."""

    @property
    @abstractmethod
    def meta(self) -> Any:
        """Metadata of the splits, available after `prepare`."""

    @abstractmethod
    def assembly(self, share: Share) -> StepAssembler:
        """Returns the object that assembles a run's optimizer steps.

        Args:
            share: the part of each step that this process assembles.
        """

    @abstractmethod
    def evaluation_batches(self, split: Any) -> DataLoader[Any]:
        """Returns a loader of the batches of a whole split, with each example once.

        Of the training split of synthetic data, only as many examples are read as the validation
        split has.

        Args:
            split: name of the split, such as `val` or `train`.

        Raises:
            RequestError: if there is no such split, or it is empty.
        """

    @abstractmethod
    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        """Returns a dict from document numbers to descriptions of where the documents come from.

        A description is text for messages, such as file and row.

        Args:
            documents: numbers of documents of the training split, from 0.
        """

    @abstractmethod
    def places_of(self, text: str) -> Iterator[DocumentSpan]:
        """Yields each place in the training split at which `text` occurs, as a span of a document.

        Raises:
            RequestError: if the data contains no text.
        """

    @property
    @abstractmethod
    def examples_per_step(self) -> int:
        """Number of examples of an optimizer step over all ranks.

        It is an estimate for data whose examples differ in length if `batch.tokens` is set. If a
        curriculum changes the batch size, it is the size that `batch` sets.
        """

    @property
    @abstractmethod
    def steps_per_epoch(self) -> float:
        """Number of optimizer steps that read as many examples as the training split has."""

    @property
    def examples_per_epoch(self) -> float:
        """Number of examples in the training split, or of windows without overlap."""
        return self.steps_per_epoch * self.examples_per_step

    @abstractmethod
    def evaluated_tokens(self, split: Any) -> int:
        """Returns the number of positions that the model computes to evaluate a whole split.

        Padding is not counted.

        Args:
            split: name of the split, such as `val` or `train`.
        """

    @abstractmethod
    def described(self, examples: int) -> Iterator[str]:
        """Yields lines that describe the prepared data, and some of its examples.

        Args:
            examples: number of training examples to show. Continuous text and synthetic data show
                none.
        """

    # -- shared by all data -------------------------------------------------------------------

    def for_task(self, objective: Objective | None) -> None:
        """Sets the objective, which converts the data to the task's inputs and targets.

        Args:
            objective: the task's objective; None for next-token prediction on text.

        Raises:
            RequestError: if the objective reads another kind of data, or fields that the examples
                don't have.
        """
        name = type(self).__name__
        if (reads := "windows" if objective is None else objective.reads) != self.reads:
            expected, hint = describe_required_data(objective)
            raise RequestError(Problem("data", expected, name, hint or self.meant_for(reads)))
        needed = () if objective is None else objective.fields
        if any(field not in self.fields for field in needed):
            fields_hint = f"{name} has the fields {', '.join(self.fields)}"
            hint = ", ".join(filter(None, [fields_hint, self.meant_for(reads)]))
            expected = f"examples with the fields {', '.join(needed)}"
            raise RequestError(Problem("data", expected, hint=hint))
        self.objective = objective

    def check_split(self, name: str) -> None:
        """Checks that the prepared data has a split of this name.

        Raises:
            RequestError: the data has no such split; the message lists its splits.
        """
        if not isinstance(name, str) or name not in self.meta.splits:
            raise RequestError(Problem("split", f"one of {', '.join(self.meta.splits)}", name))

    def meant_for(self, reads: Reads) -> str | None:
        """Returns a hint that names a task for this data, if the run's task needs other data.

        The hint completes the error message. The base class returns None, which means no hint.

        Args:
            reads: kind of data that the run's task reads.
        """
        return None

    def fingerprint(self) -> str:
        """Returns the sha256 (hex) of everything from which the examples are created.

        Raises:
            RequestError: if the content can't be read.
        """
        return self.content_fingerprint()

    def files_read(self) -> list[Path] | None:
        """Returns the files on which `fingerprint` depends, and the folders searched for them.

        Returns None if `fingerprint` depends on more than files.
        """
        return self.content_files()

    @property
    def stated_vocabulary(self) -> int | None:
        """Size of the vocabulary; None if it is unknown before the data is prepared."""
        return None

    def evaluation_positions(self, vocabulary: int) -> int:
        """Returns the number of positions in an evaluation batch; fewer for a large vocabulary.

        Args:
            vocabulary: size of the tokenizer's vocabulary. The model's vocabulary size is used
                instead if that is larger.
        """
        return evaluation_positions(max(vocabulary, self.model_vocabulary))

    @property
    def tokens_per_step(self) -> int:
        """Number of positions of an optimizer step over all ranks.

        It is the number of examples times `sequence_length`. Data whose examples differ in length
        overrides this property with an estimate of the mean.
        """
        return self.examples_per_step * self.sequence_length

    def tokens_in(self, first: int, end: int) -> int:
        """Returns the number of positions in the optimizer steps first, ..., end - 1.

        If steps differ in size, this may be an approximation.
        """
        return (end - first) * self.tokens_per_step

    def batch_of(self, seed: int, number: int) -> dict[str, Any]:
        """Returns all examples of an optimizer step, over all processes, as one batch.

        The batch has the keys of a micro-batch, such as `tokens`, `targets` and `step_targets`.

        Args:
            seed: the run's seed.
            number: number of the step, from 0.
        """
        (batch,) = self.assembly(Share(seed)).step(number)
        result: dict[str, Any] = batch
        return result

    def bytes_predicted(self, split: Any) -> int | None:
        """Returns the number of UTF-8 bytes of the text that is predicted in a split.

        Returns None if the targets are not text.

        Args:
            split: name of the split, such as `val` or `train`.
        """
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
        """Sets the run and the process for which the training loader returns steps.

        Args:
            seed: the run's seed.
            micro_batch: maximum number of examples in a micro-batch; None for no limit.
            total_steps: number of optimizer steps in the whole run.
            start_step: number of steps that are already done.
            rank: index of this process among `world` processes.
            world: number of processes that share each step.

        Raises:
            RequestError: if the processes can't share a step equally, or `micro_batch` is below 1.
        """
        problems = list(self.misfits(world))
        if micro_batch is not None and micro_batch < 1:
            problems.append(Problem("trainer.micro_batch", "a positive number", micro_batch))
        if problems:
            raise RequestError(problems)
        self._share = Share(seed, micro_batch, rank, world)
        self._attached = Steps(self.assembly(self._share), start_step, total_steps)

    def misfits(self, processes: int, max_epochs: float | None = None) -> Iterator[Problem]:
        """Yields a problem for each incompatibility of the data with the settings of a run.

        Args:
            processes: number of processes that share each step.
            max_epochs: length of the run, if the config sets it in epochs; otherwise None.
        """
        if self.shares_exactly and self.examples_per_step % processes:
            if self.batch.tokens is None:
                key, value, unit = "data.batch.examples", self.examples_per_step, 1
                expected = "a number of examples divisible by the number of processes "
            else:
                key, value, unit = "data.batch.tokens", self.batch.tokens, self.sequence_length
                expected = "a multiple of data.sequence_length times the number of processes "
            multiple = nearest_multiple(value, unit * processes)
            yield Problem(key, f"{expected}({processes})", value, f"the nearest is {multiple}")

    def changes(self) -> Iterator[tuple[str, int]]:
        """Yields a pair (config key, optimizer step) for each change of a setting during a run.

        The changes are those of a curriculum; data without a curriculum yields none. A setting that
        changes several times has several pairs. The new value applies from the step on.
        """
        return iter(())

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns a loader of the run's optimizer steps, from the `start_step` of `attach` on.

        The length of the loader is the number of steps of the whole run.

        Raises:
            RuntimeError: if `attach` was not called before.
        """
        if self._attached is None:
            raise RuntimeError("call attach(...) before train_dataloader()")
        return loader(self._attached, self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns a loader of the whole validation split, the same on every rank."""
        return self.evaluation_batches("val")

    def evaluated(self, split: Any) -> Evaluated:
        """Returns the examples of a split for evaluation, without the rows they come from."""
        return Evaluated(self, split, lambda: self.evaluation_batches(split))

    def evaluated_with_rows(self, asked: EvaluationRequest) -> Evaluated:
        """Returns the requested examples for evaluation, and the rows from which they were made.

        For data without rows, such as continuous text, `rows` of the result is empty.

        Args:
            asked: the request, which selects a split of this data, or other files.

        Raises:
            RequestError: if the rows don't exist, can't be read, or lack the column that the
                request names; or if data without rows has no such split, or the request needs rows.
        """
        return self.evaluated(asked.without_rows(self.evaluated_splits, self.has_splits))

    @property
    def evaluated_splits(self) -> Sequence[str]:
        """The splits that can be evaluated."""
        return ("val", "train")

    def padding(self, micro: Mapping[str, Any]) -> float | None:
        """Returns the fraction of padding in the micro-batch `micro`; None if not packed."""
        return None
