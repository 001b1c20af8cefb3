"""Callbacks that measure the model after each validation; the values are metrics of the run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytorch_lightning as pl

from etude.errors import Problem

if TYPE_CHECKING:
    import pandas as pd


class Measured(pl.Callback):
    """Base class of callbacks that measure the model after each validation.

    A measure changes nothing in training, so these callbacks are not part of a run's signature. It
    must not change the model, and not use the global random generators.

    Attributes:
        observes: true: the class doesn't change the training.
    """

    observes: ClassVar[bool] = True

    @property
    @abstractmethod
    def prefix(self) -> str:
        """First part of the metrics' names, after `inside/`."""

    @abstractmethod
    def measure(self, module: Any) -> pd.Series | float:
        """Returns the values of the model: a series, or one number.

        Args:
            module: the model, with the weights that the validation uses.
        """

    def misfits(self, model: Any) -> Iterable[Problem]:
        """Returns the reasons why a model cannot be measured; `etude plan` reports them, too.

        Args:
            model: the model on torch's meta device, without values, with one layer.
        """
        return ()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures once, so that a model that cannot be measured is reported before training."""
        task: Any = pl_module
        self.measure(task.model)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds the values to the metrics of the validation."""
        task: Any = pl_module
        values = self.measure(task.model)
        task.validation_metrics |= dict(_metrics(f"inside/{self.prefix}", values))


class HeadScores(Measured):
    """Measures the scores of all attention heads after each validation.

    The metrics are called `inside/<score>/<layer>.<head>`, such as `inside/induction/1.3`.

    Args:
        score: `induction`, `previous_token`, `duplicate_token` or `copying`; see
            `etude.interpret.heads`.
        length: number of random tokens in each half of a sequence; without effect for `copying`.
            None is 50, or half of what the model can read if that is less.
        sequences: number of sequences.
    """

    def __init__(
        self,
        *,
        score: Literal["induction", "previous_token", "duplicate_token", "copying"] = "induction",
        length: int | None = None,
        sequences: int = 8,
    ) -> None:
        self.score = score
        self.options: dict[str, Any] = {}
        if score != "copying":
            self.options = {"length": length, "sequences": sequences}

    @property
    def prefix(self) -> str:
        return self.score

    def misfits(self, model: Any) -> Iterable[Problem]:
        from etude.interpret.heads import score_problems

        return score_problems(model, **self.options)

    def measure(self, module: Any) -> pd.Series:
        from etude import interpret

        function = getattr(interpret, f"{self.score}_scores")
        series: pd.Series = function(module, **self.options)
        return series


def _metrics(name: str, values: Any) -> list[tuple[str, float]]:
    """Returns pairs of a metric's name and value for a series or a number."""
    if not hasattr(values, "items"):
        return [(name, float(values))]
    pairs = []
    for key, value in values.items():
        parts = key if isinstance(key, tuple) else (key,)
        pairs.append((f"{name}/{'.'.join(map(str, parts))}", float(value)))
    return pairs
