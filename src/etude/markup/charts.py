"""Small line charts as inline SVG, which use the text colour of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.markup.fragments import Html, element

_WIDTH, _HEIGHT = 380, 120
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 20, 18
_MAX_POINTS = 400
_LINE = "#3a87c8"
_FONT = {"font_size": "11", "fill": "currentColor", "font_family": "sans-serif"}


def line_chart(
    x: Sequence[float], y: Sequence[float], *, title: str, label: str = "step", log: bool = False
) -> Html:
    """Returns a chart of a curve, with the smallest and largest values at its axes.

    Args:
        x: positions, in ascending order.
        y: values. Points that are not finite are omitted.
        title: text above the curve.
        label: name of the x axis.
        log: whether the x axis is logarithmic; points with x <= 0 are then omitted.

    Returns:
        An SVG element; empty if there is no finite point.
    """
    points = [
        (math.log10(a) if log else float(a), float(b))
        for a, b in zip(x, y, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log)
    ]
    if not points:
        return Html("")
    points = _thinned(points)
    left, right = points[0][0], points[-1][0]
    low, high = min(b for _, b in points), max(b for _, b in points)
    placed = [
        (
            _between(a, left, right, _LEFT, _WIDTH - _RIGHT),
            _between(b, low, high, _HEIGHT - _BOTTOM, _TOP),
        )
        for a, b in points
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
    line = element("polyline", points=path, fill="none", stroke=_LINE, stroke_width="1.8")
    if len(placed) == 1:
        line = element(
            "circle", cx=f"{placed[0][0]:.1f}", cy=f"{placed[0][1]:.1f}", r=3, fill=_LINE
        )
    bottom, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    axes = f"{_LEFT},{_TOP} {_LEFT},{bottom} {end},{bottom}"
    first, last = (10**left, 10**right) if log else (left, right)
    return element(
        "svg",
        element("title", title),
        element("polyline", points=axes, fill="none", stroke="currentColor", stroke_opacity="0.35"),
        line,
        _text(title, _LEFT, _TOP - 8, "start"),
        _text(f"{high:.4g}", _LEFT - 5, _TOP + 7, "end"),
        _text(f"{low:.4g}", _LEFT - 5, bottom, "end") if high > low else "",
        _text(f"{label} {first:.6g}", _LEFT, _HEIGHT - 4, "start"),
        _text(f"{last:.6g}", end, _HEIGHT - 4, "end") if right > left else "",
        width=_WIDTH,
        height=_HEIGHT,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return element("text", text, x=x, y=y, text_anchor=anchor, **_FONT)


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Maps a value in `low` to `high` to `start` to `end`; the middle if both are equal."""
    part = 0.5 if high <= low else value / (high - low) - low / (high - low)
    return start + (end - start) * part


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns at most about `_MAX_POINTS` points: the lowest and the highest of each interval."""
    size = math.ceil(len(points) / (_MAX_POINTS // 2))
    if size <= 2:
        return points
    kept: list[tuple[float, float]] = [points[0]]
    for start in range(0, len(points), size):
        part = points[start : start + size]
        lowest, highest = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        kept += sorted({lowest, highest})
    return [*kept, points[-1]]
