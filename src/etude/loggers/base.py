"""What a logger is: five calls, each a no-op by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.secrets import Mask

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ViewedRun:
    """What a logger is told of the run. No text in it holds a secret.

    Attributes:
        path: the run's record; a logger's files go below it, so that they move with it.
        name: the run's name, that of its experiment.
        signature: the name of the record's folder, with `~2` for a second run of one config.
        group: common to runs that differ in their seed alone.
        label: what distinguishes the run from its experiment file.
        seed: the run's.
        tags, notes: the user's.
        config: the composed config as plain data.
        mask: hides values of the environment in any text.
    """

    path: Path
    name: str
    signature: str
    group: str
    label: str
    seed: int
    tags: Sequence[str] = ()
    notes: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    mask: Mask = field(default_factory=Mask)


class Logger:
    """A view of a run.

    Each call comes from a thread of the logger's own, one after the other; whatever one raises is
    reported once, then `abandon` is called and the run goes on without this logger.

    Attributes:
        patience: seconds that the run waits for the logger at its end.
    """

    patience: float = 30.0

    def start(self, run: ViewedRun, rows: Sequence[Row]) -> None:
        """Training begins.

        Args:
            run: what is trained.
            rows: the metrics of earlier starts, up to the step from which the run goes on. What
                the logger was told beyond that step is void, and a kill may have lost some of what
                it was told before: it has to show these rows, each once.
        """

    def metrics(self, row: Row) -> None:
        """A row was written to `metrics.jsonl`; its numbers, under the same names."""

    def text(self, name: str, text: str, step: int) -> None:
        """A text was written to the record, such as samples."""

    def figure(self, name: str, path: Path, step: int) -> None:
        """A figure was written to the record.

        Args:
            name: `figures/loss`.
            path: of the PNG.
        """

    def finish(self, status: str) -> None:
        """Training came to an end: finished, paused, interrupted, failed, diverged or oom."""

    def abandon(self) -> None:
        """Lets go of everything at once. Called from another thread where a call hangs."""
