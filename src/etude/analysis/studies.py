"""What a sweep looks like: the curves of its runs in one figure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from etude.analysis.comparison import Comparison
from etude.errors import EtudeError
from etude.records.opening import FIGURE
from etude.records.record import Record
from etude.sweeps.job import Job

log = logging.getLogger("etude")

_READABLE = 24
"""More curves than that cannot be told apart."""


def draw_curves(folder: Path, jobs: Sequence[Job]) -> Path | None:
    """Draws `figures/curves.png` into a sweep's record.

    Returns:
        The file; None for a sweep of which fewer than two runs are finished, or of too many.
    """
    done = [job for job in jobs if job.path and job.status.trained]
    paths = list(dict.fromkeys(Path(str(job.path)) for job in done))
    if not 2 <= len(paths) <= _READABLE:
        return None
    try:
        file = folder / "figures" / "curves.png"
        return Comparison([Record.read(path) for path in paths]).save(file, FIGURE)
    except (EtudeError, OSError) as error:  # the runs are done; what cannot be drawn fails nothing
        log.warning("no curves of the sweep: %s", error)
        return None
