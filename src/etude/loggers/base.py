"""Base class of loggers, and the description of a run that loggers receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.secrets import Mask

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """Description of a run for loggers. Its texts contain no secrets.

    Attributes:
        path: Run folder. A logger writes its files in a subfolder, so that they move with the run.
        name: Name of the run: the config value `name`, which the experiment file sets.
        signature: Name of the run folder; ends in `~2` for a second run of the same config.
        group: Identifier shared by runs that differ only in their seed.
        label: Overrides that distinguish the run from its experiment file.
        seed: Seed of the run.
        tags: The user's tags.
        notes: The user's notes.
        config: Composed config, as dicts, lists, texts, numbers, Booleans and None.
        mask: Object whose method `text` replaces secrets in a text, such as the values of
            environment variables that the config uses.
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
    """Base class of loggers. All methods do nothing by default.

    The methods are called one after the other, from a separate thread per logger. If one raises,
    the error is reported once, `abandon` is called, and the run continues without this logger.

    Attributes:
        patience: Seconds that the run waits for the logger after training.
    """

    patience: float = 30.0

    def start(self, run: RunInfo, rows: Sequence[Row]) -> None:
        """Starts logging; called when training starts.

        Args:
            run: The run.
            rows: Rows of `metrics.jsonl`, up to the step from which the run is resumed. The logger
                must show each of these rows once. Before the run was resumed, the logger may have
                received rows of later steps, which are no longer valid; and it may have missed
                rows, if a process was killed.
        """

    def metrics(self, row: Row) -> None:
        """Logs a row of metrics.

        Args:
            row: Dict with the keys and values of a line of `metrics.jsonl`.
        """

    def text(self, name: str, text: str, step: int) -> None:
        """Logs a text that was saved in the run folder, such as generated samples.

        Args:
            name: Name of the text.
            text: The text.
            step: Optimizer step.
        """

    def figure(self, name: str, path: Path, step: int) -> None:
        """Logs a figure that was saved in the run folder.

        Args:
            name: Name of the figure, such as `figures/loss`.
            path: Path of the PNG file.
            step: Optimizer step.
        """

    def finish(self, status: str) -> None:
        """Finishes logging; called when training ends.

        Args:
            status: `finished`, `paused`, `interrupted`, `failed`, `diverged` or `oom`.
        """

    def abandon(self) -> None:
        """Releases all resources immediately.

        May be called from another thread if a call of another method hangs.
        """
