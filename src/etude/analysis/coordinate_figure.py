"""The figure of a coordinate check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.analysis.coordinates import LOGITS, SCORES, slopes
from etude.analysis.curves import COLOURS, new_figure, save

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"blocks": COLOURS[0], "attention scores": COLOURS[2], "logits": COLOURS[1]}
_PANELS = {"value": "mean |x|", "change": "mean |x − x at step 0|"}


def coordinate_figure(frame: pd.DataFrame, path: Path) -> Path:
    """Sizes, and changes since step 0, over the width, after the last step: a row of two panels for
    each parametrisation, a line for each quantity, the later layers the darker.

    Args:
        frame: from `etude.coordinate_check`.
        path: of the figure.
    """
    last = int(frame["step"].max())
    table = slopes(frame)
    parametrisations = list(dict.fromkeys(frame["parametrisation"]))
    figure = new_figure(9, 0.6 + 3.1 * len(parametrisations))
    grid = figure.subplots(len(parametrisations), 2, squeeze=False, sharex=True, sharey="col")
    for row, parametrisation in zip(grid, parametrisations, strict=True):
        chosen = frame[(frame["parametrisation"] == parametrisation) & (frame["step"] == last)]
        found = table[(table["parametrisation"] == parametrisation) & (table["step"] == last)]
        for axes, column in zip(row, _PANELS, strict=True):
            _lines(axes, chosen, column)
            low, high = found[column].min(), found[column].max()
            axes.set_title(f"{parametrisation}: slopes {low:+.2f} to {high:+.2f}", fontsize=10)
            axes.set_ylabel(f"{_PANELS[column]}, step {last}")
    for axes in grid[-1]:
        axes.set_xlabel("width D")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return save(figure, path)


def _lines(axes: Any, chosen: pd.DataFrame, column: str) -> None:
    told: set[str] = set()
    of_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name in dict.fromkeys(chosen["quantity"]):
        of_kind[_kind(name)].append(name)
    for kind, names in of_kind.items():
        for number, name in enumerate(names, start=1):
            means = chosen[chosen["quantity"] == name].groupby("width")[column].mean()
            axes.plot(
                means.index,
                means,
                marker="o",
                markersize=4,
                linewidth=1.6,
                color=_KINDS[kind],
                alpha=0.35 + 0.65 * number / len(names),
                label=None if kind in told else kind,
            )
            told.add(kind)
    widths = sorted(set(chosen["width"]))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(widths, labels=[str(width) for width in widths])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _kind(quantity: str) -> str:
    if quantity == LOGITS:
        return "logits"
    return "attention scores" if quantity.endswith(SCORES) else "blocks"
