"""Token ids to batches: whole optimizer steps for training, the whole split for evaluation."""

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
from etude.data.places import Place, Reading, stretches
from etude.nn.documents import Documents


class Windows(TypedDict):
    """B windows of T tokens, and the token that follows each: both (B, T), int64.

    In evaluation `section` is the number of the mixture's source that all of them are from, 0 if
    there is only one. `documents` says which ones the tokens are of, if these are to be separate.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    section: NotRequired[int]
    documents: NotRequired[Documents]
    labels: NotRequired[torch.Tensor]


class MicroBatch(Windows):
    """Windows, and the number of targets of the whole step over all micro-batches and ranks."""

    step_targets: int


@dataclass(frozen=True)
class Share:
    """Whose optimizer steps are put together.

    Attributes:
        seed: the run's.
        micro_batch: the most examples in a micro-batch; None for no limit. The last may be smaller.
        rank: a process, of `world`; it takes the rank-th contiguous share of each step.
        world: processes.
    """

    seed: int
    micro_batch: int | None = None
    rank: int = 0
    world: int = 1

    def of(self, examples: int) -> slice:
        """The examples of a step, of so many, that this process takes."""
        first, end = (examples * rank // self.world for rank in (self.rank, self.rank + 1))
        return slice(first, end)

    def micro_batches(
        self, arrays: Mapping[str, torch.Tensor], told: Mapping[str, Any], parts: int = 1
    ) -> list[Any]:
        """Arrays of this process's examples, a row each, as micro-batches.

        Args:
            told: of the step as a whole; each micro-batch has it.
            parts: rows that an example was cut into.
        """
        count = len(next(iter(arrays.values())))
        size = parts * self.micro_batch if self.micro_batch else max(1, count)
        pieces = {name: array.split(size) for name, array in arrays.items()}
        return [
            {**{name: each[number] for name, each in pieces.items()}, **told}
            for number in range(-(-count // size))
        ]


class Assembly(Protocol):
    """What puts optimizer steps together: each is a function of its number."""

    def step(self, number: int, /) -> list[Any]:
        """A process's share of an optimizer step, counted from 0, as micro-batches."""

    def places(self, number: int, /) -> list[list[Place]]:
        """Where each example of the step, over all processes, comes from, in their order."""

    def readings(self, places: Collection[Place], steps: Iterable[int], /) -> Iterator[Reading]:
        """Which examples of some steps hold some of these places."""


class Steps(IterableDataset[list[Any]]):
    """The optimizer steps `start_step`, ..., `total_steps - 1`, each a list of micro-batches.

    Worker w of W gives steps start + w, start + w + W, ...; a `DataLoader` takes from its workers
    in turn, so the steps come in order with any number of them.

    Args:
        assembly: puts them together.
        start_step: steps that are done already.
        total_steps: steps in the whole run.
    """

    def __init__(self, assembly: Assembly, start_step: int, total_steps: int) -> None:
        self.assembly, self.start_step, self.total_steps = assembly, start_step, total_steps

    def __len__(self) -> int:
        """The steps of the whole run: Lightning takes a shorter length for the epoch's end."""
        return self.total_steps

    def __iter__(self) -> Iterator[list[Any]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.start_step + first, self.total_steps, stride):
            yield self.assembly.step(number)


@dataclass
class WindowSteps:
    """Optimizer steps of windows of running text; see `Assembly`.

    A window may be cut into shorter sequences: the inputs of the first are its first tokens, and so
    on; what an objective leaves over is not read.

    Args:
        ids: the split's token ids.
        order: which windows make up a step.
        share: whose steps these are.
        length: targets in a window.
        sizes: windows in each step, over all ranks.
        lengths: targets in the sequences of each step, divisors of `length`.
        separator: the token before each document, if documents are to be separate.
        objective: what a task makes of the windows; None takes the next tokens for targets.
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
        """This process's share of a step."""
        length = self.lengths.at(number)
        windows = self.sizes.at(number)
        told: dict[str, Any]
        if self.objective is None:
            rows = self.rows(number, length, self.share.of(windows))
            arrays = {
                "tokens": rows[:, :-1].astype(np.int64),
                "targets": rows[:, 1:].astype(np.int64),
            }
            count = windows * self.length
            told = {"step_targets": count, "step_tokens": count}
        else:  # made as a whole, whatever the ranks and micro-batches
            rows = self.rows(number, length, slice(None)).astype(np.int64)
            whole = self.objective(rows, generator(self.share.seed, number))
            targets = self.objective.targets(whole) or 1.0
            told = {"step_targets": targets, "step_tokens": len(rows) * length}
            mine = self.share.of(len(rows))
            arrays = {name: each[mine] for name, each in whole.items()}
        tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
        found = self.share.micro_batches(tensors, told, self.length // length)
        for micro in found:
            _separate(micro, self.separator)
        return found

    def starts(self, number: int) -> Numbers:
        """The first token of each window of a step, over all ranks."""
        return self.order.windows(number, self.sizes.before(number), self.sizes.at(number))

    def rows(self, number: int, length: int, windows: slice) -> NDArray[Any]:
        """The ids of some windows of a step, in sequences of `length` targets, (n, width)."""
        starts = self.sequences(self.starts(number)[windows], length)
        return self.ids.windows(self.width(length))[starts]

    def width(self, length: int) -> int:
        """Ids of a sequence of `length` targets: with the last target, where these are the next."""
        return self._raw(length) + (self.objective is None)

    def places(self, number: int) -> list[list[Place]]:
        starts, width = self._extents(number)
        ends = self.ids.ends
        return [stretches(ends, start, start + width) for start in starts.tolist()]

    def readings(self, places: Collection[Place], steps: Iterable[int]) -> Iterator[Reading]:
        ends = self.ids.ends
        begins = [int(ends[place.document - 1]) if place.document else 0 for place in places]
        spans = [
            (b + (p.first or 0), b + (p.end or 0)) for p, b in zip(places, begins, strict=True)
        ]
        listed = [place for _, place in sorted(zip(spans, places, strict=True), key=lambda x: x[0])]
        first, end = np.array(sorted(spans), dtype=np.int64).reshape(-1, 2).T
        longest = int((end - first).max(initial=0))
        for number in steps:
            starts, width = self._extents(number)
            low = np.searchsorted(first, starts - longest, side="right")
            high = np.searchsorted(first, starts + width)
            for example, start in enumerate(starts.tolist()):
                for at in range(low[example], high[example]):
                    if end[at] > start:
                        whole = start <= first[at] and end[at] <= start + width
                        yield Reading(number, example, listed[at], bool(whole))

    def _extents(self, number: int) -> tuple[Numbers, int]:
        """The first token of each sequence of a step, over all ranks, and how many each reads."""
        length = self.lengths.at(number)
        starts = self.sequences(self.starts(number), length)
        return starts, self.width(length)

    def sequences(self, starts: Numbers, length: int) -> Numbers:
        """The first token of each sequence of `length` targets, of windows that begin there."""
        if length == self.length:
            return starts
        raw = self._raw(length)
        count = self._raw(self.length) // raw
        return (starts[:, None] + raw * np.arange(count)).flatten()

    def _raw(self, length: int) -> int:
        return length if self.objective is None else self.objective.raw(length)


class EvaluationBatches(IterableDataset[Windows]):
    """A whole split: windows that don't overlap, every token but the first a target once.

    The last window, where it is shorter, is a batch of its own. So it is for each of several texts
    in the file.

    Args:
        ids: the split's token ids.
        length: targets in a window.
        examples: the most windows in a batch.
        places: the first token and the number of tokens of each text; None is one, the whole.
        separator: the token before each document, if documents are to be separate.
        objective: as for `WindowSteps`; its random numbers are those of the batch's number.
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

    def __iter__(self) -> Iterator[Windows]:
        if self.objective is not None:
            yield from self._made(self.objective)
            return
        for section, (start, tokens) in enumerate(self.places):
            for first, count, length in self._shapes(tokens):
                begin = start + first
                ids = self.ids.values[begin : begin + count * length + 1].astype(np.int64)
                inputs, targets = torch.from_numpy(ids[:-1]), torch.from_numpy(ids[1:])
                batch: Windows = {
                    "tokens": inputs.view(count, length),
                    "targets": targets.view(count, length),
                    "section": section,
                }
                _separate(batch, self.separator)
                yield batch

    def _made(self, objective: WindowObjective) -> Iterator[Any]:
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
        """Of a text's batches, the place of the first input, the windows and their length."""
        length, shortest = self.length, 1
        if self.objective is None:
            tokens -= 1  # the last is a target alone
        else:
            length, shortest = self.objective.raw(self.length), self.objective.shortest
        full, rest = divmod(max(tokens, 0), length)
        for first in range(0, full, self.examples):
            yield first * length, min(self.examples, full - first), length
        if rest >= shortest:
            yield full * length, 1, rest


def _separate(batch: Windows, separator: int | None) -> None:
    """Notes where documents begin, if the separator says it.

    The separator belongs to the document that it stands before: so each target is predicted from
    its own document alone, the first word of a document from the separator, and the separator, as
    the end, from the last word; and all of them count.
    """
    if separator is not None:
        tokens, labels = batch["tokens"], batch.get("labels")
        if labels is not None:  # a separator is never hidden
            tokens = torch.where(labels == IGNORE, tokens, labels)
        batch["documents"] = Documents.beginning_with(separator, tokens)
