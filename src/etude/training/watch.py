"""Who looks on while a run trains: the table of a sweep, a search that gives a run up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Watcher:
    """Hears of one run. By itself it does nothing and lets every run go on."""

    def began(self, path: Path) -> None:
        """The run's folder is claimed, and training is about to begin."""

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Optimizer steps done, of how many, and the latest metrics; at most twice a second."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """A validation's metrics are written; true pauses the run once this step is saved."""
        return False


_watchers: list[Watcher] = [Watcher()]


def watcher() -> Watcher:
    """Whoever looks on now."""
    return _watchers[-1]


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within, `watcher` hears of the runs that this process trains."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
