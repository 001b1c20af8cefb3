"""The figure of a coordinate check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.analysis.coordinates import LOGITS, SCORES, slopes
from etude.analysis.curves import COLOURS, dress, new_figure, save

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"blocks": COLOURS[0], "attention scores": COLOURS[2], "logits": COLOURS[1]}


def coordinate_figure(frame: pd.DataFrame, path: Path) -> Path:
    """Mean sizes over the width: a panel for each parametrisation, a line for each quantity after
    the last step, the later layers the darker, and a dotted one before training.

    Args:
        frame: from `etude.coordinate_check`.
        path: of the figure.
    """
    last = int(frame["step"].max())
    table = slopes(frame)
    parametrisations = list(dict.fromkeys(frame["parametrisation"]))
    figure = new_figure(0.8 + 4.1 * len(parametrisations), 4.2)
    panels = figure.subplots(1, len(parametrisations), squeeze=False, sharey=True)[0]
    for axes, parametrisation in zip(panels, parametrisations, strict=True):
        chosen = frame[frame["parametrisation"] == parametrisation]
        found = table[(table["parametrisation"] == parametrisation) & (table["step"] == last)]
        _lines(axes, chosen[chosen["step"] == 0], linestyle=":", linewidth=1.2)
        _lines(axes, chosen[chosen["step"] == last], marker="o", markersize=4, linewidth=1.6)
        low, high = found["value"].min(), found["value"].max()
        axes.set_title(f"{parametrisation}: slopes {low:+.2f} to {high:+.2f}", fontsize=10)
        axes.set_xlabel("width D")
        widths = sorted(set(chosen["width"]))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(widths, labels=[str(width) for width in widths])
        axes.minorticks_off()
        dress(axes)
    panels[0].set_ylabel("mean |x|")
    style = {"marker": "o", "markersize": 4}
    for kind, colour in _KINDS.items():
        panels[0].plot([], [], color=colour, label=f"{kind}, step {last}", **style)
    panels[0].plot([], [], color="#333333", linestyle=":", label="step 0")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 2 * len(parametrisations)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return save(figure, path)


def _lines(axes: Any, chosen: pd.DataFrame, **style: Any) -> None:
    of_kind: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name in dict.fromkeys(chosen["quantity"]):
        of_kind[_kind(name)].append(name)
    for kind, names in of_kind.items():
        for number, name in enumerate(names, start=1):
            means = chosen[chosen["quantity"] == name].groupby("width")["value"].mean()
            depth = 0.35 + 0.65 * number / len(names)
            axes.plot(means.index, means, color=_KINDS[kind], alpha=depth, **style)


def _kind(quantity: str) -> str:
    if quantity == LOGITS:
        return "logits"
    return "attention scores" if quantity.endswith(SCORES) else "blocks"
