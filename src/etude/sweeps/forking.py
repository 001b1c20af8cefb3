"""What every job of a sweep imports and computes alike, done once before its process is forked."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING

from etude.collecting import collect_as_usual
from etude.config.checks import Checked

if TYPE_CHECKING:
    from etude.models.cost import Cost

_NEEDED = (
    "etude.analysis.epilogue",  # a layer above this one
    "etude.training.assemble",
    "etude.training.followers",
    "etude.training.run",
    "torch._inductor.config",  # by torch itself, with deterministic algorithms
    "torch.utils.serialization.config",
)
"""What a job imports besides the classes that its config names. `numpy.random` is not here: its
numbers begin where its import happens, and would be the same in all jobs."""

_drawn = False


def prepare_to_fork(checked: Checked) -> Cost | None:
    """Imports what training imports, and goes once through what takes long only the first time.

    No kernel of torch is called: a fork would lose the threads of those.

    Args:
        checked: the config of the first job that is to be trained.

    Returns:
        What a micro-batch of that job takes; None where that cannot be counted.
    """
    for module in _NEEDED:
        import_module(module)
    from etude.sweeps.estimate import Estimator
    from etude.training.build import build_parts

    counted = None
    with suppress(Exception):  # reported by the job, or no matter
        counted = Estimator().micro_batch(checked, build_parts(checked))
    _draw()
    collect_as_usual()
    return counted


def _draw() -> None:
    """A first figure, for which fonts are looked up."""
    global _drawn
    if _drawn:
        return
    _drawn = True
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_subplot(title="loss").plot([1, 2])
    figure.savefig(BytesIO())
