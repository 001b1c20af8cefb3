"""Metrics from counts, compared with scikit-learn and seqeval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from seqeval.metrics import recall_score as seqeval_recall
from sklearn import metrics as sk

from etude.tasks.counts import (
    are_spans,
    calibration_error,
    class_scores,
    classification_metrics,
    confusion,
    span_metrics,
    spans,
)
from etude.tasks.tagging import span_counts

ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(ANSWERS)
def test_classification_as_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, found = (np.array(side) for side in zip(*pairs, strict=True))
    counts = confusion(labels, found, 4)
    assert np.array_equal(counts, sk.confusion_matrix(labels, found, labels=range(4)))
    ours = classification_metrics(counts, positive=2)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, found))
    assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, found), abs=1e-12)
    for name, score in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        macro = score(labels, found, average="macro", zero_division=0)
        assert ours[f"{name}_macro"] == pytest.approx(macro)
        one = score(labels == 2, found == 2, zero_division=0)
        assert ours[name] == pytest.approx(one)
        each = score(labels, found, labels=range(4), average=None, zero_division=0)
        assert class_scores(counts)[name] == pytest.approx(each)


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


@given(SENTENCES)
def test_spans_as_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    actual = [[tag for tag, _ in each] for each in sentences]
    found = [[tag for _, tag in each] for each in sentences]
    sums = np.sum([span_counts(a, b) for a, b in zip(actual, found, strict=True)], axis=0)
    ours = span_metrics(*sums.tolist())
    for name, score in (
        ("precision", seqeval_precision),
        ("recall", seqeval_recall),
        ("f1", seqeval_f1),
    ):
        assert ours[name] == pytest.approx(score(actual, found, zero_division=0))


def test_spans_by_hand() -> None:
    tags = ["B-A", "I-A", "O", "I-B", "B-B", "I-A"]
    assert spans(tags) == {("A", 0, 1), ("B", 3, 3), ("B", 4, 4), ("A", 5, 5)}
    assert are_spans(TAGS)
    assert not are_spans(["NOUN", "VERB"])
    assert not are_spans(["O"])


def test_calibration_by_hand() -> None:
    """Two bins are occupied: |0.95 - 0.5| has weight 2/3, |0.55 - 1| has weight 1/3."""
    confidences, right = np.array([0.95, 0.95, 0.55]), np.array([True, False, True])
    error, bins = calibration_error(confidences, right)
    assert error == pytest.approx(2 / 3 * 0.45 + 1 / 3 * 0.45)
    assert [count for _, _, count in bins] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins[9][:2] == (pytest.approx(0.95), pytest.approx(0.5))


def test_a_perfect_forecaster_is_calibrated() -> None:
    draw = np.random.default_rng(0)
    confidences = draw.uniform(0.5, 1, 200_000)
    error, _ = calibration_error(confidences, draw.uniform(size=200_000) < confidences)
    assert error < 0.005
