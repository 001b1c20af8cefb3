"""The page of results follows from what was found; the plain methods do what they say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import each other by name; afterwards nothing goes by those names."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def facts() -> dict[str, Any]:
    return {
        "command": "etude train experiment=spam", "runs": ["aaa", "bbb", "ccc"],
        "seeds": [0, 1, 2], "commit": "0123", "parameters": 1000, "steps": 10, "seconds": 90.0,
        "threads": 1, "device": "a processor", "versions": {},
        "dropped": {"train": 31, "val": 2, "test": 0},
        "examples": {"train": 100, "val": 10, "test": 12},
    }  # fmt: skip


def spam(*f1: float, beside: float = 0.96) -> dict[str, Any]:
    other = {"accuracy": [0.9] * 3, "calibration_error": [0.01] * 3}
    return {**facts(), **other, "f1": list(f1), "baseline": {"f1": beside, "C": 10.0}}


def test_whether_a_target_is_met_follows_from_the_values() -> None:
    page = importlib.import_module("results_page")

    def met(found: dict[str, Any]) -> bool:
        return page.lines({"spam": found})[0].met

    assert met(spam(0.97, 0.98, 0.99))
    assert not met(spam(0.95, 0.96, 0.97))  # below 0.97
    assert not met(spam(0.97, 0.975, 0.98, beside=0.99))  # too far below the plain method
    tags = {**facts(), "accuracy": [0.94] * 3, "words": 9}
    lines = page.lines({"tagging": {**tags, "baseline": {"most_frequent": 0.88, "linear": 0.92}}})
    assert [line.met for line in lines] == [True, None]
    lines = page.lines({"tagging": {**tags, "baseline": {"most_frequent": 0.9, "linear": 0.92}}})
    assert lines[0].met is False


def test_the_page_says_what_was_found_and_what_was_not_run() -> None:
    page = importlib.import_module("results_page")
    text = page.page({"spam": spam(0.97, 0.98, 0.99)})
    row = "| spam, from scratch | F1 of spam | 0.980 [0.970, 0.990] | TF-IDF, logistic regression |"
    assert row in text
    assert "after 31 of train, 2 of val were left out as duplicates" in text
    assert "1.5 minutes each on 1 thread of a processor" in text
    assert "## Sentiment\n\nNot run." in text


def test_the_page_in_the_documents_is_that_of_the_files_beside_it() -> None:
    page = importlib.import_module("results_page")
    found = page.read(ROOT / "docs" / "results")
    assert found
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page.page(found)
    changed = deepcopy(found)
    changed["spam"]["f1"] = [value - 0.1 for value in changed["spam"]["f1"]]
    assert page.page(changed) != page.page(found)


def test_the_figure_of_pretraining_is_drawn(tmp_path: Path) -> None:
    page = importlib.import_module("results_page")
    values = {"0.01": [0.5, 0.6, 0.7], "0.1": [0.6, 0.7, 0.8], "1.0": [0.7, 0.8, 0.9]}
    found = {
        "accuracy": {"scratch": values, "pretrained": values},
        "baseline": {"accuracy": 0.7},
        "most_frequent": 0.55,
    }
    assert page.party_figure(found, tmp_path / "party.png").stat().st_size > 1000


def test_tags_by_frequency() -> None:
    baselines = importlib.import_module("baselines")
    train = [(["a", "b", "a", "c"], ["X", "Y", "X", "Z"]), (["a", "d"], ["Y", "Z"])]
    test = [(["a", "b", "new"], ["X", "Y", "Z"])]
    # of the words that are there once, b is Y and c and d are Z
    assert baselines.most_frequent_tag(train, test) == [["X", "Y", "Z"]]
    assert baselines.accuracy_of_tags(test, [["X", "X", "X"]]) == pytest.approx(1 / 3)


def test_a_linear_tagger_sees_the_neighbours() -> None:
    baselines = importlib.import_module("baselines")
    sentences = [(["the", "run"], ["D", "N"]), (["they", "run"], ["P", "V"])] * 30
    assert baselines.linear_tags(sentences, sentences[:2]) == [["D", "N"], ["P", "V"]]


def test_a_memory_answers_with_the_nearest() -> None:
    baselines = importlib.import_module("baselines")
    memory = baselines.translation_memory(
        ["open the file", "delete the folder"], ["A", "B"], ["open a file", "xyz"]
    )
    assert memory.targets[0] == "A"
    assert memory.cosines[0] > 0.5
    assert memory.cosines[1] == 0


def test_the_best_strength_on_validation_is_taken() -> None:
    baselines = importlib.import_module("baselines")
    texts = ["cheap money now", "cheap pills now", "see you at lunch", "lunch at the office"] * 5
    labels = ["spam", "spam", "ham", "ham"] * 5
    data = baselines.Labelled(texts, labels)
    score, strength = baselines.tfidf(data, data, data, "spam")
    assert score == 1
    assert strength in baselines.STRENGTHS
