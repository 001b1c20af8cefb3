"""The files of a saved run: its config, metrics, status and tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from etude.arguments import as_list, check_arguments
from etude.config.checks import CheckedConfig, check
from etude.config.composed import as_composed
from etude.errors import RequestError
from etude.records.config_file import read_config, to_portable
from etude.records.integrity import CONFIG, METRICS, TOKENIZER, is_hashed
from etude.records.metrics_file import read_frame
from etude.records.record import Record
from etude.records.record_fields import (
    monitored_metric,
    order_metrics,
)
from etude.records.registry import find_record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class SavedRun:
    """The files of a saved run; the base class of `Run`.

    Args:
        record: reader of the files in the run's folder.
        trust: modules outside Étude whose classes the run's config may name.

    Attributes:
        record: the argument `record`.
    """

    @check_arguments(RequestError)
    def __init__(self, record: Record, *, trust: str | Sequence[str] = ()) -> None:
        self.record = record
        self._trust = as_list(trust)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.record.path

    @property
    def _root(self) -> Path:
        """The folder of all runs, `experiments` by default."""
        return self.path.parent.parent

    @property
    def status(self) -> str:
        """The run's status: running, finished, failed, interrupted, paused, diverged or oom.

        A paused run has reached `run.stop_at_step` or was pruned by a search. A diverged run had a
        loss, gradient norm or metric that was NaN or infinite. The status oom means out of memory.
        """
        return self.record.status

    @property
    def label(self) -> str:
        """The overrides that distinguish the run from its experiment file."""
        return self.record.label

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `run.json` in the run's folder, such as the status, the duration, and the
        best and final metrics. The page Records lists the keys.
        """
        return self.record.info

    @cached_property
    def config(self) -> DictConfig:
        """The composed config that is saved with the run.

        Raises:
            RequestError: the config or `run.json` was edited after training.
        """
        self.record.check(CONFIG)
        return as_composed(read_config(self.path / "config.yaml"))

    @property
    def metrics(self) -> pd.DataFrame:
        """A table of the run's metrics, one row per logged step.

        Columns, in this order: `step`, `tokens` (the number in all steps so far), `train/loss`, the
        metric that selects the best checkpoint, the other validation metrics, all other metrics,
        `lr`, `perf/...` (speed), `time` (seconds of training so far). In a step without validation,
        validation metrics are NaN.

        Raises:
            RequestError: the metrics of a finished run were edited after training.
        """
        if self.record.info.get("status") == "finished":
            self.record.check(METRICS)
        frame = read_frame(self.path / "metrics.jsonl")
        order = order_metrics(frame.columns, monitored_metric(self.record))
        return frame.reindex(columns=order)

    @cached_property
    def checked(self) -> CheckedConfig:
        """The run's config after it was checked, as an object that can build the config's classes.

        Its attribute `nodes` contains, for each top-level key that names a class, such as `model`,
        an object with this class and its arguments, whose method `build` calls the class.
        """
        return check(to_portable(self.config), trust=self._trust)

    def tokenizer(self) -> Any:
        """Loads the run's tokenizer, an `etude.data.tokenizer.Tokenizer`.

        Raises:
            RequestError: the file is missing or was edited after training.
        """
        from etude.data.tokenizer import Tokenizer

        self.record.check(TOKENIZER)
        tokenizer = Tokenizer.load(self.path / TOKENIZER, links=False)
        recorded = self.summary.get("tokenizer", {}).get("fingerprint")
        if not is_hashed(self.summary) and tokenizer.fingerprint != recorded:
            message = (
                "%s: the tokenizer's fingerprint differs from that in run.json; the file may have "
                "been edited"
            )
            logging.getLogger("etude").warning(message, self.path / TOKENIZER)
        return tokenizer

    @property
    def labels(self) -> list[str]:
        """The names of the run's labels or tags, by index; empty if the data has none."""
        names: list[str] = self.summary.get("data", {}).get("labels", [])
        return names

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the saved checkpoints, in ascending order."""
        return [step for step, _ in self.record.checkpoints()]

    @check_arguments(RequestError)
    def diff(self, other: str | Path | SavedRun) -> pd.DataFrame:
        """Returns a table of the config values in which another run differs from this run.

        Args:
            other: the other run, as for `load_run`.

        Returns:
            A data frame with a row per config key, and a column per run. A missing value is NaN.

        Raises:
            RequestError: there is no such run.
        """
        from etude.analysis.comparison import Comparison

        record = (
            other.record if isinstance(other, SavedRun) else find_record(str(other), self._root)
        )
        return Comparison([self.record, record]).config.T

    @check_arguments(RequestError)
    def plot(self, *metrics: str, x: str = "step", log: str = "") -> Figure:
        """Plots metrics of the run; a notebook shows the figure.

        Args:
            metrics: metrics to plot, one panel each; by default the metric that selects the best
                checkpoint.
            x: quantity of the x-axis: `step`, `tokens` or `time`.
            log: axes with a logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: one of the metrics was not logged.
        """
        from etude.analysis.comparison import Comparison

        return Comparison([self.record], metrics=metrics, x=x, log=log).figure()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status}, {self.label!r})"

    def _repr_html_(self) -> str:
        from etude.analysis.run_display import run_html

        return run_html(self.record)
