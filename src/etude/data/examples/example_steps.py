"""Examples to batches: whole optimizer steps for training, a whole split for evaluation."""

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
from etude.data.places import Place, Reading
from etude.data.steps import Share

DEFAULT_KINDS = Kinds()
MicroBatch = dict[str, Any]
Item = TypeVar("Item")


class ExampleTable:
    """The examples of a split as an objective makes them of their fields.

    Args:
        fields: by name, all of as many lists.
        objective: the task's.
        kinds: of the numbers in the fields.
    """

    def __init__(
        self,
        fields: Mapping[str, Column],
        objective: ExampleObjective,
        kinds: Kinds = DEFAULT_KINDS,
    ) -> None:
        self.fields, self.objective, self.kinds = dict(fields), objective, kinds
        self.indices: Any = slice(None)  # which of all examples these are

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, index: int) -> Arrays:
        return self.composed({name: field[index] for name, field in self.fields.items()})

    def composed(self, fields: Mapping[str, Any]) -> Arrays:
        """What the objective makes of an example's fields."""
        arrays = {name: self.kinds.array(name, values) for name, values in fields.items()}
        return self.objective.compose(arrays)

    def lengths(self) -> Numbers:
        """The positions that each example takes."""
        return self.objective.lengths({name: field.lengths for name, field in self.fields.items()})


class MemoryTable(ExampleTable):
    """Examples in memory."""

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
        found = {name: np.array([*map(len, each)]) for name, each in self.lists.items()}
        return self.objective.lengths(found)


class TableSubset(ExampleTable):
    """Some of a table's examples."""

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
    """Optimizer steps of examples with fields; see `etude.data.steps.Assembly`.

    Each micro-batch has the arrays of its examples, and `step_targets`, what the whole step's loss
    is divided by, and `step_tokens`, the positions in it that are no padding, over all ranks.

    Args:
        table: the training split.
        batches: which examples make up a step.
        share: whose steps these are; its micro-batches hold examples, or packed sequences.
        rows: the row that each example of the table is from.
        numbers: of the table's examples among all of the split; None is all of them.
        room: positions in a sequence that short examples share; None gives each its own.
    """

    table: ExampleTable
    batches: ExampleBatches
    share: Share
    rows: Numbers
    capacity: int | None = None
    numbers: Numbers | None = None

    def step(self, number: int) -> list[MicroBatch]:
        """This process's share of a step."""
        objective = self.table.objective
        whole = [self.table[int(index)] for index in self.batches.step(number)]
        told = {
            "step_targets": sum(objective.targets(each) for each in whole) or 1.0,
            "step_tokens": sum(objective.positions(each) for each in whole),
        }
        mine = whole[self.share.of(len(whole))]
        if not mine:  # fewer examples than ranks: this one computes, and counts nothing
            mine = [objective.without_targets(whole[0])]
        if self.capacity is not None:
            rows = [[mine[index] for index in row] for row in self._pack(mine, self.capacity)]
            return [{**objective.packed(each), **told} for each in self._split_micro_batches(rows)]
        return [{**objective.collated(each), **told} for each in self._split_micro_batches(mine)]

    def places(self, number: int) -> list[list[Place]]:
        """The rows of a step's examples, in the order of the batch."""
        return [[Place(int(self.rows[index]))] for index in self._batch_order(number)]

    def readings(self, places: Collection[Place], steps: Iterable[int]) -> Iterator[Reading]:
        """Which examples are those of some places, or are from their rows."""
        examples = {place.example: place for place in places if place.example is not None}
        rows = {place.document: place for place in places if place.example is None}
        own = np.arange(len(self.rows)) if self.numbers is None else self.numbers
        for number in steps:
            for example, index in enumerate(self._batch_order(number)):
                row = int(self.rows[index])
                place = examples.get(int(own[index])) or rows.get(row)
                if place is not None:
                    yield Reading(number, example, place)

    def _batch_order(self, number: int) -> list[int]:
        """The examples of a step, as they stand in the batch of all of it."""
        chosen = self.batches.step(number).tolist()
        if self.capacity is None:
            return chosen
        whole = [self.table[index] for index in chosen]
        return [chosen[index] for row in self._pack(whole, self.capacity) for index in row]

    def _pack(self, examples: list[Arrays], capacity: int) -> list[list[int]]:
        """Which of some examples share each sequence."""
        names = self.table.objective.padded
        return pack_examples([[len(each[name]) for name in names] for each in examples], capacity)

    def _split_micro_batches(self, items: list[Item]) -> list[list[Item]]:
        size = self.share.micro_batch or len(items)
        return [items[first : first + size] for first in range(0, len(items), size)]


class ExampleEvaluation(IterableDataset[MicroBatch]):
    """A whole split, each example once, the longest first; `index` says which these are.

    Args:
        table: the split.
        positions: the most in a batch, padding included.
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
