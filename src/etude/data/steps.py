"""Iteration over batches of token ids: by optimizer step for training, by split for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from etude.data.columns import Column, Numbers
from etude.data.curriculum import Sizes, Stages
from etude.data.objective import IGNORE, WindowObjective, generator
from etude.data.order import Order
from etude.data.origins import DocumentSpan, SpanRead, find_document_spans
from etude.nn.documents import Documents


class WindowBatch(TypedDict):
    """Batch of B windows of T tokens, with the token after each token as target.

    `tokens` and `targets` have shape (B, T), int64. With an objective, a batch contains the
    objective's arrays instead, such as `tokens` and `labels`. In evaluation, all windows of a batch
    are from one source of a mixture, and `section` is the source's number; it is 0 for other data.
    `documents` contains the document boundaries of the tokens, if documents are separated.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    section: NotRequired[int]
    documents: NotRequired[Documents]
    labels: NotRequired[torch.Tensor]


class MicroBatch(WindowBatch):
    """Micro-batch of windows, with the number of targets of the whole step on all ranks.

    The number is under the key `step_targets`.
    """

    step_targets: int


@dataclass(frozen=True)
class Share:
    """Part of each optimizer step that one process assembles.

    Attributes:
        seed: the run's seed.
        micro_batch: maximum number of examples in a micro-batch; None for no limit. The last
            micro-batch may be smaller.
        rank: index of the process, which assembles the rank-th contiguous part of each step.
        world: number of processes.
    """

    seed: int
    micro_batch: int | None = None
    rank: int = 0
    world: int = 1

    def of(self, examples: int) -> slice:
        """Returns the slice of a step of `examples` examples that this process assembles."""
        first, end = (examples * rank // self.world for rank in (self.rank, self.rank + 1))
        return slice(first, end)

    def micro_batches(
        self, arrays: Mapping[str, torch.Tensor], step_values: Mapping[str, Any], parts: int = 1
    ) -> list[Any]:
        """Splits the arrays of this process's examples; returns each micro-batch as a dict.

        Args:
            arrays: the arrays, by name, with `parts` rows per example.
            step_values: values of the whole step, by name, which each micro-batch also contains.
            parts: number of rows into which each example was cut.

        Returns:
            The micro-batches in order, as dicts with the keys of `arrays` and `step_values`. The
            list is empty if there are no examples.
        """
        count = len(next(iter(arrays.values())))
        size = parts * self.micro_batch if self.micro_batch else max(1, count)
        pieces = {name: array.split(size) for name, array in arrays.items()}
        return [
            {**{name: each[number] for name, each in pieces.items()}, **step_values}
            for number in range(-(-count // size))
        ]


class StepAssembler(Protocol):
    """Protocol of objects that assemble optimizer steps, each from its number alone."""

    def step(self, number: int, /) -> list[Any]:
        """Returns this process's part of an optimizer step, as micro-batches.

        Args:
            number: number of the step, from 0.
        """

    def places(self, number: int, /) -> list[list[DocumentSpan]]:
        """Returns the document spans that each example of a step contains, in order.

        Args:
            number: number of the step, from 0; the examples are those of all processes.
        """

    def readings(
        self, places: Collection[DocumentSpan], steps: Iterable[int], /
    ) -> Iterator[SpanRead]:
        """Yields a `SpanRead` for each example that contains one of `places`, or a part of one.

        An example that contains several of them gives several.

        Args:
            places: the document spans to search for.
            steps: numbers of the steps whose examples are searched.
        """


class Steps(IterableDataset[list[Any]]):
    """Dataset of a run's optimizer steps, each a list of micro-batches.

    The steps are `start_step`, ..., `total_steps - 1`. Worker w of W yields the steps start_step +
    w, start_step + w + W, ...; a `DataLoader` reads from its workers in turn, so the steps are in
    order with any number of workers.

    Args:
        assembly: assembles the steps.
        start_step: number of steps that are already done.
        total_steps: number of steps in the whole run.
    """

    def __init__(self, assembly: StepAssembler, start_step: int, total_steps: int) -> None:
        self.assembly, self.start_step, self.total_steps = assembly, start_step, total_steps

    def __len__(self) -> int:
        """Returns the number of steps in the whole run.

        Lightning interprets a smaller length as the epoch's end.
        """
        return self.total_steps

    def __iter__(self) -> Iterator[list[Any]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.start_step + first, self.total_steps, stride):
            yield self.assembly.step(number)


@dataclass
class WindowSteps:
    """Assembler of optimizer steps from windows of continuous text; see `StepAssembler`.

    In a step whose sequence length in `lengths` is below `length`, each window is cut into several
    sequences, in order. Tokens that an objective doesn't need are not read.

    Args:
        ids: token ids of the split.
        order: selects the windows of a step.
        share: the part of each step to assemble.
        length: number of targets in a window.
        sizes: number of windows in each step, over all ranks (`etude.data.curriculum.Sizes`).
        lengths: number of targets in each sequence of a step, a divisor of `length`; it may change
            during the run (`etude.data.curriculum.Stages`).
        separator: id of the token before each document; None if documents are not separated.
        objective: converts windows to inputs and targets; None for next-token prediction.
    """

    ids: Column
    order: Order
    share: Share
    length: int
    sizes: Sizes
    lengths: Stages[int]
    separator: int | None = None
    objective: WindowObjective | None = None

    def step(self, number: int) -> list[MicroBatch]:
        """Returns this process's part of a step, as micro-batches."""
        length = self.lengths.at(number)
        windows = self.sizes.at(number)
        step_values: dict[str, Any]
        if self.objective is None:
            rows = self.rows(number, length, self.share.of(windows))
            arrays = {
                "tokens": rows[:, :-1].astype(np.int64),
                "targets": rows[:, 1:].astype(np.int64),
            }
            count = windows * self.length
            step_values = {"step_targets": count, "step_tokens": count}
        else:  # for the whole step, so that ranks and micro-batches make no difference
            rows = self.rows(number, length, slice(None)).astype(np.int64)
            whole = self.objective(rows, generator(self.share.seed, number))
            targets = self.objective.targets(whole) or 1.0
            step_values = {"step_targets": targets, "step_tokens": len(rows) * length}
            mine = self.share.of(len(rows))
            arrays = {name: each[mine] for name, each in whole.items()}
        tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
        micro_batches = self.share.micro_batches(tensors, step_values, self.length // length)
        for micro in micro_batches:
            _separate(micro, self.separator)
        return micro_batches

    def starts(self, number: int) -> Numbers:
        """Returns the position in the split at which each window of a step (all ranks) begins."""
        return self.order.windows(number, self.sizes.before(number), self.sizes.at(number))

    def rows(self, number: int, length: int, windows: slice) -> NDArray[Any]:
        """Returns the token ids of some windows of a step, cut into n sequences.

        The shape is (n, m), where m = `width(length)` is the number of ids in a sequence.

        Args:
            number: number of the step.
            length: number of targets in a sequence.
            windows: slice that selects windows of the step.
        """
        starts = self.sequences(self.starts(number)[windows], length)
        return self.ids.windows(self.width(length))[starts]

    def width(self, length: int) -> int:
        """Returns the number of token ids that a sequence of `length` targets needs.

        For next-token prediction, this number is `length` + 1: the last target is not an input.
        With an objective, it is `objective.raw(length)`.
        """
        return self._raw(length) + (self.objective is None)

    def places(self, number: int) -> list[list[DocumentSpan]]:
        starts, width = self._extents(number)
        ends = self.ids.ends
        return [find_document_spans(ends, start, start + width) for start in starts.tolist()]

    def readings(
        self, places: Collection[DocumentSpan], steps: Iterable[int]
    ) -> Iterator[SpanRead]:
        ends = self.ids.ends
        begins = [int(ends[place.document - 1]) if place.document else 0 for place in places]
        spans = [
            (b + (p.first or 0), b + (p.end or 0)) for p, b in zip(places, begins, strict=True)
        ]
        sorted_places = [
            place for _, place in sorted(zip(spans, places, strict=True), key=lambda x: x[0])
        ]
        first, end = np.array(sorted(spans), dtype=np.int64).reshape(-1, 2).T
        longest = int((end - first).max(initial=0))
        for number in steps:
            starts, width = self._extents(number)
            low = np.searchsorted(first, starts - longest, side="right")
            high = np.searchsorted(first, starts + width)
            for example, start in enumerate(starts.tolist()):
                for index in range(low[example], high[example]):
                    if end[index] > start:
                        whole = start <= first[index] and end[index] <= start + width
                        yield SpanRead(number, example, sorted_places[index], bool(whole))

    def _extents(self, number: int) -> tuple[Numbers, int]:
        """Returns the position at which each sequence of a step begins, and the sequences' size.

        The sequences are those of all ranks. The size is the number of token ids in a sequence.
        """
        length = self.lengths.at(number)
        starts = self.sequences(self.starts(number), length)
        return starts, self.width(length)

    def sequences(self, starts: Numbers, length: int) -> Numbers:
        """Cuts windows into sequences, and returns the position at which each sequence begins.

        The result is a one-dimensional array: the sequences of the first window in order, then
        those of the next.

        Args:
            starts: position at which each window begins.
            length: number of targets in a sequence.
        """
        if length == self.length:
            return starts
        raw = self._raw(length)
        count = self._raw(self.length) // raw
        return (starts[:, None] + raw * np.arange(count)).flatten()

    def _raw(self, length: int) -> int:
        return length if self.objective is None else self.objective.raw(length)


class EvaluationBatches(IterableDataset[WindowBatch]):
    """Dataset of the batches of a whole split, in which every token but the first is a target once.

    The split's file contains one text, or for a mixture one text per source. The windows don't
    overlap. If the last window of a text is shorter, it is a batch of its own. With an objective,
    the targets are those of the objective, and a last window of fewer than `objective.shortest`
    tokens is left out.

    Args:
        ids: token ids of the split.
        length: number of targets in a window.
        examples: maximum number of windows in a batch.
        places: pairs (position of the first token, number of tokens), one for each text; None for
            one text.
        separator: id of the token before each document; None if documents are not separated.
        objective: as for `WindowSteps`; its random numbers are seeded with the batch's number.
    """

    def __init__(
        self,
        ids: Column,
        *,
        length: int,
        examples: int,
        places: Sequence[tuple[int, int]] | None = None,
        separator: int | None = None,
        objective: WindowObjective | None = None,
    ) -> None:
        self.ids = ids
        self.objective = objective
        self.length = length
        self.examples = examples
        self.separator = separator
        self.places = [(0, len(ids.values))] if places is None else list(places)

    def __len__(self) -> int:
        return sum(1 for _, tokens in self.places for _ in self._shapes(tokens))

    def __iter__(self) -> Iterator[WindowBatch]:
        if self.objective is not None:
            yield from self._objective_batches(self.objective)
            return
        for section, (start, tokens) in enumerate(self.places):
            for first, count, length in self._shapes(tokens):
                begin = start + first
                ids = self.ids.values[begin : begin + count * length + 1].astype(np.int64)
                inputs, targets = torch.from_numpy(ids[:-1]), torch.from_numpy(ids[1:])
                batch: WindowBatch = {
                    "tokens": inputs.view(count, length),
                    "targets": targets.view(count, length),
                    "section": section,
                }
                _separate(batch, self.separator)
                yield batch

    def _objective_batches(self, objective: WindowObjective) -> Iterator[Any]:
        number = 0
        for section, (start, tokens) in enumerate(self.places):
            for first, count, length in self._shapes(tokens):
                begin = start + first
                ids = self.ids.values[begin : begin + count * length].astype(np.int64)
                arrays = objective(ids.reshape(count, length), generator(0, number))
                batch: Any = {name: torch.from_numpy(rows) for name, rows in arrays.items()}
                batch["section"] = section
                _separate(batch, self.separator)
                number += 1
                yield batch

    def _shapes(self, tokens: int) -> Iterator[tuple[int, int, int]]:
        """Yields the batches of a text, as triples of numbers.

        These are the position of the batch's first token in the text, the number of windows, and
        the number of input tokens in a window.

        Args:
            tokens: number of tokens of the text.
        """
        length, shortest = self.length, 1
        if self.objective is None:
            tokens -= 1  # the last token is only a target
        else:
            length, shortest = self.objective.raw(self.length), self.objective.shortest
        full, rest = divmod(max(tokens, 0), length)
        for first in range(0, full, self.examples):
            yield first * length, min(self.examples, full - first), length
        if rest >= shortest:
            yield full * length, 1, rest


def _separate(batch: WindowBatch, separator: int | None) -> None:
    """Adds the key `documents` (the document boundaries) to a batch, if there is a separator.

    A separator belongs to the document that follows it. So the first token of a document is
    predicted from the separator before it, and other tokens from their own document alone. The
    separator itself is predicted from the document before it. All these targets enter the loss.

    Args:
        batch: the batch.
        separator: id of the token before each document; None if documents are not separated.
    """
    if separator is not None:
        tokens, labels = batch["tokens"], batch.get("labels")
        if labels is not None:  # labels contain the original tokens of masked positions
            tokens = torch.where(labels == IGNORE, tokens, labels)
        batch["documents"] = Documents.beginning_with(separator, tokens)
