"""Drawing of the curves of several runs in one figure."""

from __future__ import annotations

import io
import math
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.analysis.axis_ranges import set_value_range
from etude.counts import counted
from etude.errors import Problem, RequestError, nearest
from etude.escaping import figure_label
from etude.records.files import write_bytes
from etude.records.opening import Kind, make_subfolder
from etude.records.signature import DIGITS, sha256_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), which most colour-blind people tell apart; yellow is too light
# on white, so it is replaced by a brown.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#333333",
    "#56B4E9",
    "#8C564B",
)
COLOUR_MAP = "cividis"
"""Colour map of quantities, made for colour-blind readers (Nuñez et al. 2018)."""
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)))
FEW = 12
"""Maximum number of curves with distinct colours and line styles.

More curves are drawn in shades of one colour map, in the order of their last values.
"""
_MAX_LISTED = 40
_MAX_POINTS = 100
_AXES = {"step": "step", "tokens": "tokens", "time": "training time"}


def to_finite_floats(column: pd.Series) -> pd.Series:
    """Converts a column of metrics to floats; values that are not finite numbers become NaN."""

    def number(value: Any) -> float:
        real = isinstance(value, int | float) and abs(value) < sys.float_info.max
        return float(value) if real else math.nan

    column = column.map(number) if column.dtype == object else column.astype(np.float64)
    return column.where(np.isfinite(column))


X_AXES = ("step", "tokens", "time")
LOG_AXES = ("", "x", "y", "xy")


def check_axes(x: str, log: str) -> None:
    """Checks the quantity on the x axis of a figure, and the axes with logarithmic scale.

    Args:
        x: `step`, `tokens` or `time`.
        log: axes with logarithmic scale: `x`, `y`, `xy` or an empty string.

    Raises:
        RequestError: `x` or `log` is another text.
    """
    for key, value, choices in (("x", x, X_AXES), ("log", log, LOG_AXES)):
        if value not in choices:
            expected = "one of " + ", ".join(filter(None, choices))
            raise RequestError(Problem(key, expected, value))


def new_figure(width: float, height: float, *, arranged: bool = True) -> Figure:
    """Creates an empty matplotlib figure, which can be drawn without a screen.

    Args:
        width: width in inches.
        height: height in inches.
        arranged: whether matplotlib arranges the axes so that labels fit (constrained layout).
    """
    from etude.analysis.shown_figure import ShownFigure

    layout = "constrained" if arranged else None
    return ShownFigure(figsize=(width, height), dpi=150, layout=layout)


def style_axes(axes: Axes) -> None:
    """Adds a light grid, and removes the top and right lines of the frame."""
    axes.grid(alpha=0.22, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, file: Path, kind: Kind | None = None, **options: Any) -> Path:
    """Saves a figure, and returns the path of its file.

    The format is that of the path's suffix; without a suffix, it is PNG. Missing folders are
    created, and an existing file is replaced.

    Args:
        figure: figure to save.
        file: path of the file.
        kind: a constant of `etude.records.opening`, such as `FIGURE`, if the path is in a folder
            that Étude manages, such as that of a run. Symbolic links are then not followed. None
            for a path that the user chose.
        options: arguments of matplotlib's `savefig`; without any, `bbox_inches="tight"` is used.

    Raises:
        RequestError: matplotlib does not support this suffix.
    """
    options = options or {"bbox_inches": "tight"}
    if kind is None:
        file = file if file.suffix else file.with_name(f"{file.name}.png")
        suffixes = figure.canvas.get_supported_filetypes()
        if (suffix := file.suffix[1:].lower()) not in suffixes:
            expected = f"a figure file with one of the suffixes {', '.join(suffixes)}"
            raise RequestError(Problem(str(file), expected, hint=nearest(suffix, suffixes)))
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, **options)
    else:
        make_subfolder(file.parents[kind.depth], *file.parts[-1 - kind.depth : -1])
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file.suffix.removeprefix("."), **options)
        write_bytes(file, buffer.getvalue(), kind)
    return file


def default_path(root: Path, identity: dict[str, Any]) -> Path:
    """Returns the path at which a figure is saved if the user chose none.

    Args:
        root: root folder of the runs; the path is `<root>/_comparisons/<hash>.png`.
        identity: description of the figure's content, from which the hash is computed.
    """
    return root / "_comparisons" / f"{sha256_of(identity)[:DIGITS]}.png"


@dataclass
class Curve:
    """Curve of a metric, of one run or as the mean of several runs.

    Attributes:
        name: label in the legend.
        x: values on the x axis: steps, tokens, seconds, or the values of a config key.
        y: values of the metric.
        spread: half-width of the band around `y`; None for no band.
        complete: number of points at the start of the curve that are means of all runs. The later
            points are means of only the runs that trained longer, and are dotted. None if all
            points are means of all runs.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    complete: int | None = None

    def __repr__(self) -> str:
        return f"Curve({self.name!r}, {counted(len(self.y), 'point')})"

    def ends(self) -> tuple[np.ndarray, ...]:
        """Returns the lower and the upper end of the band, as two arrays; empty without a band."""
        return () if self.spread is None else (self.y - self.spread, self.y + self.spread)

    def thin(self) -> Curve:
        """Returns a curve of at most 100 points, each the mean of several points of this curve.

        The width of the band is averaged, too, and `complete` is reduced in the same proportion. A
        curve of at most 100 points is returned itself.
        """
        rows_per_point = -(-len(self.y) // _MAX_POINTS)
        if rows_per_point <= 1:
            return self
        starts = np.arange(0, len(self.y), rows_per_point)
        counts = np.diff(np.append(starts, len(self.y)))
        x, y = (np.add.reduceat(values, starts) / counts for values in (self.x, self.y))
        spread = None if self.spread is None else np.add.reduceat(self.spread, starts) / counts
        complete = None if self.complete is None else max(1, self.complete // rows_per_point)
        return Curve(self.name, x, y, spread, complete)


def draw_curves(
    panels: dict[str, list[Curve]],
    *,
    x: str,
    log: str = "",
    title: str = "",
    noun: str = "run",
    note: str = "",
) -> Figure:
    """Draws a figure with one panel per metric, and one legend ordered by the curves' last values.

    The legend starts with the highest last value. If a curve is in several panels, its last value
    in the first of them is used.

    Args:
        panels: dict from each metric to its curves.
        x: `step`, `tokens`, `time` or the config key on the x axis.
        log: axes with logarithmic scale: `x`, `y`, `xy` or an empty string.
        title: title above the panels.
        noun: what a curve represents: `run` or `group`.
        note: second line of the legend's heading, such as a description of the bands.

    Raises:
        RequestError: the y axis shall be logarithmic, but a panel has no positive value.
    """
    by_name: dict[str, Curve] = {}  # ordered by the last value in the first panel with the curve
    for curves in panels.values():
        for curve in sorted(curves, key=lambda curve: -curve.y[-1]):
            by_name.setdefault(curve.name, curve)
    order = list(by_name.values())
    line_styles = _line_styles([curve.name for curve in order])
    figure = new_figure(5.6 * len(panels) + 2.6, 4.4)
    grid: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (metric, curves) in zip(grid, panels.items(), strict=True):
        _panel(axes, metric, curves, line_styles, x=x, log=log)
    heading = f"{len(order)} {noun}{'s' if len(order) > 1 else ''}, ordered by last value"
    if x not in X_AXES:
        heading = f"ordered by value at the largest {x}"
    _legend(figure, grid, order, "\n".join(filter(None, (heading, note))))
    if title:
        figure.suptitle(figure_label(shorten(title)), fontsize=10.5, x=0.01, ha="left")
    return figure


def _panel(
    axes: Axes, metric: str, curves: Sequence[Curve], looks: dict[str, Any], *, x: str, log: str
) -> None:
    scale, unit = _unit(x, max(float(curve.x[-1]) for curve in curves))
    many = len(curves) > FEW
    for curve in curves:
        points = curve.thin()
        x_values = points.x / scale
        style: dict[str, Any] = {
            "linewidth": 1.1 if many else 1.7,
            "marker": "o" if len(points.y) <= 12 and not many else None,
            "markersize": 3.5,
        } | looks[curve.name]
        end = points.complete
        axes.plot(x_values[:end], points.y[:end], label=curve.name, **style)
        if end is not None:
            rest = style | {"linestyle": ":", "marker": None, "label": "_nolegend_"}
            axes.plot(x_values[end - 1 :], points.y[end - 1 :], **rest)
        if points.spread is not None:
            low, high = points.ends()
            axes.fill_between(x_values, low, high, color=style["color"], alpha=0.18, linewidth=0)
    if "y" in log and not any((curve.y > 0).any() for curve in curves):
        hint = "no value is positive"
        raise RequestError(Problem("log", "a linear y axis", log, hint))
    if "x" in log:
        set_logarithmic(axes, "x")
    bands = [end for curve in curves for end in curve.ends()]
    if "y" in log or set_value_range(axes, [curve.y for curve in curves], bands):
        set_logarithmic(axes, "y")
    axes.set_xlabel(figure_label(f"{_AXES.get(x, x)}{unit}"))
    if x == "step" and axes.get_xscale() == "linear":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set_ylabel(figure_label(metric))
    if x == "tokens":
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    style_axes(axes)
    axes.margins(x=0.02)


def _line_styles(names: Sequence[str]) -> dict[str, Any]:
    """Returns a dict from each curve's name to its colour and line style for matplotlib."""
    if len(names) > FEW:
        from matplotlib import colormaps

        shades = colormaps[COLOUR_MAP](np.linspace(0.0, 0.92, len(names)))
        return {name: {"color": shade} for name, shade in zip(names, shades, strict=True)}
    styles = STYLES if len(names) > 3 else STYLES[:1]
    return {
        name: {"color": COLOURS[index % len(COLOURS)], "linestyle": styles[index % len(styles)]}
        for index, name in enumerate(names)
    }


def _legend(figure: Figure, grid: Sequence[Axes], order: Sequence[Curve], heading: str) -> None:
    """Draws the legend of a figure: the curves' names and last values.

    Args:
        figure: the figure.
        grid: axes of the panels.
        order: curves in the order of the legend.
        heading: heading of the legend.
    """
    drawn: dict[Any, Any] = {line.get_label(): line for axes in grid for line in axes.get_lines()}
    shown = list(order)
    omitted = len(shown) - _MAX_LISTED
    if omitted > 0:
        shown = [*shown[: _MAX_LISTED // 2], *shown[-_MAX_LISTED // 2 :]]
    handles = [drawn[curve.name] for curve in shown]
    labels = [figure_label(f"{_wrap_name(curve.name)}   {curve.y[-1]:.4g}") for curve in shown]
    if omitted > 0:
        from matplotlib.lines import Line2D

        handles.insert(_MAX_LISTED // 2, Line2D([], [], linestyle="none"))
        labels.insert(_MAX_LISTED // 2, f"... {omitted} more ...")
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize=8.5 if len(labels) <= FEW else 6.5,
        handlelength=2.6,
        labelspacing=0.5 if len(labels) <= FEW else 0.25,
        title=figure_label(heading),
        title_fontsize=8.5,
        alignment="left",
    )


def set_logarithmic(axes: Axes, which: str) -> None:
    """Makes an axis logarithmic, with up to four ticks per decade: 1, 2, 3, 5.

    `which` is `x` or `y`. One tick per decade would be too few for losses, which seldom span more
    than one decade.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.axes.set(**{f"{which}scale": "log"})
    low, high = axis.get_data_interval()
    decades = math.log10(high / low) if 0 < low < high else 1.0
    subs = (1.0, 2.0, 3.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _unit(x: str, largest: float) -> tuple[float, str]:
    if x != "time":
        return 1.0, ""
    if largest >= 3 * 3600:
        return 3600.0, " (hours)"
    return (60.0, " (minutes)") if largest >= 180 else (1.0, " (seconds)")


def shorten(text: str, limit: int = 64) -> str:
    """Shortens a title to one line of `limit` columns; Chinese characters take two."""
    text = " ".join(text.split())
    columns = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text]
    if sum(columns) <= limit:
        return text
    ends = [end for end in range(len(text)) if sum(columns[:end]) < limit]
    return text[: ends[-1]].rstrip() + "…"


def _wrap_name(name: str, limit: int = 44) -> str:
    """Wraps a name of a curve to at most three lines of `limit` columns; the rest becomes " …".

    Names often differ at their end, so one line would not be enough to distinguish them.
    """
    return textwrap.fill(name, limit, max_lines=3, placeholder=" …", break_on_hyphens=False)
