"""Imports and computations that all jobs share, done before jobs are forked."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING

from etude.config.checks import CheckedConfig
from etude.garbage_collection import restore_collection

if TYPE_CHECKING:
    from etude.models.cost import Cost

_MODULES = (
    "etude.analysis.run_outputs",  # a layer above this one
    "etude.training.session",
    "etude.training.rank_processes",
    "etude.training.run",
    "torch._inductor.config",  # by torch itself, with deterministic algorithms
    "torch.utils.serialization.config",
)
"""Modules that a job imports in addition to the classes of its config. `numpy.random` is not in the
list: its global generator is seeded at import, and would yield the same numbers in all jobs."""

_has_drawn = False


def prepare_to_fork(checked: CheckedConfig) -> Cost | None:
    """Does slow work that all jobs share, such as imports, once before jobs are forked.

    The function calls no torch kernel, because a forked process would lack the kernel's worker
    threads.

    Args:
        checked: config of the first job to be trained.

    Returns:
        FLOP and memory of a micro-batch of that job; None if they cannot be counted.
    """
    for module in _MODULES:
        import_module(module)
    from etude.sweeps.estimate import Estimator
    from etude.training.build import build_parts

    cost = None
    with suppress(Exception):  # errors in the config are reported by the job
        cost = Estimator().micro_batch(checked, build_parts(checked))
    _draw_figure()
    restore_collection()
    return cost


def _draw_figure() -> None:
    """Draws a figure, so that matplotlib loads its font list before jobs are forked."""
    global _has_drawn
    if _has_drawn:
        return
    _has_drawn = True
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_subplot(title="loss").plot([1, 2])
    figure.savefig(BytesIO())
