"""Figure of a sweep: the curves of its runs."""

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

_MAX_CURVES = 24
"""Maximum number of distinguishable curves."""


def draw_curves(folder: Path, jobs: Sequence[Job]) -> Path | None:
    """Draws `figures/curves.png` into a sweep's record.

    Returns:
        The path; None if fewer than two runs are finished, or too many.
    """
    done = [job for job in jobs if job.path and job.status.is_trained]
    paths = list(dict.fromkeys(Path(str(job.path)) for job in done))
    if not 2 <= len(paths) <= _MAX_CURVES:
        return None
    try:
        file = folder / "figures" / "curves.png"
        return Comparison([Record.read(path) for path in paths]).save(file, FIGURE)
    except (EtudeError, OSError) as error:  # a missing figure must not fail the finished sweep
        log.warning("could not draw the sweep's curves: %s", error)
        return None
