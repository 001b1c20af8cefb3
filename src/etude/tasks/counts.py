"""What classifiers and taggers are judged by, from counts alone: those of several ranks add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> Counts:
    """How often each label (row) was predicted as each class (column), (classes, classes)."""
    flat = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return flat.reshape(classes, classes)


def class_scores(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """`precision`, `recall`, `f1` and `support` of each class, (classes,); 0 where undefined."""
    right = np.diag(counts).astype(float)
    predicted, actual = counts.sum(0), counts.sum(1)
    return {
        "precision": _over(right, predicted),
        "recall": _over(right, actual),
        "f1": _over(2 * right, predicted + actual),
        "support": actual.astype(float),
    }


def classification_metrics(counts: Counts, positive: int | None = None) -> dict[str, float]:
    """What a confusion matrix says.

    Args:
        counts: see `confusion`.
        positive: the class that is looked for, such as spam.

    Returns:
        `accuracy`; `f1_macro`, `precision_macro` and `recall_macro`, means over the classes that
        were labelled or predicted; `mcc` (Matthews 1975; of several classes Gorodkin 2004); with
        `positive` its `precision`, `recall` and `f1`.
    """
    total = counts.sum()
    scores = class_scores(counts)
    there = (counts.sum(0) + counts.sum(1)) > 0
    metrics = {"accuracy": float(np.trace(counts) / total) if total else 0.0}
    for name in ("precision", "recall", "f1"):
        metrics[f"{name}_macro"] = float(scores[name][there].mean()) if there.any() else 0.0
    metrics["mcc"] = _mcc(counts)
    if positive is not None:
        metrics |= {name: float(scores[name][positive]) for name in ("precision", "recall", "f1")}
    return metrics


def calibration_error(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """The expected calibration error, and of each bin mean confidence, accuracy and number.

    Guo et al. 2017, arXiv:1706.04599, equation 3, with bins of equal width.
    """
    which = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    table, error = [], 0.0
    for index in range(bins):
        inside = which == index
        count = int(inside.sum())
        if not count:
            table.append((float("nan"), float("nan"), 0))
            continue
        confidence, accuracy = float(confidences[inside].mean()), float(right[inside].mean())
        error += count / len(confidences) * abs(confidence - accuracy)
        table.append((confidence, accuracy, count))
    return error, table


Span = tuple[str, int, int]
"""A kind, the first word and the last."""


def are_spans(names: Sequence[str]) -> bool:
    """Whether tags mark spans of words: `B-LOC`, `I-LOC`, `O`, and `E-`, `S-` (IOBES) or `L-`, `U-`
    (BILOU).
    """
    marks = {name[:2] for name in names}
    return marks <= {"B-", "I-", "E-", "S-", "L-", "U-", "O"} and any("-" in name for name in names)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans that a sentence's tags mark, as the CoNLL-2000 script reads them: one begins also
    at an inside tag after nothing or another kind.
    """
    found: set[Span] = set()
    kind, start, before = "", 0, "O"
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        goes_on = mark in ("I", "E", "L") and name == kind and before in ("B", "I")
        if kind and not goes_on:
            found.add((kind, start, place - 1))
            kind = ""
        if mark != "O" and not kind:
            kind, start = name, place
        before = mark
    return found


def span_metrics(right: int, predicted: int, actual: int) -> dict[str, float]:
    """`precision`, `recall` and `f1` of spans, over all kinds together."""
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / actual if actual else 0.0,
        "f1": 2 * right / (predicted + actual) if predicted + actual else 0.0,
    }


def span_scores(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[dict[str, Any]]:
    """Of sentences' actual and predicted tags, for each kind of span: `precision`, `recall`, `f1`
    and `support`, the spans that there are.
    """
    right, predicted, actual = Counter[str](), Counter[str](), Counter[str]()
    for tags, guesses in pairs:
        there, found = spans(tags), spans(guesses)
        for counter, some in ((right, there & found), (predicted, found), (actual, there)):
            counter.update(kind for kind, _, _ in some)
    return [
        {
            "label": kind,
            **span_metrics(right[kind], predicted[kind], actual[kind]),
            "support": actual[kind],
        }
        for kind in sorted(predicted.keys() | actual.keys())
    ]


def _over(above: NDArray[np.float64], below: Counts) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)


def _mcc(counts: Counts) -> float:
    total, right = float(counts.sum()), float(np.trace(counts))
    predicted, actual = counts.sum(0).astype(float), counts.sum(1).astype(float)
    above = right * total - predicted @ actual
    below = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    return float(above / np.sqrt(below)) if below > 0 else 0.0
