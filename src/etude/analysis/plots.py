"""Figures of runs, as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.analysis.curves import dress, new_figure

TRAIN, VALIDATION = "#9aa5b1", "#c2410c"


def loss_curve(
    rows: Sequence[Mapping[str, Any]], path: Path, title: str = "", unit: str = "nats per token"
) -> None:
    """Training and validation loss over the steps.

    Args:
        rows: of `metrics.jsonl`.
        path: of the PNG.
        title: above the axes.
        unit: of the loss.
    """
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    train = _series(rows, "train/loss")
    validation = _series(rows, "val/loss")
    axes.plot(*train, color=TRAIN, linewidth=1.2, label="train")
    axes.plot(*validation, color=VALIDATION, linewidth=1.8, marker="o", markersize=4, label="val")
    if validation[1]:
        best = min(range(len(validation[1])), key=validation[1].__getitem__)
        axes.annotate(
            f"{validation[1][best]:.3f}",
            (validation[0][best], validation[1][best]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center",
            color=VALIDATION,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(textwrap.fill(title, 76), fontsize=10, parse_math=False)
    dress(axes)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]
