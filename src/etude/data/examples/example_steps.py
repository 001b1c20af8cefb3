"""Batches of examples: for training, those of each optimizer step; for evaluation, those of a whole
split.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset

from etude.data.columns import Column, Numbers
from etude.data.examples.batches import ExampleBatches
from etude.data.examples.packing import pack_examples
from etude.data.examples.source import Kinds
from etude.data.objective import Arrays, ExampleObjective
from etude.data.origins import DocumentSpan, SpanRead
from etude.data.steps import Share

DEFAULT_KINDS = Kinds()
MicroBatch = dict[str, Any]
Item = TypeVar("Item")


class ExampleTable:
    """Table of the examples of a split: item i contains the arrays of example i.

    The task's objective builds these arrays, which are the model's inputs and the targets, from the
    fields of the example.

    Args:
        fields: dict from the name of each field to its column; all columns have the same length.
        objective: objective of the task.
        kinds: types of the numbers in the fields; see `etude.data.examples.source.Kinds`.
    """

    def __init__(
        self,
        fields: Mapping[str, Column],
        objective: ExampleObjective,
        kinds: Kinds = DEFAULT_KINDS,
    ) -> None:
        self.fields, self.objective, self.kinds = dict(fields), objective, kinds
        self.indices: Any = slice(None)  # indices of the examples within the split

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, index: int) -> Arrays:
        return self.composed({name: field[index] for name, field in self.fields.items()})

    def composed(self, fields: Mapping[str, Any]) -> Arrays:
        """Returns the arrays that the objective builds from the fields of an example."""
        arrays = {name: self.kinds.array(name, values) for name, values in fields.items()}
        return self.objective.compose(arrays)

    def lengths(self) -> Numbers:
        """Returns the number of positions of each example."""
        return self.objective.lengths({name: field.lengths for name, field in self.fields.items()})


class MemoryTable(ExampleTable):
    """Table of examples whose fields are lists in memory instead of columns on disk.

    Args:
        fields: dict from the name of each field to a list with its numbers in each example.
        objective, kinds: see `ExampleTable`.
    """

    def __init__(
        self,
        fields: Mapping[str, list[list[Any]]],
        objective: ExampleObjective,
        kinds: Kinds = DEFAULT_KINDS,
    ) -> None:
        super().__init__({}, objective, kinds)
        self.lists = fields

    def __len__(self) -> int:
        return len(next(iter(self.lists.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.composed({name: each[index] for name, each in self.lists.items()})

    def lengths(self) -> np.ndarray:
        lengths = {name: np.array([*map(len, each)]) for name, each in self.lists.items()}
        return self.objective.lengths(lengths)


class TableSubset(ExampleTable):
    """Table of some examples of another table.

    Args:
        whole: the other table.
        indices: indices of the examples in `whole`.
    """

    def __init__(self, whole: ExampleTable, indices: np.ndarray) -> None:
        super().__init__(whole.fields, whole.objective, whole.kinds)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(int(self.indices[index]))

    def lengths(self) -> np.ndarray:
        return super().lengths()[self.indices]


@dataclass
class ExampleSteps:
    """Builder of the micro-batches of each optimizer step (an `etude.data.steps.StepAssembler`).

    A micro-batch is a dict with the arrays of its examples and two numbers of the whole step, over
    all ranks: `step_targets`, the number of targets (or the sum of their weights), by which the
    loss is divided; and `step_tokens`, the number of positions that are not padding.

    Args:
        table: examples of the training split.
        batches: assignment of examples to steps.
        share: rank of the process, and micro-batch size (examples, or packed sequences).
        rows: row number of each example of the table.
        capacity: number of positions of a packed sequence; None if examples are not packed.
        numbers: number of each example of the table within the split; None if the table contains
            the whole split.
    """

    table: ExampleTable
    batches: ExampleBatches
    share: Share
    rows: Numbers
    capacity: int | None = None
    numbers: Numbers | None = None

    def step(self, number: int) -> list[MicroBatch]:
        """Returns this process's micro-batches of optimizer step `number`."""
        objective = self.table.objective
        whole = [self.table[int(index)] for index in self.batches.step(number)]
        totals = {
            "step_targets": sum(objective.targets(each) for each in whole) or 1.0,
            "step_tokens": sum(objective.positions(each) for each in whole),
        }
        own = whole[self.share.of(len(whole))]
        if not own:  # fewer examples than ranks: compute without targets
            own = [objective.without_targets(whole[0])]
        if self.capacity is not None:
            sequences = [
                [own[index] for index in sequence] for sequence in self._pack(own, self.capacity)
            ]
            return [
                {**objective.packed(each), **totals}
                for each in self._split_micro_batches(sequences)
            ]
        return [{**objective.collated(each), **totals} for each in self._split_micro_batches(own)]

    def places(self, number: int) -> list[list[DocumentSpan]]:
        """Returns the row of each example of optimizer step `number`, in the order of the batch.

        For each example, the result contains a list with one `DocumentSpan`, whose attribute
        `document` is the number of the row in the training split.
        """
        return [[DocumentSpan(int(self.rows[index]))] for index in self._batch_order(number)]

    def readings(
        self, places: Collection[DocumentSpan], steps: Iterable[int]
    ) -> Iterator[SpanRead]:
        """Yields a `SpanRead` for each use of the given examples in the optimizer steps `steps`.

        Args:
            places: the examples, or (if the attribute `example` is None) rows. A row stands for all
                examples that were built from it.
            steps: numbers of the optimizer steps, from 0.
        """
        examples = {place.example: place for place in places if place.example is not None}
        rows = {place.document: place for place in places if place.example is None}
        numbers = np.arange(len(self.rows)) if self.numbers is None else self.numbers
        for number in steps:
            for example, index in enumerate(self._batch_order(number)):
                row = int(self.rows[index])
                place = examples.get(int(numbers[index])) or rows.get(row)
                if place is not None:
                    yield SpanRead(number, example, place)

    def _batch_order(self, number: int) -> list[int]:
        """Returns the index in `table` of each example of optimizer step `number`.

        The examples have the order of the batch of all ranks; packed ones are grouped by sequence.
        """
        chosen = self.batches.step(number).tolist()
        if self.capacity is None:
            return chosen
        whole = [self.table[index] for index in chosen]
        return [chosen[index] for row in self._pack(whole, self.capacity) for index in row]

    def _pack(self, examples: list[Arrays], capacity: int) -> list[list[int]]:
        """Distributes examples over packed sequences of at most `capacity` positions.

        A longer example is a sequence by itself.

        Returns:
            For each packed sequence, the indices in `examples` of the examples that it contains.
        """
        names = self.table.objective.padded
        return pack_examples([[len(each[name]) for name in names] for each in examples], capacity)

    def _split_micro_batches(self, items: list[Item]) -> list[list[Item]]:
        size = self.share.micro_batch or len(items)
        return [items[first : first + size] for first in range(0, len(items), size)]


class ExampleEvaluation(IterableDataset[MicroBatch]):
    """Batches of all examples of a table, each example once, the longest first.

    Every rank yields the same batches. In each batch, the value of the key `index` is a tensor with
    the indices of the batch's examples in `table`.

    Args:
        table: the examples of a split, or of rows of files.
        positions: maximum number of positions in a batch, including padding. A longer example is a
            batch by itself.
    """

    def __init__(self, table: ExampleTable, positions: int) -> None:
        self.table = table
        lengths = table.lengths()
        order = np.argsort(-lengths, kind="stable")
        self.batches: list[Numbers] = []
        first = 0
        while first < len(order):
            size = max(1, positions // max(1, int(lengths[order[first]])))
            self.batches.append(order[first : first + size])
            first += size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[MicroBatch]:
        objective = self.table.objective
        for indices in self.batches:
            arrays = [self.table[int(index)] for index in indices]
            batch: MicroBatch = dict(objective.collated(arrays))
            batch["index"] = torch.from_numpy(indices)
            yield batch
