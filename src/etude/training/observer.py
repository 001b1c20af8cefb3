"""Observers of a training run, such as the table of a sweep or a search that prunes runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RunObserver:
    """Base class of objects whose methods are called during training runs. The methods of this
    class do nothing and pause no run.
    """

    def began(self, path: Path) -> None:
        """Called when the run's folder is locked and training is about to start."""

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Called after optimizer step `step` of `total` with the latest metrics."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Called with the metrics of each validation, which follows optimizer step `step`; if it
        returns true, the run is paused.
        """
        return False


_watchers: list[RunObserver] = [RunObserver()]


def current_observer() -> RunObserver:
    """Returns the observer of the runs that this process trains; by default, an observer that does
    nothing.
    """
    return _watchers[-1]


@contextmanager
def observing(watcher: RunObserver) -> Iterator[None]:
    """Context manager in which `watcher` observes the runs that this process trains."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
