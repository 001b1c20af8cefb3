"""What a task makes of the data: inputs, and targets for its loss.

A task's class says which objective its config describes. The data module applies it while it
assembles a step, before the step is cut into micro-batches and shared among ranks; so masks and
the number of targets depend on neither.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from etude.nn.documents import Documents

Numbers = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

IGNORE = -100
"""A target that does not enter the loss."""

CORRUPTION_STREAM = 0x4D41534B
"""Tells an objective's random numbers from others of the run's seed."""

Reads = Literal["windows", "examples", "made"]
"""What an objective reads: windows of running text, examples with fields, or what a rule makes."""


class Objective(ABC):
    """The base of all kinds. It is handed to loader processes: no model, no tensors in it.

    Attributes:
        such_as: which data it reads, for messages.
        fields: those that the data must have.
        packs: whether the task can keep several texts in one sequence apart.
    """

    reads: ClassVar[Reads]
    such_as: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()
    packs: ClassVar[bool] = False

    def special_tokens(self, known: Mapping[str, int]) -> list[str]:
        """Those that the tokenizer must have and lacks; they are added at its end.

        Args:
            known: its special tokens, by name.
        """
        return []

    def bound(self, tokenizer: Any, meta: Any) -> Self:
        """The same, knowing what is known once the data is prepared.

        Args:
            tokenizer: an `etude.data.tokenizer.Tokenizer`.
            meta: what the data says of its splits.

        Raises:
            RequestError: they don't fit the task.
        """
        return self


class WindowObjective(Objective):
    """Makes inputs and targets of windows of running text, perhaps at random.

    Attributes:
        shortest: the fewest tokens that a window may have.
    """

    reads = "windows"
    such_as = "data=text_files"
    packs = True
    shortest: ClassVar[int] = 1

    def raw(self, length: int) -> int:
        """The tokens of text in a window of `length` positions."""
        return length

    @abstractmethod
    def __call__(self, windows: Numbers, random: np.random.Generator) -> Arrays:
        """Windows (n, raw) to arrays with n rows; targets that don't count are `IGNORE`."""

    def targets(self, arrays: Arrays) -> int:
        """How many targets enter the loss."""
        return int((arrays["labels"] != IGNORE).sum())


class ExampleObjective(Objective):
    """Makes inputs and targets of the fields of an example.

    Attributes:
        padded: arrays whose padding the model must not see, and the name of the mask that says
            where there is none.
    """

    reads = "examples"
    such_as = "data=labelled_files, pairs or tagged"
    padded: ClassVar[Mapping[str, str]] = {"tokens": "keep"}

    @abstractmethod
    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        """The positions that each example takes, of the lengths of its fields."""

    def cut(self, lengths: Mapping[str, Numbers]) -> int:
        """How many examples `compose` cuts, each of whose fields alone would have room."""
        return 0

    def compose(self, fields: Arrays) -> Arrays:
        """An example's arrays of its fields; each of one dimension, or a number."""
        return fields

    def targets(self, arrays: Arrays) -> float:
        """How much of the example enters the loss: the number of targets, or their weight."""
        return float(counted(arrays["labels"]).sum())

    def bound_to_rows(self, tokenizer: Any, sequence_length: int) -> Self:
        """The same for rows that are only evaluated: all of one weight, whatever was trained."""
        return self

    def without_targets(self, arrays: Arrays) -> Arrays:
        """The example such that nothing of it enters the loss."""
        labels = arrays["labels"]
        return arrays | {"labels": np.full_like(labels, _fill("labels", labels))}

    def positions(self, arrays: Arrays) -> int:
        """The positions that a model computes for it, padding aside."""
        return sum(len(arrays[name]) for name in self.padded)

    def collated(self, examples: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """One batch of several, padded after their ends."""
        batch: dict[str, torch.Tensor] = {}
        for name, first in examples[0].items():
            arrays = [example[name] for example in examples]
            if first.ndim == 0:
                batch[name] = torch.from_numpy(np.stack(arrays))
                continue
            lengths = np.array([len(array) for array in arrays])
            batch[name] = _rows(arrays, _fill(name, first))
            if name in self.padded and lengths.min() < lengths.max():
                keep = np.arange(lengths.max()) < lengths[:, None]
                batch[self.padded[name]] = torch.from_numpy(keep)
        return batch

    def packed(self, rows: Sequence[Sequence[Arrays]]) -> dict[str, Any]:
        """One batch of several sequences, each of several examples one after the other.

        For the mask that `padded` names it has `documents` in its place: where each example begins.
        The padding after a sequence's last example is one more, which has no target. Of an array
        with one number an example there is one for each of these, (N,).
        """
        documents = {}
        for name, keep in self.padded.items():
            lengths = [[len(example[name]) for example in row] for row in rows]
            first = np.zeros((len(rows), max(map(sum, lengths))), dtype=bool)
            for marks, counts in zip(first, lengths, strict=True):
                starts = np.cumsum([0, *counts])
                marks[starts[starts < len(marks)]] = True
            documents[keep.replace("keep", "documents")] = Documents(torch.from_numpy(first))
        batch: dict[str, Any] = {}
        for name, array in rows[0][0].items():
            if array.ndim:
                joined = [np.concatenate([example[name] for example in row]) for row in rows]
                batch[name] = _rows(joined, _fill(name, array))
                continue
            numbers: list[Any] = []
            for row, found in zip(rows, documents["documents"].lengths, strict=True):
                numbers += [example[name] for example in row]
                numbers += [_fill(name, array)] * (len(found) - len(row))
            batch[name] = torch.from_numpy(np.array(numbers, dtype=array.dtype))
        return batch | documents


def wanted(objective: Objective | None) -> tuple[str, str | None]:
    """The data that an objective reads, and which that is, for messages."""
    if objective is None or objective.reads == "windows":
        return "data of running text for this task, such as data=text_files", None
    if objective.reads == "made":
        return f"data that a rule makes for this task, such as {objective.such_as}", None
    fields = ", ".join(objective.fields)
    return f"data of examples with {fields} for this task", objective.such_as


def counted(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which labels enter the loss: all but `IGNORE`, and of floating-point ones all numbers."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels != IGNORE


def _fill(name: str, like: NDArray[Any]) -> float:
    """What stands where an array has nothing."""
    if name != "labels":
        return 0
    return math.nan if like.dtype.kind == "f" else IGNORE


def _rows(arrays: Sequence[NDArray[Any]], fill: float) -> torch.Tensor:
    """(B, T), `fill` after the shorter ones."""
    rows = np.full((len(arrays), max(map(len, arrays))), fill, dtype=arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(rows)


def generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of a step of a run."""
    entropy = np.random.SeedSequence(seed, spawn_key=(CORRUPTION_STREAM, step))
    return np.random.Generator(np.random.Philox(entropy))
