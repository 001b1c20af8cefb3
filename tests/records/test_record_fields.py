"""Order of metrics, and the class that they are about."""

from __future__ import annotations

import random

import pytest

from etude.records.record_fields import order_metrics, positive_class_note


def test_metrics_are_ordered_for_people() -> None:
    expected = [
        "step", "tokens", "train/loss", "val/f1", "val/loss", "val/mcc", "train/grad_norm",
        "lr", "perf/mfu", "perf/tokens_per_second", "time",
    ]  # fmt: skip
    shuffled = random.Random(0).sample(expected, len(expected))
    ordered = order_metrics(shuffled, "val/f1")
    assert ordered[:4] == expected[:4]
    assert set(ordered[4:6]) == set(expected[4:6])
    assert ordered[6:8] == expected[6:8]
    assert ordered[-1] == "time"
    assert sorted(ordered) == sorted(expected)
    assert order_metrics(expected, "val/f1") == expected
    assert order_metrics(expected, "val/mcc")[3] == "val/mcc"


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (("val/f1", "val/loss"), "f1 is that of the class 'spam'"),
        (("recall", "precision"), "precision and recall are those of the class 'spam'"),
        (
            ("f1", "val/recall", "val/precision"),
            "precision, recall and f1 are those of the class 'spam'",
        ),
        (("val/f1_macro", "val/loss"), None),
    ],
)
def test_the_positive_class_is_named(metrics: tuple[str, ...], expected: str | None) -> None:
    assert positive_class_note({"task.positive": "spam"}, metrics) == expected
    assert positive_class_note({"task.positive": None}, metrics) is None
    assert positive_class_note({}, metrics) is None
