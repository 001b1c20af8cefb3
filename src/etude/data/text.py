"""Language modelling data: any corpus of documents as a Lightning data module.

A corpus says what its documents are (`Sotu`, `TextFiles`); all the rest is here: splits to
token ids, once (`prepare`), ids to batches (`attach`, `train_dataloader`, `val_dataloader`).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from etude.data.evaluated import Evaluated, Request
from etude.data.loading import evaluation_positions, loader
from etude.data.objective import WindowObjective
from etude.data.order import ORDERS, Order
from etude.data.passages import cut
from etude.data.prepare import Meta, Prepared, prepare_text
from etude.data.splits import Part, Passage, SectionMeta, Split, SplitMeta
from etude.data.steps import EvaluationBatches, TrainingSteps
from etude.data.tokenizer import Recipe, Tokenizer, WithSpecial
from etude.data.view import of_text
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


@dataclass(kw_only=True, eq=False)
class TextData(pl.LightningDataModule, ABC):
    """Windows of `sequence_length` tokens from a corpus of documents.

    A corpus gives `documents`, `content_fingerprint`, `split_settings` and `check`. A run calls, in
    this order: `check`, `prepare`, `attach`, and then the loaders as often as it likes.

    The arguments are the fields of a dataclass: a corpus declares its own and inherits these.

    Args:
        tokenizer: how to make the tokenizer.
        sequence_length: targets in a window (T).
        batch: the size of an optimizer step.
        order: `windows`, drawn uniformly from all places with replacement, or `epochs`, windows
            that don't overlap, each once an epoch.
        workers: processes that assemble batches; 0 is the training process itself. The batches
            don't depend on it.
        separate_documents: a window's documents don't see each other, and each begins at position
            0; the tokenizer must have an end-of-text token, which tells them apart.

    Attributes:
        recipe: the tokenizer's, with the special tokens that the task needs.
        given: what a mixture gives to its sources; see `etude.config.constructors`.
        section_names: the sources of a mixture, in the order in which they lie in the files; a
            corpus of one has none.

    Raises:
        InvalidArguments: with every mistake in the arguments.
    """

    tokenizer: Recipe
    sequence_length: int
    batch: Batch
    order: Literal["windows", "epochs"] = "windows"
    workers: int = 0
    separate_documents: bool = False

    given = frozenset({"tokenizer", "sequence_length", "batch", "separate_documents"})
    section_names: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        super().__init__()
        checks = Checks()
        self.validate(checks)
        checks.done()
        self.recipe = self.tokenizer
        self.objective: WindowObjective | None = None
        self._prepared: Prepared | None = None
        self._attached: TrainingSteps | None = None

    def validate(self, checks: Checks) -> None:
        """Notes what is wrong with the arguments; a corpus adds what is wrong with its own."""
        checks.positive(sequence_length=self.sequence_length)
        known = self.order in ("windows", "epochs")
        checks.that(known, "order", self.order, "windows or epochs")
        checks.that(self.workers >= 0, "workers", self.workers, "a number from 0 on")
        _check_batch(checks, self.batch, self.sequence_length)

    def for_task(self, objective: Any) -> None:
        """Says what the task makes of the windows; None takes them as they are.

        Raises:
            RequestError: the task reads examples with fields.
        """
        if objective is None:
            return
        if objective.reads != "windows":
            fields = ", ".join(objective.fields)
            expected = f"data of examples with {fields} for this task"
            raise RequestError(Problem("data", expected, type(self).__name__, objective.such_as))
        if self.separate_documents and not objective.packs:
            expected = "false: this task takes windows as running text"
            raise RequestError(Problem("data.separate_documents", expected, True))
        self.objective = objective
        if objective.special_tokens({}):
            self.recipe = WithSpecial(self.recipe, objective)

    @property
    def window(self) -> int:
        """Tokens of text in a window."""
        length = self.sequence_length
        return length if self.objective is None else self.objective.raw(length)

    @abstractmethod
    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, in order."""

    @abstractmethod
    def content_fingerprint(self) -> str:
        """sha256 (hex) of the corpus's raw content, wherever it lies."""

    def fingerprint(self) -> str:
        """sha256 (hex) of all that the tokens come from: the corpus, and a tokenizer from files.

        Raises:
            RequestError: one of them can't be read.
        """
        content, tokenizer = self.content_fingerprint(), self.recipe.fingerprint()
        if tokenizer is None:  # it is learnt from the corpus
            return content
        return hashlib.sha256(f"{content} {tokenizer}".encode()).hexdigest()

    def files_read(self) -> list[Path] | None:
        """The files that the fingerprint is of, and the folders that were searched for them; None
        if it is not of files alone.
        """
        content, tokenizer = self.content_files(), self.recipe.files_read()
        return None if content is None or tokenizer is None else content + tokenizer

    def content_files(self) -> list[Path] | None:
        """Those of the corpus."""
        return None

    @abstractmethod
    def split_settings(self) -> dict[str, object]:
        """What, besides the content, decides the splits, as plain JSON values."""

    @abstractmethod
    def check(self) -> None:
        """Looks whether the corpus is there and readable; writes nothing.

        Raises:
            RequestError: it isn't.
        """

    def origin(self) -> dict[str, object]:
        """Where the corpus comes from, for the record, if a path in the config doesn't say it."""
        return {}

    def passages(self, split: Split) -> Iterator[Passage]:
        """The documents of a split, numbered and cut; override it where documents are huge."""
        for number, document in enumerate(self.documents(split)):
            for text in cut([document]):
                yield number, text

    def parts(self) -> dict[str, Part]:
        """The text as it is prepared: in one part, or in several, by name."""
        return {"": self.passages}

    def prepare(self, cache_dir: Path) -> Prepared:
        """Tokenises the corpus into `cache_dir`, or finds it there; then `meta` is known.

        Raises:
            RequestError: the corpus or the folder can't be used, or a split is too small.
        """
        prepared = prepare_text(
            Path(cache_dir),
            parts=self.parts(),
            content=self.content_fingerprint(),
            settings=self.split_settings(),
            recipe=self.recipe,
        )
        problems = []
        if self.separate_documents and prepared.tokenizer.end_of_text is None:
            expected = "a tokenizer with an end-of-text token, which tells documents apart"
            name = type(self.recipe).__name__
            hint = "data.tokenizer.end_of_text can name one, or data/tokenizer=bpe has one"
            problems.append(Problem("data.separate_documents", expected, name, hint))
        for name, section in _sections(prepared.meta.splits["train"]).items():
            if section.tokens <= self.window:
                whose = f"{name}'s training split has" if name else "the training split's"
                expected = f"less than {whose} {section.tokens:,} tokens"
                problems.append(Problem("data.sequence_length", expected, self.sequence_length))
        for name, section in _sections(prepared.meta.splits["val"]).items():
            if section.tokens < 2:
                where = f"data.sources.{name}" if name else "data"
                expected = f"2 tokens or more for validation, not {section.tokens}"
                problems.append(Problem(where, expected))
        if problems:
            raise RequestError(problems)
        self._prepared = prepared
        if self.objective is not None:
            self.objective = self.objective.bound(prepared.tokenizer, prepared.meta)
        return prepared

    @property
    def prepared(self) -> Prepared:
        """What `prepare` returned."""
        if self._prepared is None:
            raise RuntimeError("prepare(cache_dir) comes first")
        return self._prepared

    @property
    def tokenizer_(self) -> Tokenizer:
        """The trained tokenizer."""
        return self.prepared.tokenizer

    @property
    def meta(self) -> Meta:
        """What the splits hold."""
        return self.prepared.meta

    @property
    def examples_per_step(self) -> int:
        """Windows in an optimizer step over all ranks."""
        if self.batch.tokens is not None:
            return self.batch.tokens // self.sequence_length
        assert self.batch.examples is not None  # exactly one is set
        return self.batch.examples

    @property
    def tokens_per_step(self) -> int:
        """Targets in an optimizer step over all ranks."""
        return self.examples_per_step * self.sequence_length

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which as many windows are read as fit the split side by side."""
        sections = _sections(self._split("train")).values()
        windows = sum((section.tokens - 1) // self.window for section in sections)
        return windows / self.examples_per_step

    @property
    def shares_exactly(self) -> bool:
        """Whether a step must be a multiple of the ranks."""
        return True

    @property
    def labels(self) -> list[str]:
        """None: running text has no labels."""
        return []

    def evaluated_tokens(self, split: Split) -> int:
        """Targets in a whole split."""
        return max(0, self._split(split).tokens - 1)

    def bytes_predicted(self, split: Split) -> int | None:
        """UTF-8 bytes of the text that a split's targets stand for: all but the first token.

        None where the tokens don't spell the text: then what was lost would count as predicted.
        """
        meta = self._split(split)
        return meta.bytes - meta.first_token_bytes if meta.lossless else None

    def bytes_metrics(self, split: Split, found: dict[str, float]) -> dict[str, float]:
        """`bits_per_byte` of a split that was scored, if its tokens spell the text."""
        size = self.bytes_predicted(split)
        return {} if size is None else {"bits_per_byte": found["nats"] / math.log(2) / size}

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
            micro_batch: the most windows in a micro-batch; None for no limit.
            total_steps: optimizer steps in the whole run.
            start_step: steps that are done already.
            rank: this process, of `world`.
            world: processes that share each step.

        Raises:
            RequestError: the step can't be shared equally, or the micro-batch is empty.
        """
        examples = self.examples_per_step
        problems = []
        if examples % world:
            expected = f"a multiple of the {world} processes, in examples"
            problems.append(Problem("data.batch", expected, examples))
        if micro_batch is not None and micro_batch < 1:
            problems.append(Problem("trainer.micro_batch", "a positive number", micro_batch))
        if problems:
            raise RequestError(problems)
        self._attached = TrainingSteps(
            self.prepared.split("train"),
            self.order_of(seed),
            batch=examples,
            length=self.sequence_length,
            micro_batch=micro_batch,
            total_steps=total_steps,
            start_step=start_step,
            rank=rank,
            world=world,
            separator=self._separator,
            objective=self.objective,
            seed=seed,
        )

    def order_of(self, seed: int) -> Order:
        """Which windows of the prepared text make up each step of the run with this seed."""
        kind = ORDERS[self.order]
        return kind(self._split("train").tokens, self.window, self.examples_per_step, seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """The run's optimizer steps from `start_step` on; its length is that of the whole run."""
        if self._attached is None:
            raise RuntimeError("attach(...) comes first")
        return loader(self._attached, self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, on every rank."""
        return self.evaluation_batches("val")

    def described(self, examples: int) -> Iterator[str]:
        """What it holds, once prepared, a line each."""
        return of_text(self)

    def padding(self, micro: Any) -> None:
        """Windows are full."""

    def evaluated(self, split: Split) -> Evaluated:
        """A split of the prepared data."""
        return Evaluated(self, split, lambda: self.evaluation_batches(split))

    def evaluated_with_rows(self, asked: Request) -> Evaluated:
        """The same of data that has no rows, so that none can be asked for."""
        split = asked.without_rows(("val", "train"), "running text has")
        return self.evaluated(split)  # type: ignore[arg-type]

    def evaluation_batches(
        self, split: Split, sequence_length: int | None = None
    ) -> DataLoader[Any]:
        """A whole split, each token but the first a target once, in windows of any length.

        Of a mixture that is each source's text, one after the other.

        Args:
            split: "train" or "val".
            sequence_length: targets in a window; the training's own if None.
        """
        length = self.sequence_length if sequence_length is None else sequence_length
        examples = max(1, evaluation_positions(self.tokenizer_.vocab_size) // length)
        places = [(s.start, s.tokens) for s in _sections(self._split(split)).values()]
        file = self.prepared.split(split)
        batches = EvaluationBatches(
            file,
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

    def _split(self, name: Split) -> SplitMeta:
        return self.meta.splits[name]


def _sections(meta: SplitMeta) -> dict[str, SectionMeta]:
    """The sources of a mixture, or the whole under an empty name."""
    whole = SectionMeta(0, meta.tokens, meta.bytes, meta.first_token_bytes)
    return meta.sections or {"": whole}


def _check_batch(checks: Checks, batch: Batch, sequence_length: int) -> None:
    tokens, examples = batch.tokens, batch.examples
    if (tokens is None) == (examples is None):
        hint = (
            "state one"
            if tokens is None
            else "set the other to null, as in data.batch.examples=null"
        )
        checks.that(False, "batch", batch, "tokens or examples, just one", hint)
        return
    if examples is not None:
        checks.that(examples > 0, "batch.examples", examples, "a positive number")
    elif tokens is not None and sequence_length > 0:
        multiple = max(1, round(tokens / sequence_length)) * sequence_length
        checks.that(
            tokens > 0 and tokens % sequence_length == 0,
            "batch.tokens",
            tokens,
            f"a positive multiple of sequence_length = {sequence_length}",
            f"the nearest is {multiple}",
        )
