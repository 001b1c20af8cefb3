"""Ranges of value axes, chosen so that all values are visible and noise is not magnified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_RANGE = 0.05
"""Minimum height of a linear value axis, as a fraction of the largest absolute value.

A loss between 2.000 and 2.001 is drawn as a flat line on an axis of height 0.1, because a reader
takes a difference over the whole height for a large one.
"""
_RATIO = 10.0
_MARGIN = 0.05


def value_range(low: float, high: float) -> tuple[float, float]:
    """Returns the two ends of a linear axis or colour scale for values from `low` to `high`.

    A range that is narrower than `MIN_RANGE` times the largest absolute value is widened to this
    width, by the same amount at both ends. If all values are 0, the ends are -1e-12 and 1e-12.
    """
    missing = MIN_RANGE * max(abs(low), abs(high)) - (high - low)
    if missing <= 0 and high > low:
        return low, high
    half = max(missing / 2, 1e-12)
    return low - half, high + half


def set_value_range(
    axes: Axes, curves: Sequence[np.ndarray], bands: Sequence[np.ndarray] = ()
) -> bool:
    """Sets the range of the y axis so that it contains all finite values of curves and bands.

    The range is at least as wide as `MIN_RANGE` times the largest absolute value. The axis becomes
    logarithmic if one curve would flatten the others on a linear axis: all values are positive, and
    the largest value is more than ten times the median of the curves' largest values. The range of
    a logarithmic axis is left to matplotlib. If no value is finite, nothing is changed.

    Args:
        axes: axes with a linear y axis.
        curves: values of each curve.
        bands: values of the lower and upper ends of each band.

    Returns:
        Whether the y axis was made logarithmic.
    """
    everything = np.concatenate([*curves, *bands, []])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return False
    low, high = float(everything.min()), float(everything.max())
    tops = sorted(float(values.max(initial=low, where=np.isfinite(values))) for values in curves)
    usual = tops[(len(tops) - 1) // 2]
    if low > 0 and high > _RATIO * usual:
        axes.set_yscale("log")
        return True
    low, high = value_range(low, high)
    axes.set_ylim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    return False
