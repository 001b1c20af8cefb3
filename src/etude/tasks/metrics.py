"""Metrics that accumulate over batches and ranks, with the same result in any order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from etude.data.evaluation_data import Evaluated


class Sum:
    """Sum of numbers that is rounded only once (`math.fsum`), so that their order has no effect.

    Tensors stay on their device until the sum is read, so `add` does not wait for the device.
    """

    def __init__(self) -> None:
        self._numbers: list[float] = []
        self._tensors: list[Tensor] = []

    def add(self, number: float | Tensor) -> None:
        """Adds a number, or each element of a tensor."""
        if isinstance(number, Tensor):
            self._tensors.append(number.detach().flatten())
        else:
            self._numbers.append(float(number))

    def merge(self, other: Sum) -> None:
        """Adds all numbers of another sum."""
        self._numbers += other._settled()

    @property
    def value(self) -> float:
        """The sum; reading it waits for the device."""
        return math.fsum(self._settled())

    def _settled(self) -> list[float]:
        if self._tensors:
            # On the CPU: not every device supports double precision.
            self._numbers += torch.cat(self._tensors).cpu().double().tolist()
            self._tensors = []
        return self._numbers

    def __getstate__(self) -> dict[str, Any]:
        return {"_numbers": self._settled(), "_tensors": []}


def ratio(numerator: Sum, denominator: Sum) -> float:
    """Returns the ratio of two sums, such as a mean; NaN if the denominator is 0."""
    count = denominator.value
    return numerator.value / count if count else math.nan


def perplexity(loss: float) -> float:
    """Returns the exponential of a loss in nats; infinity for a loss of at least 700."""
    return math.exp(loss) if not loss >= 700 else math.inf


@dataclass
class Evaluation:
    """Result of an evaluation.

    Attributes:
        metrics: metrics by name.
        predictions: one dict per row, with `row`, its index from 0, and `score`, where higher is
            better; empty for a task without such results.
        of: function that returns the metrics of a subset of rows, given by index; None for data
            without rows.
        counts: confusion matrix of a classifier or tagger; None for other tasks.
        labels: names of the classes or tags in `counts`.
        calibration: for a classifier, mean confidence, accuracy and count of each confidence bin;
            empty for other tasks.
        spans: for a tagger of spans, the scores of each label of spans, such as LOC; empty for
            other tasks.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    of: Callable[[Container[int]], dict[str, float]] | None = None
    counts: Any = None
    labels: list[str] = field(default_factory=list)
    calibration: list[tuple[float, float, int]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)


class Metrics(ABC):
    """Base class of metric accumulators over a model's outputs."""

    @abstractmethod
    def update(self, batch: Mapping[str, Any], outputs: Any) -> None:
        """Adds a batch to the metrics.

        Args:
            batch: batch from the data.
            outputs: the task's output for this batch; see `etude.tasks.base.Task.outputs`.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Adds all examples that were added to `other`, an object of the same class."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns a dict from the name of each metric to its value for all added examples."""

    def evaluation(self, evaluated: Evaluated) -> Evaluation:
        """Returns the metrics of all added examples, and a subclass's additional results.

        Such results are, for example, a confusion matrix or the prediction for each row.

        Args:
            evaluated: where the examples come from: a split or rows.
        """
        return Evaluation(self.compute())


class RowMetrics(Metrics):
    """Base class of metrics over the rows of the data, each of which may have been split into
    several examples.

    A subclass may cache its rows in a cached property `_rows`. Then its methods `update` and
    `merge` must call `changed`, which deletes the cached rows.
    """

    def changed(self) -> None:
        """Deletes the cached rows; called after data was added to the metrics."""
        self.__dict__.pop("_rows", None)

    @abstractmethod
    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        """Returns the metrics of a subset of rows, given by index; None selects all rows."""

    @abstractmethod
    def predictions(self) -> list[dict[str, Any]]:
        """Returns one object per row: `row`, its index; `label` and `prediction`, as JSON values;
        `score`, where higher is better; and optional further fields.
        """

    def details(self) -> dict[str, Any]:
        """Returns a dict of further attributes for the `Evaluation`, such as `counts`, by name; by
        default, an empty dict.
        """
        return {}

    def evaluation(self, evaluated: Evaluated) -> Evaluation:
        return Evaluation(self.compute(), self.predictions(), self.of, **self.details())


def merged(empty: Metrics, parts: Sequence[Metrics]) -> Metrics:
    """Merges the accumulators `parts` into the accumulator `empty`, and returns `empty`."""
    for part in parts:
        empty.merge(part)
    return empty


def gather_ranks(value: Any, world: int) -> list[Any]:
    """Returns a list with the value of each rank, in the order of the ranks. Every rank (process of
    the run) calls this function and gets the same list.

    Args:
        value: this rank's value.
        world: number of ranks.
    """
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values
