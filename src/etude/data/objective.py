"""Objectives, which convert data to model inputs and to targets for the loss of a task.

A task returns the objective that its config sets. The data module applies the objective while it
assembles a step, before the step is split into micro-batches and ranks; so masks and the number of
targets do not depend on the micro-batch size and the number of ranks.
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
"""Target that does not enter the loss."""

CORRUPTION_STREAM = 0x4D41534B
"""Tag that separates an objective's random numbers from other random numbers of the same seed."""

Reads = Literal["windows", "examples", "made"]
"""Kind of data that an objective reads: windows of text, examples with fields, or synthetic data.
"""


class Objective(ABC):
    """Base class of objectives, which convert data to model inputs and to targets for a loss.

    An objective is pickled to loader processes, so it contains no model and no tensors.

    Attributes:
        reads: kind of data that the objective reads; see `Reads`.
        such_as: config that selects data of this kind, as an example in messages, such as
            `data=text_files`.
        fields: names of the fields that examples must have.
        packs: whether one sequence may contain several texts that don't attend to each other.
    """

    reads: ClassVar[Reads]
    such_as: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()
    packs: ClassVar[bool] = False

    def special_tokens(self, known: Mapping[str, int]) -> list[str]:
        """Returns the names of special tokens that the objective needs and the tokenizer lacks.

        The caller adds these tokens to the tokenizer, with ids after all others.

        Args:
            known: ids of the tokenizer's special tokens, by name.
        """
        return []

    def bound(self, tokenizer: Any, meta: Any) -> Self:
        """Returns the objective with values from the prepared data, such as special token ids.

        The result is a copy with these values as attributes; which values, a subclass defines. It
        is the objective itself if the objective needs no such values.

        Args:
            tokenizer: an `etude.data.tokenizer.Tokenizer`.
            meta: the `StoreMeta` of the prepared data, with the names of labels, for example.

        Raises:
            RequestError: if the tokenizer or the data does not fit the task.
        """
        return self


class WindowObjective(Objective):
    """Objective that converts windows of continuous text to inputs and targets.

    The conversion may be random, such as a random choice of masked tokens.

    Attributes:
        shortest: minimum number of tokens in a window.
    """

    reads = "windows"
    such_as = "data=text_files"
    packs = True
    shortest: ClassVar[int] = 1

    def raw(self, length: int) -> int:
        """Returns the number of text tokens from which a window of `length` positions is made."""
        return length

    @abstractmethod
    def __call__(self, windows: Numbers, random: np.random.Generator) -> Arrays:
        """Returns the inputs and targets of n windows, as a dict of arrays with n rows each.

        The targets are under the key `labels`; those that don't enter the loss are `IGNORE`.

        Args:
            windows: token ids of shape (n, m), where m is the result of `raw`.
            random: random number generator of the step.
        """

    def targets(self, arrays: Arrays) -> int:
        """Returns the number of targets that enter the loss.

        Args:
            arrays: inputs and targets of windows, as the objective returns them.
        """
        return int((arrays["labels"] != IGNORE).sum())


class ExampleObjective(Objective):
    """Objective that converts the fields of an example to inputs and targets.

    Attributes:
        padded: dict from the name of an array to the name of the mask that hides the array's
            padding from the model. The mask is false at padding.
    """

    reads = "examples"
    such_as = "data=labelled_files, pairs or tagged"
    padded: ClassVar[Mapping[str, str]] = {"tokens": "keep"}

    @abstractmethod
    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        """Returns the number of positions that each example occupies.

        Args:
            lengths: dict from each field's name to the length of the field in each example.
        """

    def cut(self, lengths: Mapping[str, Numbers]) -> int:
        """Returns the number of examples that `compose` truncates; 0 if it truncates none.

        Args:
            lengths: dict from each field's name to the length of the field in each example.
        """
        return 0

    def compose(self, fields: Arrays) -> Arrays:
        """Returns the inputs and targets of one example, as arrays by name.

        Each array is one-dimensional, or a single number (an array without dimensions). The targets
        are under the key `labels`. The base class returns the fields themselves.

        Args:
            fields: the example's fields, by name.
        """
        return fields

    def targets(self, arrays: Arrays) -> float:
        """Returns how many of an example's targets enter the loss, or the sum of their weights.

        It is the sum of the weights if the objective gives targets different weights, as to balance
        classes.

        Args:
            arrays: the example, as the result of `compose`.
        """
        return float(enters_loss(arrays["labels"]).sum())

    def bound_to_rows(self, tokenizer: Any, sequence_length: int) -> Self:
        """Returns a variant of the objective for rows of files that are only evaluated.

        In this variant, all examples have the same weight.

        Args:
            tokenizer: the run's tokenizer.
            sequence_length: maximum number of positions of an example.
        """
        return self

    def without_targets(self, arrays: Arrays) -> Arrays:
        """Returns an example (from `compose`) with targets that don't enter the loss."""
        labels = arrays["labels"]
        return arrays | {"labels": np.full_like(labels, _fill("labels", labels))}

    def positions(self, arrays: Arrays) -> int:
        """Returns how many positions a model computes for one example (from `compose`)."""
        return sum(len(arrays[name]) for name in self.padded)

    def collated(self, examples: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """Returns one batch of several examples, as a dict of tensors.

        Arrays are padded at the end to equal lengths; a number per example becomes an array of
        shape (number of examples,). If the lengths of an array in `padded` differ, the dict also
        contains the array's mask.

        Args:
            examples: results of `compose`, one for each example.
        """
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
        """Returns one batch of sequences that contain several examples one after the other.

        Each example is a document. Instead of the masks that `padded` names, the batch contains the
        starts of the documents (`Documents`), also one for each array in `padded`. The key is the
        mask's name with `keep` replaced by `documents`. Padding
        after a sequence's last example is a further document, without targets. A number per example
        becomes an array of shape (N,), with one number for each of the N documents in the batch.

        Args:
            rows: the examples of each sequence, as results of `compose`.
        """
        documents = {}
        for name, keep in self.padded.items():
            lengths = [[len(example[name]) for example in row] for row in rows]
            is_start = np.zeros((len(rows), max(map(sum, lengths))), dtype=bool)
            for row_starts, counts in zip(is_start, lengths, strict=True):
                starts = np.cumsum([0, *counts])
                row_starts[starts[starts < len(row_starts)]] = True
            documents[keep.replace("keep", "documents")] = Documents(torch.from_numpy(is_start))
        batch: dict[str, Any] = {}
        for name, array in rows[0][0].items():
            if array.ndim:
                joined = [np.concatenate([example[name] for example in row]) for row in rows]
                batch[name] = _rows(joined, _fill(name, array))
                continue
            numbers: list[Any] = []
            for row, lengths_of_row in zip(rows, documents["documents"].lengths, strict=True):
                numbers += [example[name] for example in row]
                numbers += [_fill(name, array)] * (len(lengths_of_row) - len(row))
            batch[name] = torch.from_numpy(np.array(numbers, dtype=array.dtype))
        return batch | documents


def describe_required_data(objective: Objective | None) -> tuple[str, str | None]:
    """Returns the parts of a message about the data that an objective reads.

    These are a description of the data, and a hint that names a config with such data; the hint is
    None if the description already names one.

    Args:
        objective: the objective; None for next-token prediction on continuous text.
    """
    if objective is None or objective.reads == "windows":
        return "continuous text, which the run's task needs, such as data=text_files", None
    if objective.reads == "made":
        return f"synthetic data for the run's task, such as {objective.such_as}", None
    fields = ", ".join(objective.fields)
    return f"examples with the fields {fields} for the run's task", f"set {objective.such_as}"


def enters_loss(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns a boolean array that is true for labels that enter the loss.

    Integer labels enter the loss unless they are `IGNORE`, floating-point labels unless they are
    NaN.
    """
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels != IGNORE


def _fill(name: str, like: NDArray[Any]) -> float:
    """Returns the value that pads an array: 0, or for labels a value that the loss ignores.

    Args:
        name: name of the array; the array `labels` contains labels.
        like: an array of the same type. The value for labels is NaN for a floating-point type, and
            `IGNORE` for integers.
    """
    if name != "labels":
        return 0
    return math.nan if like.dtype.kind == "f" else IGNORE


def _rows(arrays: Sequence[NDArray[Any]], fill: float) -> torch.Tensor:
    """Returns the arrays as rows of a tensor; the shorter arrays are padded with `fill`.

    The shape is (number of arrays, length of the longest array).
    """
    rows = np.full((len(arrays), max(map(len, arrays))), fill, dtype=arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(rows)


def generator(seed: int, step: int) -> np.random.Generator:
    """Returns the random number generator with which an objective converts an optimizer step.

    Args:
        seed: the run's seed.
        step: number of the step, or of the batch in evaluation.
    """
    entropy = np.random.SeedSequence(seed, spawn_key=(CORRUPTION_STREAM, step))
    return np.random.Generator(np.random.Philox(entropy))
