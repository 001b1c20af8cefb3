"""Figure of a coordinate check, which measures how activations scale with the width."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.analysis.coordinates import LOGITS, SCORES, slopes
from etude.analysis.curves import COLOURS, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"blocks": COLOURS[0], "attention scores": COLOURS[2], "logits": COLOURS[1]}


def coordinate_figure(frame: pd.DataFrame, path: Path) -> Path:
    """Plots mean absolute activations against the model's width, one panel per parametrisation.

    Each measured quantity, such as the output of a block, has two lines: a solid line for the
    values after the last step, darker for later layers, and a dotted line for the values before
    training.

    Args:
        frame: result of `etude.coordinate_check`.
        path: path of the figure.

    Returns:
        The path of the figure.
    """
    last = int(frame["step"].max())
    table = slopes(frame)
    parametrisations = list(dict.fromkeys(frame["parametrisation"]))
    figure = new_figure(0.8 + 4.1 * len(parametrisations), 4.2)
    panels = figure.subplots(1, len(parametrisations), squeeze=False, sharey=True)[0]
    for axes, parametrisation in zip(panels, parametrisations, strict=True):
        rows = frame[frame["parametrisation"] == parametrisation]
        last_slopes = table[(table["parametrisation"] == parametrisation) & (table["step"] == last)]
        _plot_lines(axes, rows[rows["step"] == 0], linestyle=":", linewidth=1.2)
        _plot_lines(axes, rows[rows["step"] == last], marker="o", markersize=4, linewidth=1.6)
        low, high = last_slopes["value"].min(), last_slopes["value"].max()
        axes.set_title(f"{parametrisation}: slopes {low:+.2f} to {high:+.2f}", fontsize=10)
        axes.set_xlabel("width D")
        widths = sorted(set(rows["width"]))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(widths, labels=[str(width) for width in widths])
        axes.minorticks_off()
        style_axes(axes)
    panels[0].set_ylabel("mean |x|")
    style = {"marker": "o", "markersize": 4}
    for kind, colour in _KINDS.items():
        panels[0].plot([], [], color=colour, label=f"{kind}, step {last}", **style)
    panels[0].plot([], [], color="#333333", linestyle=":", label="step 0")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 2 * len(parametrisations)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return save_figure(figure, path)


def _plot_lines(axes: Any, rows: pd.DataFrame, **style: Any) -> None:
    names_by_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name in dict.fromkeys(rows["quantity"]):
        names_by_kind[_kind(name)].append(name)
    for kind, names in names_by_kind.items():
        for number, name in enumerate(names, start=1):
            means = rows[rows["quantity"] == name].groupby("width")["value"].mean()
            opacity = 0.35 + 0.65 * number / len(names)
            axes.plot(means.index, means, color=_KINDS[kind], alpha=opacity, **style)


def _kind(quantity: str) -> str:
    if quantity == LOGITS:
        return "logits"
    return "attention scores" if quantity.endswith(SCORES) else "blocks"
