"""Metrics of predicted numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def number_metrics(actual: Floats, predicted: Floats, names: Sequence[str]) -> dict[str, float]:
    """Returns metrics that compare predicted numbers with the actual ones.

    Args:
        actual, predicted: arrays of shape (n, k), with k numbers for each of n rows or words.
        names: names of the k numbers.

    Returns:
        `error`, the mean absolute error; `pearson` and `spearman`, the correlations of the numbers
        and of their ranks, NaN if the actual or the predicted numbers are constant or n is 0. If k
        is above 1, these metrics are means over the k numbers, and `error/NAME`, ... are the
        metrics of each number.
    """
    if not len(actual):
        return dict.fromkeys(("error", "pearson", "spearman"), math.nan)
    each = {
        name: {
            "error": float(np.abs(predicted[:, index] - actual[:, index]).mean()),
            "pearson": pearson(actual[:, index], predicted[:, index]),
            "spearman": pearson(ranks(actual[:, index]), ranks(predicted[:, index])),
        }
        for index, name in enumerate(names)
    }
    keys = ("error", "pearson", "spearman")
    metrics = {key: float(np.mean([values[key] for values in each.values()])) for key in keys}
    if len(names) > 1:
        metrics |= {f"{key}/{name}": values[key] for name, values in each.items() for key in keys}
    return metrics


def pearson(a: Floats, b: Floats) -> float:
    """Returns Pearson's correlation of two lists of n numbers; NaN if a list is constant."""
    a, b = a - a.mean(), b - b.mean()
    denominator = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / denominator if denominator else math.nan


def ranks(numbers: Floats) -> Floats:
    """Returns the ranks of numbers, from 1; equal numbers have the mean of their ranks."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared = ends - (counts - 1) / 2
    return np.asarray(shared[which], dtype=np.float64)
