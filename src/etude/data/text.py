"""Language modelling data: any corpus of documents as a Lightning data module.

A corpus defines its documents (`Sotu`, `TextFiles`); this module does the rest: it converts splits
to token ids once (`prepare`), and ids to batches (`attach`, `train_dataloader`, `val_dataloader`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from etude.data.curriculum import Curriculum, Sizes, Stages
from etude.data.loading import loader
from etude.data.module import Batch as Batch
from etude.data.module import nearest_multiple
from etude.data.objective import generator
from etude.data.order import ORDERS, Order
from etude.data.origins import DocumentSpan, find_occurrences
from etude.data.passages import cut
from etude.data.prepare import TOKENS, write_text
from etude.data.splits import SPLITS, Document, Part, Passage, SectionMeta, Split, TextSplitMeta
from etude.data.steps import EvaluationBatches, Share, WindowSteps
from etude.data.store import Store, Stored
from etude.data.tokenizer import WithSpecial
from etude.data.view import describe_text
from etude.errors import Checks, EtudeError, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class TextData(Stored):
    """Data module with windows of `sequence_length` tokens from a corpus of documents.

    A subclass (a corpus) implements `documents`, `content_fingerprint`, `split_settings` and
    `check`.

    The arguments are the fields of a dataclass: a subclass declares further fields and inherits
    those of this class.

    Args:
        sequence_length: number of targets in a window (T).
        order: `windows` draws windows uniformly from all positions with replacement; `epochs` reads
            windows that don't overlap, each once per epoch.
        separate_documents: whether attention is restricted to the tokens of the same document, and
            each document begins at position 0; the tokenizer must have an end-of-text token, which
            separates the documents.
        curriculum: sequence lengths, batch sizes and mixture weights that change during the run, as
            an `etude.data.curriculum.Curriculum`; None for no change.

    Attributes:
        given: names of the arguments that a mixture sets for its sources; see
            `etude.config.constructors`.

    Raises:
        InvalidArguments: contains every error in the arguments.
    """

    order: Literal["windows", "epochs"] = "windows"
    separate_documents: bool = False
    curriculum: Curriculum | None = None

    given = frozenset({"tokenizer", "sequence_length", "batch", "separate_documents"})
    section_names: tuple[str, ...] = field(default=(), init=False)
    reads = "windows"
    has_splits = "continuous text has"
    split_meta = TextSplitMeta

    def validate(self, checks: Checks) -> None:
        """Checks the arguments; a subclass adds checks of its own arguments.

        Args:
            checks: collects the problems.
        """
        checks.positive(sequence_length=self.sequence_length)
        known = self.order in ("windows", "epochs")
        checks.that(known, "order", self.order, "windows or epochs")
        super().validate(checks)
        sizes = _check_batch(checks, self.batch, self.sequence_length)
        if self.curriculum is not None and sizes is not None:
            self.curriculum.validate(
                checks,
                length=self.sequence_length,
                batch=sizes,
                unit=1 if self.batch.tokens is None else self.sequence_length,
                sources=self.mixed(),
            )

    def mixed(self) -> Mapping[str, object]:
        """Returns the sources of a mixture, by name; empty for other data."""
        return {}

    def for_task(self, objective: Any) -> None:
        """Sets the objective, which converts windows to the task's inputs and targets.

        Args:
            objective: the task's objective; None for next-token prediction.

        Raises:
            RequestError: if the objective reads another kind of data; or if `separate_documents` is
                set, and the objective does not support that.
        """
        super().for_task(objective)
        if objective is None:
            return
        if self.separate_documents and not objective.packs:
            expected = "false (the run's task does not support separate_documents)"
            raise RequestError(Problem("data.separate_documents", expected, True))
        if objective.special_tokens({}):
            self.recipe = WithSpecial(self.recipe, objective)

    def prepare(self, cache_dir: Path) -> Store:
        store = super().prepare(cache_dir)
        lengths = {} if self.curriculum is None else self.curriculum.sequence_length or {}
        if problems := [
            p for step, each in lengths.items() for p in self._length_problems(step, each)
        ]:
            raise RequestError(problems)
        return store

    def _length_problems(self, step: int, length: int) -> Iterator[Problem]:
        """Yields a problem if the objective can't use a sequence length that a curriculum sets.

        Args:
            step: optimizer step from which the curriculum sets the length.
            length: the sequence length.
        """
        if self.objective is None:
            return
        try:
            raw = self.objective.raw(length)
            fits = raw >= max(1, self.objective.shortest)
            if fits:
                self.objective(np.zeros((1, raw), dtype=np.int64), generator(0, 0))
        except (EtudeError, ValueError, ZeroDivisionError):
            fits = False
        if not fits:
            name = type(self.objective).__name__
            expected = f"a length from which the objective {name} can create inputs and targets"
            yield Problem(f"data.curriculum.sequence_length.{step}", expected, length)

    @property
    def window(self) -> int:
        """Number of tokens of text in a window."""
        length = self.sequence_length
        return length if self.objective is None else self.objective.raw(length)

    @abstractmethod
    def documents(self, split: Split) -> Iterator[str]:
        """Yields the documents of a split, in order."""

    def sourced(self, split: Split) -> Iterator[Document]:
        """Yields the documents of a split in order, as pairs (origin in words, text)."""
        for number, document in enumerate(self.documents(split)):
            yield f"document {number:,}", document

    @property
    def splits(self) -> tuple[Split, ...]:
        """Names of the data's splits."""
        return SPLITS

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        return ("val", "train", *self.splits[2:])

    @abstractmethod
    def split_settings(self) -> dict[str, object]:
        """Returns the settings that, with the content, determine the splits, as JSON values."""

    def passages(self, split: Split) -> Iterator[Passage]:
        """Yields the documents of a split, cut into passages: pairs (document number, text).

        Documents are numbered from 0 in each split; all passages of a document have its number.

        This method holds one document in memory; a corpus with huge documents should override it.
        """
        for number, document in enumerate(self.documents(split)):
            if not isinstance(document, str):
                where = f"{type(self).__name__}.documents"
                type_name = type(document).__name__
                raise RequestError(
                    Problem(
                        where,
                        "documents of type str",
                        type_name,
                        f"document {number:,}, counted from 0, has the type {type_name}",
                    )
                )
            for text in cut([document]):
                yield number, text

    def parts(self) -> dict[str, Part]:
        """Returns a dict of functions that yield the passages (pieces of documents) of a split.

        A function takes the name of the split, and yields pairs (document number, text), as
        `passages` does.

        A mixture has one function for each source, with the source's name as key; other data has
        one function, with an empty key.
        """
        return {"": self.passages}

    def decided_by(self) -> dict[str, Any]:
        return self.split_settings()

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        write_text(folder, self.parts(), self.splits, self.recipe, identity)

    def opened(self, store: Store) -> None:
        problems = list(self.separator_problems(store))
        for name, section in _sections(store.meta.splits["train"]).items():
            if section.tokens <= self.window:
                owner = f"the training split of the source {name}" if name else "the training split"
                expected = f"a number below {section.tokens:,}, the number of tokens in {owner}"
                problems.append(Problem("data.sequence_length", expected, self.sequence_length))
        problems += self.size_problems(store)
        if problems:
            raise RequestError(problems)

    def separator_problems(self, store: Store) -> Iterator[Problem]:
        """Yields a problem if `separate_documents` is set and there is no end-of-text token."""
        if self.separate_documents and store.tokenizer.end_of_text is None:
            expected = "a tokenizer with an end-of-text token, which separates documents"
            name = type(self.recipe).__name__
            hint = f"{name} has no such token; set data.tokenizer.end_of_text, or select another "
            hint += "tokenizer, such as data/tokenizer=bpe"
            yield Problem("data.separate_documents", expected, True, hint)

    def size_problems(self, store: Store) -> Iterator[Problem]:
        """Yields a problem for each evaluation split with fewer than 2 tokens (no target)."""
        for split in self.splits[1:]:
            for name, section in _sections(store.meta.splits[split]).items():
                if section.tokens < 2:
                    where = f"data.sources.{name}" if name else "data"
                    full_name = "validation" if split == "val" else "test"
                    expected = f"at least 2 tokens in the {full_name} split, not {section.tokens}"
                    yield Problem(where, expected)

    @property
    def examples_per_step(self) -> int:
        """Number of windows of an optimizer step, over all ranks."""
        if self.batch.tokens is not None:
            return self.batch.tokens // self.sequence_length
        assert self.batch.examples is not None  # exactly one is set
        return self.batch.examples

    @cached_property
    def sizes(self) -> Sizes:
        """Number of windows of each optimizer step, over all ranks."""
        changes = None if self.curriculum is None else self.curriculum.batch
        unit = 1 if self.batch.tokens is None else self.sequence_length
        return Sizes(
            self.examples_per_step, {step: size // unit for step, size in (changes or {}).items()}
        )

    def tokens_in(self, first: int, end: int) -> int:
        windows = self.sizes.before(end) - self.sizes.before(first)
        return windows * self.sequence_length

    def misfits(self, processes: int, max_epochs: float | None = None) -> Iterator[Problem]:
        yield from super().misfits(processes, max_epochs)
        changes = {} if self.curriculum is None else self.curriculum.batch or {}
        for step in changes:
            if (size := self.sizes.at(step)) % processes:
                expected = (
                    f"a number of examples divisible by the number of processes ({processes})"
                )
                yield Problem(f"data.curriculum.batch.{step}", expected, size)
        if changes and max_epochs is not None:
            expected = "null"
            hint = "set trainer.max_steps instead, because data.curriculum.batch changes the "
            hint += "number of steps in an epoch"
            yield Problem("trainer.max_epochs", expected, max_epochs, hint)

    def changes(self) -> Iterator[tuple[str, int]]:
        for name, step in () if self.curriculum is None else self.curriculum.points():
            yield f"data.curriculum.{name}", step

    @property
    def steps_per_epoch(self) -> float:
        """Number of steps with as many windows as the training split has without overlap."""
        sections = _sections(self._split("train")).values()
        windows = sum((section.tokens - 1) // self.window for section in sections)
        return windows / self.examples_per_step

    def evaluated_tokens(self, split: Split) -> int:
        """Returns the number of targets in a whole split."""
        return max(0, self._split(split).tokens - 1)

    def bytes_predicted(self, split: Split) -> int | None:
        """Returns the number of UTF-8 bytes of a split's text, except those of the first token.

        The first token (for a mixture, that of each source) is not a target. Returns None if the
        tokens don't decode to the text, since lost text would count as predicted.
        """
        meta = self._split(split)
        return meta.bytes - meta.first_token_bytes if meta.lossless else None

    def bytes_metrics(self, split: Split, metrics: dict[str, float]) -> dict[str, float]:
        """Returns a dict with the metric `bits_per_byte` of a split as its only key.

        The dict is empty if the tokens don't decode to the text.

        Args:
            split: name of the split.
            metrics: metrics of the split, of which `nats`, the summed loss, is used.
        """
        size = self.bytes_predicted(split)
        return {} if size is None else {"bits_per_byte": metrics["nats"] / math.log(2) / size}

    def assembly(self, share: Share) -> WindowSteps:
        return WindowSteps(
            self.store.column("train", TOKENS),
            self.order_of(share.seed),
            share,
            length=self.sequence_length,
            sizes=self.sizes,
            lengths=Stages(
                self.sequence_length,
                None if self.curriculum is None else self.curriculum.sequence_length,
            ),
            separator=self._separator,
            objective=self.objective,
        )

    def sources_of(self, documents: Collection[int]) -> dict[int, str]:
        sources = {}
        for number, (where, _) in self._documents():
            if number in documents:
                sources[number] = where
                if len(sources) == len(documents):
                    break
        return sources

    def places_of(self, text: str) -> Iterator[DocumentSpan]:
        column = self.store.column("train", TOKENS)
        for number, (_, document) in self._documents():
            if text in document:
                spans, tokens = find_occurrences(document, text, self.tokenizer_)
                separator = int(column.lengths[number]) - tokens  # one, or none
                for first, end in spans:
                    yield DocumentSpan(number, separator + first, separator + end)

    def _documents(self) -> Iterator[tuple[int, Document]]:
        """Yields pairs (number, document) of the training documents that have text."""
        return enumerate(each for each in self.sourced("train") if each[1])

    def order_of(self, seed: int) -> Order:
        """Returns the object that selects the windows of each step, for a run with this seed."""
        kind = ORDERS[self.order]
        return kind(self._split("train").tokens, self.window, self.examples_per_step, seed)

    def described(self, examples: int) -> Iterator[str]:
        return describe_text(self)

    def evaluation_batches(
        self, split: Split, sequence_length: int | None = None
    ) -> DataLoader[Any]:
        """Returns a loader of a whole split, in which each token but the first is a target once.

        For a mixture, the texts of the sources are read separately, one after the other.

        Args:
            split: "train", "val" or "test".
            sequence_length: number of targets in a window; None for the number in training.

        Raises:
            RequestError: the data has no such split.
        """
        self.check_split(split)
        length = self.sequence_length if sequence_length is None else sequence_length
        examples = max(1, self.evaluation_positions(self.tokenizer_.vocab_size) // length)
        places = [(s.start, s.tokens) for s in _sections(self._split(split)).values()]
        batches = EvaluationBatches(
            self.store.column(split, TOKENS),
            length=length,
            examples=examples,
            places=places,
            separator=self._separator,
            objective=self.objective,
        )
        return loader(batches)

    @property
    def _separator(self) -> int | None:
        return self.tokenizer_.end_of_text if self.separate_documents else None

    def _split(self, name: Split) -> TextSplitMeta:
        return self.meta.splits[name]


def _sections(meta: TextSplitMeta) -> dict[str, SectionMeta]:
    """Returns a dict from the name of each source of a mixture to its section of a split's file.

    The section contains the text of the source. For data that is not a mixture, the dict has a
    single key, "", for the section that covers the file.

    Args:
        meta: metadata of the split.
    """
    whole = SectionMeta(0, meta.tokens, meta.bytes, meta.first_token_bytes)
    return meta.sections or {"": whole}


def _check_batch(checks: Checks, batch: Batch, sequence_length: int) -> int | None:
    """Checks a batch size, and returns `batch.tokens` or `batch.examples`, whichever is set.

    If the size is invalid, a problem is added to `checks`, and None is returned.
    """
    tokens, examples = batch.tokens, batch.examples
    if (tokens is None) == (examples is None):
        hint = (
            "set one of them"
            if tokens is None
            else "set one of them to null, as in data.batch.examples=null"
        )
        expected = "a value for exactly one of tokens and examples"
        checks.that(False, "batch", batch, expected, hint)
        return None
    if examples is not None:
        fits = checks.that(examples > 0, "batch.examples", examples, "a positive number")
        return examples if fits else None
    if tokens is not None and sequence_length > 0:
        multiple = nearest_multiple(tokens, sequence_length)
        fits = checks.that(
            tokens > 0 and tokens % sequence_length == 0,
            "batch.tokens",
            tokens,
            f"a positive multiple of sequence_length = {sequence_length}",
            f"the nearest is {multiple}",
        )
        return tokens if fits else None
    return None


def of_source(where: str, problem: Problem) -> Problem:
    """Returns a problem of a source's config, with `data` in its key replaced by `where`.

    Args:
        where: the key of the source, such as `data.sources.early`.
        problem: the problem, reported as if the source were the run's only data. If its position is
            not a key of `data` but a file, the problem is returned unchanged.
    """
    if problem.where != "data" and not problem.where.startswith("data."):
        return problem  # its position is a file
    return replace(problem, where=f"{where}{problem.where.removeprefix('data')}")
