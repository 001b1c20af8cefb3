"""What every job of a sweep imports and computes alike, done once before its process is forked."""

from __future__ import annotations

from io import BytesIO

from etude.collecting import collect_as_usual
from etude.config.checks import Checked
from etude.errors import EtudeError

_prepared = False


def prepare_to_fork(checked: Checked | None) -> None:
    """Imports what training imports, and goes once through what takes long only the first time.

    No kernel of torch is called: a fork would lose the threads of those.

    Args:
        checked: the config of the first job; None does nothing.
    """
    global _prepared
    if _prepared or checked is None:
        return
    _prepared = True
    import etude.training.assemble  # noqa: F401
    from etude.models.cost import cost
    from etude.training.build import build_parts
    from etude.training.model import model_of

    try:
        parts = build_parts(checked)
        cost(lambda: model_of(checked, 1), length=parts.data.sequence_length)
    except EtudeError:  # reported by the job, or no matter
        pass
    _draw()
    collect_as_usual()


def _draw() -> None:
    """A first figure, for which fonts are looked up."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_subplot(title="loss").plot([1, 2])
    figure.savefig(BytesIO())
