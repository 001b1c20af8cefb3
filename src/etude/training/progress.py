"""Progress of a run: a bar on a terminal or in a notebook, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from etude.progress import SECONDS_BETWEEN_LINES, open_bar
from etude.records.text_tables import format_best, format_metric
from etude.training.observer import current_observer

log = logging.getLogger("etude.progress")


def format_losses(metrics: Mapping[str, Any], monitor: str = "val/loss") -> str:
    """Formats the losses and the monitored metric: `train/loss 2.3100  val/loss 2.4000`.

    Those that `metrics` does not contain are omitted.
    """
    keys = dict.fromkeys(("train/loss", "val/loss", monitor))
    return "  ".join(f"{key} {format_metric(metrics[key])}" for key in keys if key in metrics)


class Progress:
    """Progress of training: a bar on a terminal or in a notebook, otherwise lines in the log.

    Args:
        total: Optimizer steps of the whole run.
        step: Optimizer step at which this process starts.
        monitor: Metric that selects the best checkpoint.
    """

    def __init__(self, total: int, step: int, monitor: str = "val/loss") -> None:
        self.total = total
        self.step = step
        self.monitor = monitor
        self._best: Mapping[str, Any] | None = None
        self._latest: dict[str, float] = {}
        self._unlogged: dict[str, float] = {}  # metrics that no logged line has shown yet
        self._began = time.monotonic()
        self._first = step
        self._last_line_time = self._began
        self._bar = open_bar("training", total, step)
        self._watcher = current_observer()

    def advance(self, step: int) -> None:
        """Sets the displayed optimizer step; fast enough to be called at every step."""
        self.step = step
        self._watcher.progress(step, self.total, self._latest)
        if self._bar is not None:
            self._bar.update(step)

    def row(self, row: Mapping[str, Any], best: Mapping[str, Any] | None = None) -> None:
        """Updates the displayed metrics from `row`, a dict of the metrics of one step.

        Without a progress bar, logs a line after a validation, and otherwise if the last line is at
        least ten seconds old.

        Args:
            row: The row of metrics.
            best: dict with the name of the monitored metric (`metric`), and its `value` and `step`
                in the best validation so far; None if there was no validation yet.
        """
        self._best = best
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        self._latest.update(numbers)
        self._unlogged.update(numbers)
        if self._bar is not None:
            losses = format_losses(self._latest, self.monitor)
            text = (losses, self._speed(), format_best(best) if best else "")
            self._bar.describe("  ".join(part for part in text if part))
            return
        now = time.monotonic()
        if (
            "val/loss" in row
            or self.monitor in row
            or now - self._last_line_time >= SECONDS_BETWEEN_LINES
        ):
            self._last_line_time = now
            log.info("%s", self.line())
            self._unlogged.clear()

    def line(self) -> str:
        """Formats the progress. The line contains only losses that no logged line has shown yet. It
        contains the best validation so far only if it contains the monitored metric.

        Example: `step 250/2000  train/loss 2.31  val/loss 2.40  best so far  13.9 k tokens/s  mfu
        31%  1:52 left`. `mfu` is the model FLOPs utilisation.
        """
        return "  ".join(
            part
            for part in (
                f"step {self.step}/{self.total}",
                format_losses(self._unlogged, self.monitor),
                self._best_so_far(),
                self._speed(),
                self._left(),
            )
            if part
        )

    def close(self) -> None:
        """Removes the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _best_so_far(self) -> str:
        """Formats the best validation so far; empty in a line without a validation."""
        if self._best is None or self.monitor not in self._unlogged:
            return ""
        return "best so far" if self._best["step"] == self.step else format_best(self._best)

    def _speed(self) -> str:
        """Formats the training speed of the latest row of metrics; the time of validations is not
        included. Empty if no speed was measured yet.
        """
        if "perf/tokens_per_second" not in self._latest:
            return ""
        utilisation = f"  mfu {self._latest['perf/mfu']:.0%}" if "perf/mfu" in self._latest else ""
        return f"{self._latest['perf/tokens_per_second'] / 1000:.1f} k tokens/s{utilisation}"

    def _left(self) -> str:
        """Formats the remaining time, estimated from the time per step so far, including
        validations. Empty before this process has trained a step.
        """
        steps = self.step - self._first
        if steps < 1:
            return ""
        left = round((self.total - self.step) * (time.monotonic() - self._began) / steps)
        return f"{left // 60}:{left % 60:02d} left"
