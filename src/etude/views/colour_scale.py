"""Colours of values, the same ones in pages and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etude.analysis.curves import COLOUR_MAP

LIGHT = "Blues"
"""Colour map of quantities behind a text, of which most are small."""
DIVERGING = "RdBu_r"
"""Colour map of values with both signs (ColorBrewer, safe for colour-blind readers)."""
NO_VALUE = "#ffffff"


def colour_table() -> dict[str, str]:
    """Returns 256 colours of each map, joined to one string of hexadecimal digits."""
    from matplotlib import colormaps

    maps = {"quantity": COLOUR_MAP, "light": LIGHT, "diverging": DIVERGING}
    return {
        key: bytes(colormaps[name](range(256), bytes=True)[:, :3].flatten()).hex()
        for key, name in maps.items()
    }


@dataclass(frozen=True)
class Scale:
    """Range of values and their colours: white for 0 and both directions for both signs.

    Attributes:
        low, high: values at the ends of the colour map.
        colours: key of the colour map, as in `colour_table`.
        name: name of the map in matplotlib.
    """

    low: float
    high: float
    colours: str
    name: str

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """Returns the scale of values: from 0 to the largest, or diverging for negative ones."""
        finite = np.asarray(values, dtype=float)
        finite = finite[np.isfinite(finite)]
        high = float(np.abs(finite).max(initial=0.0)) or 1.0
        if (finite < 0).any():
            return cls(-high, high, "diverging", DIVERGING)
        return cls(0.0, high, "light", LIGHT)


def ink_on(colour: Sequence[float]) -> str:
    """Returns black or white, whichever has the higher contrast (WCAG 2.2) on a colour.

    Args:
        colour: red, green and blue from 0 to 1.
    """
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]
    )
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"
