"""Comparison of several runs: config differences, results, and their curves in one figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.curves import (
    Curve,
    check_axes,
    default_path,
    draw_curves,
    save_figure,
    to_finite_floats,
)
from etude.errors import Problem, RequestError, nearest
from etude.records.metrics_file import read_frame
from etude.records.opening import Kind
from etude.records.record import Record
from etude.records.record_fields import MISSING, best_validation, field_value, latest_metrics
from etude.records.run_comparison import config_differences, results, short_run_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Comparison:
    """Comparison of runs; in a notebook, it is shown as tables and a figure.

    Args:
        records: records of the runs.
        metrics: metrics to plot, one per panel; empty for the metric by which the runs selected
            their best checkpoint.
        x: `step`, `tokens` or `time` (seconds of training).
        log: axes with logarithmic scale: `x`, `y`, `xy` or an empty string.

    Raises:
        RequestError: there are no runs, or none has a metric.

    Attributes:
        without: names of the runs that never logged a metric, by metric.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        metrics: Sequence[str] = (),
        x: str = "step",
        log: str = "",
    ) -> None:
        if not records:
            raise RequestError(Problem("RUN", "at least one run"))
        check_axes(x, log)
        self.records = list(records)
        self.names = short_run_names(self.records)
        self.x, self.log = x, log
        self._frames = [read_frame(record.path / "metrics.jsonl") for record in self.records]
        self.metrics_shown = list(metrics) or [self._default_metric()]
        self.without: dict[str, list[str]] = {}
        self._panels = {metric: self._curves(metric) for metric in self.metrics_shown}

    @property
    def config(self) -> pd.DataFrame:
        """One row per run, one column per config key that differs."""
        return self._table(config_differences(self.records))

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per run: status, steps, size, time, best and latest metrics."""
        return self._table(results(self.records))

    def figure(self) -> Figure:
        """Plots the curves as a matplotlib figure."""
        return draw_curves(self._panels, x=self.x, log=self.log, title=self._title())

    def save(self, path: str | Path, kind: Kind | None = None) -> Path:
        """Saves the figure as PNG (or the format of the path's suffix), and returns its path.

        Args:
            path: path of the file.
            kind: kind of a record's figure, for which no link is followed.
        """
        return save_figure(self.figure(), Path(path), kind)

    def default_path(self, root: Path) -> Path:
        """Returns the default path of this figure in a folder of runs."""
        runs = sorted(str(field_value(record, "run")) for record in self.records)
        identity = {"runs": runs, "metrics": self.metrics_shown, "x": self.x, "log": self.log}
        return default_path(root, identity)

    def _default_metric(self) -> str:
        logged = {key for frame in self._frames for key in frame}
        selected = [best_validation(record).get("metric") for record in self.records]
        candidates = [*(metric for metric in selected if metric), "val/loss", "train/loss"]
        return next((metric for metric in candidates if metric in logged), candidates[0])

    def _curves(self, metric: str) -> list[Curve]:
        curves = []
        missing = []
        for name, frame in zip(self.names, self._frames, strict=True):
            if metric in frame and self.x in frame:
                rows = frame[[self.x, metric]].apply(to_finite_floats).dropna()
                if len(rows):
                    columns = (rows[key].to_numpy(np.float64) for key in (self.x, metric))
                    curves.append(Curve(name, *columns))
                    continue
            missing.append(name)
        if not curves:
            known = {key for record in self.records for key in latest_metrics(record)}
            known |= {str(key) for frame in self._frames for key in frame if "/" in str(key)}
            hint = nearest(metric, known) or "no run has logged a metric"
            raise RequestError(Problem("--metric", "a metric of these runs", metric, hint))
        self.without[metric] = missing
        return curves

    def _title(self) -> str:
        titles = {str(record.info.get("name", "")) for record in self.records}
        head = ", ".join(sorted(titles)[:3]) + (", ..." if len(titles) > 3 else "")
        keys = [key for key in config_differences(self.records) if key != "name"]
        differing = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        return f"{head}: by {differing}" if keys and len(self.records) > 1 else head

    def _table(self, values: dict[str, list[Any]]) -> pd.DataFrame:
        import pandas as pd

        columns = {
            key: [None if value is MISSING else value for value in row]
            for key, row in values.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.names, name="run"))

    def _repr_html_(self) -> str:
        picture = io.BytesIO()
        self.figure().savefig(picture, format="png", bbox_inches="tight")
        encoded = base64.b64encode(picture.getvalue()).decode()
        tables = self.config.to_html() + self.metrics.to_html()
        return f'{tables}<img style="max-width:100%" src="data:image/png;base64,{encoded}">'
