"""Comparison of several runs: their config differences, results and curves in one figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.analysis.curves import (
    Curve,
    check_axes,
    default_path,
    draw_curves,
    save_figure,
    to_finite_floats,
)
from etude.analysis.frame_table import frame_table
from etude.analysis.mean_curves import mean_curve, mean_of
from etude.arguments import check_arguments
from etude.counts import counted
from etude.errors import Problem, RequestError, nearest
from etude.markup.fragments import display, element
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

    The figure has one curve per run. Runs that differ only in their seed share one curve: their
    mean, with a band of one standard deviation.

    Args:
        records: the runs.
        metrics: metrics to plot, one per panel. If empty, the metric by which the runs selected
            their best checkpoint is plotted. If it differs between the runs, that of the first
            run is used.
        x: `step`, `tokens` or `time` (seconds of training).
        log: axes with logarithmic scale: `x`, `y`, `xy` or an empty string.

    Raises:
        RequestError: there are no runs, or one of the metrics was logged by none of the runs,
            or `x` or `log` has another value.

    Attributes:
        without: dict from each metric to the names of the runs that never logged the metric.
    """

    @check_arguments(RequestError)
    def __init__(
        self,
        records: Sequence[Record],
        *,
        metrics: Sequence[str] = (),
        x: str = "step",
        log: str = "",
    ) -> None:
        if not records:
            raise RequestError(Problem("runs", "at least one run"))
        check_axes(x, log)
        self.records = list(records)
        self.names = short_run_names(self.records)
        self.x, self.log = x, log
        self._frames = [read_frame(record.path / "metrics.jsonl") for record in self.records]
        self.metrics_shown = list(metrics) or [self._default_metric()]
        self.without: dict[str, list[str]] = {}
        self._members = self._groups()
        self._panels = {metric: self._curves(metric) for metric in self.metrics_shown}

    @property
    def config(self) -> pd.DataFrame:
        """Data frame with a row per run, and a column per config key whose values differ."""
        return self._table(config_differences(self.records))

    @property
    def metrics(self) -> pd.DataFrame:
        """Data frame with a row per run: status, steps, size, time, best and latest metrics.

        The index consists of short names of the runs. The columns are `status`, `step`,
        `parameters` (their number), `tokens`, `seconds`, and the metrics, named like
        `best/val/loss` (best value) and `val/loss` (latest value), with `best/step` (step of the
        best value). A missing value is None or NaN.
        """
        return self._table(results(self.records))

    @property
    def curve_count(self) -> int:
        """Number of curves in the figure; runs that differ only in their seed share a curve."""
        return len(self._members)

    def figure(self) -> Figure:
        """Plots the curves as a matplotlib figure."""
        groups = [[self.records[n] for n in members] for members in self._members.values()]
        note = mean_of(groups)
        noun = "group" if note else "run"
        return draw_curves(
            self._panels, x=self.x, log=self.log, title=self._title(), noun=noun, note=note
        )

    @check_arguments(RequestError)
    def save(self, path: str | Path, kind: Kind | None = None) -> Path:
        """Saves the figure, and returns the path of its file.

        The format is that of the path's suffix; without a suffix, it is PNG. Missing folders are
        created, and an existing file is replaced.

        Args:
            path: path of the file.
            kind: a constant of `etude.records.opening`, such as `FIGURE`, if the path is in a
                folder that Étude manages, such as that of a run. Symbolic links are then not
                followed. None for a path that the user chose.
        """
        return save_figure(self.figure(), Path(path), kind)

    def default_path(self, root: Path) -> Path:
        """Returns the path at which the figure is saved if the user chose none.

        Args:
            root: root folder of the runs; the path is `<root>/_comparisons/<hash>.png`.
        """
        runs = sorted(str(field_value(record, "run")) for record in self.records)
        identity = {"runs": runs, "metrics": self.metrics_shown, "x": self.x, "log": self.log}
        return default_path(root, identity)

    def _default_metric(self) -> str:
        logged = {key for frame in self._frames for key in frame}
        selected = [best_validation(record).get("metric") for record in self.records]
        candidates = [*(metric for metric in selected if metric), "val/loss", "train/loss"]
        return next((metric for metric in candidates if metric in logged), candidates[0])

    def _groups(self) -> dict[str, list[int]]:
        """Returns a dict from the name of each curve to the indices of its runs in `records`.

        Runs that differ only in their seed share a curve. Of several runs with the same config and
        seed, only the last is used.
        """
        groups: dict[str, dict[str, int]] = {}
        for n, record in enumerate(self.records):
            seed = str(record.info.get("seed", record.path))
            groups.setdefault(str(record.info.get("group") or record.path), {})[seed] = n
        members = [list(by_seed.values()) for by_seed in groups.values()]
        if all(len(several) == 1 for several in members):
            return {name: [n] for n, name in enumerate(self.names)}
        heads = [self.records[several[0]] for several in members]
        return dict(zip(short_run_names(heads, without_seed=True), members, strict=True))

    def _curves(self, metric: str) -> list[Curve]:
        has_rows = [
            metric in frame
            and self.x in frame
            and len(frame[[self.x, metric]].apply(to_finite_floats).dropna()) > 0
            for frame in self._frames
        ]
        if not any(has_rows):
            known = {key for record in self.records for key in latest_metrics(record)}
            known |= {str(key) for frame in self._frames for key in frame if "/" in str(key)}
            hint = nearest(metric, known) or "no run has logged a metric"
            raise RequestError(Problem("metrics", "a metric that a run has logged", metric, hint))
        self.without[metric] = [
            name for name, drawn in zip(self.names, has_rows, strict=True) if not drawn
        ]
        curves = []
        for name, members in self._members.items():
            shown = [n for n in members if has_rows[n]]
            frames = {n: self._frames[n] for n in shown}
            if shown and (curve := mean_curve(name, list(frames.values()), metric, self.x)):
                curves.append(curve)
            else:  # runs without a common step
                curves += [
                    single
                    for n, frame in frames.items()
                    if (single := mean_curve(self.names[n], [frame], metric, self.x))
                ]
        return curves

    def _title(self) -> str:
        titles = {str(record.info.get("name", "")) for record in self.records}
        return ", ".join(sorted(titles)[:3]) + (", ..." if len(titles) > 3 else "")

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
        source = f"data:image/png;base64,{encoded}"
        curves = element("img", src=source, alt="curves", style="max-width:100%")
        tables = [frame_table(each, index="run") for each in (self.config, self.metrics)]
        return display(*tables, curves)

    def __repr__(self) -> str:
        runs = counted(len(self.records), "run")
        return f"Comparison({runs}, {', '.join(self.metrics_shown)} over {self.x})"
