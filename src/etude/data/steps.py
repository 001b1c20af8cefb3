"""Token ids to batches: whole optimizer steps for training, the whole split for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import IterableDataset, get_worker_info

from etude.data.objective import IGNORE, WindowObjective, generator
from etude.data.order import Order
from etude.data.prepare import TokenFile
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


class TrainingSteps(IterableDataset[list[MicroBatch]]):
    """The optimizer steps `start_step`, ..., `total_steps - 1`, each a list of micro-batches.

    Worker w of W gives steps start + w, start + w + W, ...; a `DataLoader` takes from its workers
    in turn, so the steps come in order with any number of them.

    Args:
        file: the split's token ids.
        order: which windows make up a step.
        batch: windows in a step, over all ranks.
        length: targets in a window.
        micro_batch: the most windows in a micro-batch; None for no limit. The last may be smaller.
        total_steps: steps in the whole run.
        start_step: steps that are done already.
        rank: this process, of `world`; it takes the rank-th contiguous share of each step.
        world: processes, a divisor of `batch`.
        separator: the token before each document, if documents are to be separate.
        objective: what a task makes of the windows; None takes the next tokens for targets.
        seed: the run's, for an objective.
    """

    def __init__(
        self,
        file: TokenFile,
        order: Order,
        *,
        batch: int,
        length: int,
        micro_batch: int | None,
        total_steps: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        separator: int | None = None,
        objective: WindowObjective | None = None,
        seed: int = 0,
    ) -> None:
        self.file = file
        self.objective, self.seed = objective, seed
        self.order = order
        self.separator = separator
        self.length = length
        self.total_steps = total_steps
        self.start_step = start_step
        share = batch // world
        self.share = slice(rank * share, (rank + 1) * share)
        self.micro_batch = share if micro_batch is None else micro_batch
        self.step_targets = batch * length

    def __len__(self) -> int:
        """The steps of the whole run: Lightning takes a shorter length for the epoch's end."""
        return self.total_steps

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if self.objective is not None:
            for step in range(self.start_step + first, self.total_steps, stride):
                yield self._made(step, self.objective)
            return
        # A view with a row for each place, so that a step's rows are copied in one operation.
        windows = sliding_window_view(self.file.ids, self.length + 1)
        for step in range(self.start_step + first, self.total_steps, stride):
            rows = windows[self.order.starts(step)[self.share]]  # (share, T + 1)
            tokens = torch.from_numpy(rows[:, :-1].astype(np.int64))
            targets = torch.from_numpy(rows[:, 1:].astype(np.int64))
            whole: list[MicroBatch] = [
                {"tokens": inputs, "targets": outputs, "step_targets": self.step_targets}
                for inputs, outputs in zip(
                    tokens.split(self.micro_batch), targets.split(self.micro_batch), strict=True
                )
            ]
            for micro in whole:
                _separate(micro, self.separator)
            yield whole

    def _made(self, step: int, objective: WindowObjective) -> list[Any]:
        """A step as the objective makes it: as a whole, whatever the ranks and micro-batches."""
        windows = sliding_window_view(self.file.ids, objective.raw(self.length))
        rows = windows[self.order.starts(step)].astype(np.int64)
        arrays = objective(rows, generator(self.seed, step))
        told = {
            "step_targets": objective.targets(arrays) or 1.0,
            "step_tokens": self.step_targets,
        }
        tensors = {name: torch.from_numpy(rows[self.share]) for name, rows in arrays.items()}
        parts = [{name: x.split(self.micro_batch)} for name, x in tensors.items()]
        split = {name: pieces for part in parts for name, pieces in part.items()}
        count = len(next(iter(split.values())))
        whole: list[Any] = [
            {**{name: pieces[i] for name, pieces in split.items()}, **told} for i in range(count)
        ]
        for micro in whole:
            _separate(micro, self.separator)
        return whole


class EvaluationBatches(IterableDataset[Windows]):
    """A whole split: windows that don't overlap, every token but the first a target once.

    The last window, where it is shorter, is a batch of its own. So it is for each of several texts
    in the file.

    Args:
        file: the split's token ids.
        length: targets in a window.
        examples: the most windows in a batch.
        places: the first token and the number of tokens of each text; None is one, the whole.
        separator: the token before each document, if documents are to be separate.
        objective: as for `TrainingSteps`; its random numbers are those of the batch's number.
    """

    def __init__(
        self,
        file: TokenFile,
        *,
        length: int,
        examples: int,
        places: Sequence[tuple[int, int]] | None = None,
        separator: int | None = None,
        objective: WindowObjective | None = None,
    ) -> None:
        self.file = file
        self.objective = objective
        self.length = length
        self.examples = examples
        self.separator = separator
        self.places = [(0, file.tokens)] if places is None else list(places)

    def __len__(self) -> int:
        return sum(1 for _, tokens in self.places for _ in self._shapes(tokens))

    def __iter__(self) -> Iterator[Windows]:
        if self.objective is not None:
            yield from self._made(self.objective)
            return
        for section, (start, tokens) in enumerate(self.places):
            for first, count, length in self._shapes(tokens):
                begin = start + first
                ids = self.file.ids[begin : begin + count * length + 1].astype(np.int64)
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
                ids = self.file.ids[begin : begin + count * length].astype(np.int64)
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
