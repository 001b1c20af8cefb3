"""Metrics that accumulate: over batches, over ranks, in any order with the same result."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from etude.data.evaluated import Evaluated


class Sum:
    """A sum of numbers that is rounded once, whatever their order (`math.fsum`).

    Tensors stay on their device until the sum is asked for: adding one does not wait for it.
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
        """Adds all that another sum holds."""
        self._numbers += other._settled()

    @property
    def value(self) -> float:
        return math.fsum(self._settled())

    def _settled(self) -> list[float]:
        if self._tensors:
            # On the CPU, as not every device has double precision.
            self._numbers += torch.cat(self._tensors).cpu().double().tolist()
            self._tensors = []
        return self._numbers

    def __getstate__(self) -> dict[str, Any]:
        return {"_numbers": self._settled(), "_tensors": []}


def ratio(above: Sum, below: Sum) -> float:
    """A mean; not a number where nothing was counted."""
    count = below.value
    return above.value / count if count else math.nan


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats."""
    return math.exp(loss) if not loss >= 700 else math.inf


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: by name.
        predictions: an object for each row, with `row`, its number from 0, and `score`, more being
            better.
        of: the metrics of some rows, given by their numbers; None for data without rows.
        counts: of a classifier or tagger, how often each label was predicted as each.
        labels: the names of these.
        calibration: of a classifier, of each bin mean confidence, accuracy and number.
        spans: of a tagger of spans, the scores of each kind.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    of: Callable[[Container[int]], dict[str, float]] | None = None
    counts: Any = None
    labels: list[str] = field(default_factory=list)
    calibration: list[tuple[float, float, int]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)


class Metrics(ABC):
    """Accumulates what a model says of batches."""

    @abstractmethod
    def update(self, batch: Mapping[str, Any], outputs: Any) -> None:
        """Adds a batch.

        Args:
            batch: as the data gives it.
            outputs: of the task for this batch; see `etude.tasks.base.Task.outputs`.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Adds all that another one of the same kind holds."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics of everything that was added, by name."""

    def evaluation(self, evaluated: Evaluated) -> Evaluation:
        """The metrics, and what else is known of what was evaluated."""
        return Evaluation(self.compute())


class RowMetrics(Metrics):
    """Metrics of whole rows, whatever examples they were cut into.

    What is put together of the examples may be a cached property `_rows`; `update` and `merge` call
    `changed`.
    """

    def changed(self) -> None:
        """Something was added: the rows are to be put together again."""
        self.__dict__.pop("_rows", None)

    @abstractmethod
    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        """The metrics of some rows, given by their numbers; None is all."""

    @abstractmethod
    def predictions(self) -> list[dict[str, Any]]:
        """An object for each row: `row`, its number; `label` and `prediction`, as JSON can hold
        them; `score`, more being better; and whatever else there is to say.
        """

    def details(self) -> dict[str, Any]:
        """Further attributes of the `Evaluation`."""
        return {}

    def evaluation(self, evaluated: Evaluated) -> Evaluation:
        return Evaluation(self.compute(), self.predictions(), self.of, **self.details())


def merged(empty: Metrics, parts: Sequence[Metrics]) -> Metrics:
    """A new accumulator with all that several others hold."""
    for part in parts:
        empty.merge(part)
    return empty


def of_all_ranks(mine: Any, world: int) -> list[Any]:
    """What each rank holds, in the order of the ranks, on every rank."""
    if world == 1:
        return [mine]
    every: list[Any] = [None] * world
    dist.all_gather_object(every, mine)
    return every
