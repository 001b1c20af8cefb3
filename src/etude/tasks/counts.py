"""Metrics of classifiers and taggers, computed from counts, which can be summed over ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> Counts:
    """Returns the confusion matrix, (classes, classes): how often each label (row) was predicted as
    each class (column).

    Args:
        labels, predictions: actual and predicted class of each example, as indices.
        classes: number of classes.
    """
    flat = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return flat.reshape(classes, classes)


def class_scores(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """Returns the scores of each class: a dict of `precision`, `recall`, `f1` and `support`.

    Each value of the dict is an array with one number for each class, 0 where the denominator is 0.
    `support` is the number of examples of the class.

    Args:
        counts: see `confusion`.
    """
    right = np.diag(counts).astype(float)
    predicted, actual = counts.sum(0), counts.sum(1)
    return {
        "precision": _safe_divide(right, predicted),
        "recall": _safe_divide(right, actual),
        "f1": _safe_divide(2 * right, predicted + actual),
        "support": actual.astype(float),
    }


def classification_metrics(counts: Counts, positive: int | None = None) -> dict[str, float]:
    """Returns the metrics of a confusion matrix.

    Args:
        counts: see `confusion`.
        positive: index of the positive class, such as spam.

    Returns:
        `accuracy`; `f1_macro`, `precision_macro` and `recall_macro`, means over the classes that
        occur as a label or a prediction; `mcc` (Matthews 1975; for several classes Gorodkin 2004);
        with `positive`, its `precision`, `recall` and `f1`.
    """
    total = counts.sum()
    scores = class_scores(counts)
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    metrics = {"accuracy": float(np.trace(counts) / total) if total else 0.0}
    for name in ("precision", "recall", "f1"):
        metrics[f"{name}_macro"] = float(scores[name][occurs].mean()) if occurs.any() else 0.0
    metrics["mcc"] = _mcc(counts)
    if positive is not None:
        metrics |= {name: float(scores[name][positive]) for name in ("precision", "recall", "f1")}
    return metrics


def calibration_error(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """Returns the expected calibration error of a classifier, and a list with the mean confidence,
    the accuracy and the number of rows in each bin of confidence.

    See Guo et al. 2017, arXiv:1706.04599, equation 3; the bins divide the confidences from 0 to 1
    into ranges of equal width, in ascending order. For a bin without rows, mean confidence and
    accuracy are NaN. Without any rows, the error is 0.

    Args:
        confidences: for each row, the probability of the predicted class.
        right: for each row, whether the predicted class is correct.
        bins: number of bins.
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
"""A span: its label, such as LOC, and the indices of its first and last word."""


def are_spans(names: Sequence[str]) -> bool:
    """Returns whether all tags except `O` have a span prefix: `B-` or `I-` (as in `B-LOC`), in the
    formats IOBES and BILOU also `E-`, `S-`, `L-` or `U-`. The tag `O` marks words outside of spans.
    Returns false if there is no tag with a prefix.
    """
    marks = {name[:2] for name in names}
    return marks <= {"B-", "I-", "E-", "S-", "L-", "U-", "O"} and any("-" in name for name in names)


def spans(tags: Sequence[str]) -> set[Span]:
    """Returns the spans that a sentence's tags mark, each as (label, index of the first word, index
    of the last word).

    As in the CoNLL-2000 script, a span also begins at an inside tag (`I-`) that follows no span or
    a span with another label.
    """
    marked: set[Span] = set()
    kind, start, previous = "", 0, "O"
    for index, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        continues = mark in ("I", "E", "L") and name == kind and previous in ("B", "I")
        if kind and not continues:
            marked.add((kind, start, index - 1))
            kind = ""
        if mark != "O" and not kind:
            kind, start = name, index
        previous = mark
    return marked


def span_metrics(right: int, predicted: int, actual: int) -> dict[str, float]:
    """Returns `precision`, `recall` and `f1` of spans, over all spans that are counted. A metric
    whose denominator is 0 is 0.

    Args:
        right, predicted, actual: numbers of correctly predicted, predicted and actual spans.
    """
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / actual if actual else 0.0,
        "f1": 2 * right / (predicted + actual) if predicted + actual else 0.0,
    }


def span_scores(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[dict[str, Any]]:
    """Returns the scores of each label of spans, such as LOC: a list with a dict for each label.

    A dict contains `label`, `precision`, `recall`, `f1` and `support`, the number of actual spans.
    The list contains the labels of all actual and predicted spans, in alphabetical order.

    Args:
        pairs: the actual and the predicted tags of each sentence.
    """
    right, predicted, actual = Counter[str](), Counter[str](), Counter[str]()
    for tags, guesses in pairs:
        true, guessed = spans(tags), spans(guesses)
        for counter, counted in ((right, true & guessed), (predicted, guessed), (actual, true)):
            counter.update(kind for kind, _, _ in counted)
    return [
        {
            "label": kind,
            **span_metrics(right[kind], predicted[kind], actual[kind]),
            "support": actual[kind],
        }
        for kind in sorted(predicted.keys() | actual.keys())
    ]


def _safe_divide(numerator: NDArray[np.float64], denominator: Counts) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)


def _mcc(counts: Counts) -> float:
    total, right = float(counts.sum()), float(np.trace(counts))
    predicted, actual = counts.sum(0).astype(float), counts.sum(1).astype(float)
    numerator = right * total - predicted @ actual
    denominator = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    return float(numerator / np.sqrt(denominator)) if denominator > 0 else 0.0
