"""Draws docs/images/architecture.png: how a command becomes a record, and the packages.

The packages and their order are those of the import contract in pyproject.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]

FLOW = (
    ("overrides", "command line\nor notebook"),
    ("config", "Hydra composes;\nerrors reported"),
    ("signature", "sha256 of\nthe config"),
    ("data", "tokenized once,\ncached"),
    ("model, task", "built from\nthe config"),
    ("training", "Lightning;\ncan be continued"),
    ("record", "JSON, YAML,\nsafetensors"),
)

PURPOSE = {
    "etude_papers": "code of single papers",
    "etude.cli": "the command",
    "etude.papers": "claims, verdicts, reports",
    "etude.api": "Python interface",
    "etude.analysis": "statistics, tables, figures of runs",
    "etude.sweeps": "multirun, search, plans",
    "etude.training": "one run from config to record",
    "etude.loggers": "TensorBoard, W&B",
    "etude.tasks": "losses, metrics, predictions",
    "etude.interop": "Hugging Face and GGUF weights",
    "etude.data": "sources, tokenizers, batches",
    "etude.models": "decoder, encoder, encoder-decoder",
    "etude.generation": "sampling and beam search",
    "etude.nn": "attention, position, norm, block",
    "etude.optim": "optimizers, schedules",
    "etude.records": "signature, record, registry",
    "etude.config": "schema, composition, checks",
    "etude.contracts": "interfaces of custom classes",
}

BLUE, GREY, INK = "#dbe9f6", "#eeeeee", "#222222"


def layers() -> list[str]:
    """Packages from the highest layer to the lowest, without single modules."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = config["tool"]["importlinter"]["contracts"][0]["layers"]
    return [name for name in names if name in PURPOSE]


def box(axes: plt.Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """Draws one rounded box."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor="#888888")
    )


def draw(path: Path) -> None:
    """Writes the figure."""
    figure, axes = plt.subplots(figsize=(10, 5.6), dpi=160)
    axes.set(xlim=(0, 10), ylim=(0, 5.6))
    axes.axis("off")
    axes.text(0.1, 5.38, "From a command to a record", weight="bold", color=INK)
    width, gap = 1.22, 0.2
    for index, (name, detail) in enumerate(FLOW):
        x = 0.1 + index * (width + gap)
        box(axes, x, 4.3, width, 0.85, BLUE)
        axes.text(x + width / 2, 4.97, name, ha="center", weight="bold", fontsize=8, color=INK)
        axes.text(x + width / 2, 4.57, detail, ha="center", va="center", fontsize=7, color=INK)
        if index:
            axes.annotate(
                "", (x - 0.01, 4.72), (x - gap + 0.01, 4.72), arrowprops={"arrowstyle": "->"}
            )
    axes.annotate(
        "the same config finds its record: reused or continued",
        (0.1 + 2 * (width + gap) + width / 2, 4.28),
        (0.1 + 6 * (width + gap) + width / 2, 4.02),
        fontsize=7.5,
        ha="right",
        color=INK,
        arrowprops={"arrowstyle": "->", "connectionstyle": "angle,angleA=0,angleB=90"},
    )
    axes.text(0.1, 3.62, "Packages: each imports only those after it", weight="bold", color=INK)
    names, columns = layers(), 3
    rows = -(-len(names) // columns)
    for index, name in enumerate(names):
        column, row = divmod(index, rows)
        x, y = 0.1 + column * 3.32, 2.98 - row * 0.58
        box(axes, x, y, 3.1, 0.48, GREY)
        axes.text(x + 0.1, y + 0.33, name, va="center", fontsize=7.5, weight="bold", color=INK)
        axes.text(x + 0.1, y + 0.14, PURPOSE[name], va="center", fontsize=7, color=INK)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    draw(ROOT / "docs/images/architecture.png")
