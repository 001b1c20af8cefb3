"""What predicted numbers are judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def number_metrics(actual: Floats, found: Floats, names: Sequence[str]) -> dict[str, float]:
    """How numbers compare with those that are right.

    Args:
        actual, found: (n, k).
        names: of the k numbers.

    Returns:
        `error`, the mean absolute error; `pearson` and `spearman`, the correlations of the numbers
        and of their ranks, not a number where one side is constant or n is 0. Of several numbers
        these are the means, and `error/NAME`, ... those of each.
    """
    if not len(actual):
        return dict.fromkeys(("error", "pearson", "spearman"), math.nan)
    each = {
        name: {
            "error": float(np.abs(found[:, place] - actual[:, place]).mean()),
            "pearson": pearson(actual[:, place], found[:, place]),
            "spearman": pearson(ranks(actual[:, place]), ranks(found[:, place])),
        }
        for place, name in enumerate(names)
    }
    keys = ("error", "pearson", "spearman")
    metrics = {key: float(np.mean([of[key] for of in each.values()])) for key in keys}
    if len(names) > 1:
        metrics |= {f"{key}/{name}": of[key] for name, of in each.items() for key in keys}
    return metrics


def pearson(a: Floats, b: Floats) -> float:
    """The correlation of two lists of numbers, (n,); not a number where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    below = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / below if below else math.nan


def ranks(numbers: Floats) -> Floats:
    """From 1; equal numbers share the mean of theirs."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared = ends - (counts - 1) / 2
    return np.asarray(shared[which], dtype=np.float64)
