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
"""Maximum number of curves in the figure; more could not be distinguished."""


def draw_curves(folder: Path, jobs: Sequence[Job]) -> Path | None:
    """Draws the curves of a sweep's runs, and saves them as `figures/curves.png` in its folder.

    The curves show, over the steps, the metric by which the runs selected their best checkpoint.
    Runs that differ only in their seed share a curve.

    Args:
        folder: the sweep's folder.
        jobs: jobs of the sweep.

    Returns:
        The path of the figure. None if fewer than two runs are finished, if there would be more
        than 24 curves, or, with a warning, if the figure cannot be drawn.
    """
    done = [job for job in jobs if job.path and job.status.is_trained]
    paths = list(dict.fromkeys(Path(str(job.path)) for job in done))
    if len(paths) < 2:
        return None
    try:
        comparison = Comparison([Record.read(path) for path in paths])
        if comparison.curve_count > _MAX_CURVES:
            return None
        return comparison.save(folder / "figures" / "curves.png", FIGURE)
    except (EtudeError, OSError) as error:  # a missing figure must not fail the finished sweep
        log.warning("could not draw the sweep's curves: %s", error)
        return None
