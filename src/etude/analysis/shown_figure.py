"""Class of Étude's figures: displays itself in notebooks, and draws Chinese and Japanese text."""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from etude.fonts import font_families


class ShownFigure(Figure):
    """Figure of matplotlib that is drawn with fallback fonts and shown as a picture by notebooks.

    matplotlib's `rcParams` are not changed, so figures of the user keep their fonts.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        FigureCanvasAgg(self)

    def draw(self, renderer: Any) -> None:
        """Draws the figure; see `matplotlib.figure.Figure.draw`."""
        usual, families = list(rcParams["font.family"]), font_families()
        for text in self.findobj(Text):
            if isinstance(text, Text) and list(text.get_fontfamily()) == usual:
                text.set_fontfamily(families)
        with rc_context({"font.family": families}):  # of texts that are created now, such as ticks
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight", dpi=100)
        return picture.getvalue()
