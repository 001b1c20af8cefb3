"""Which spellings of a label are one class, which are two, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etude.data.examples.classes import class_key
from etude.data.examples.labelled import LabelledFiles
from etude.data.text import Batch
from etude.data.tokenizer import Char
from etude.errors import RequestError
from etude.tasks.classification import LabelObjective


def prepared(path: Path, **more: Any) -> LabelledFiles:
    options: dict[str, Any] = {"sequence_length": 32, "batch": Batch(examples=4), **more}
    data = LabelledFiles(path=str(path), tokenizer=Char(), **options)
    data.for_task(LabelObjective())
    data.check()
    data.prepare(path.parent / "cache")
    return data


def jsonl(path: Path, labels: list[Any], times: int = 10) -> Path:
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels * times)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(path: Path, labels: list[str], times: int = 10) -> Path:
    lines = [f"text {n},{label}\n" for n, label in enumerate(labels * times)]
    path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0", "1", "0.0", "1.00", "-0"], ["0", "1"]),
        (["0.0", "1.0"], ["0.0", "1.0"]),  # one spelling each: the name stays
        (["01", "1", "+1"], ["+1", "01", "1"]),  # names, and a number
        (["1.1", "1.10"], ["1.1", "1.10"]),
        ([" spam", "spam", "ham"], ["ham", "spam"]),
        (["Spam", "spam"], ["Spam", "spam"]),
        (["caf\u00e9", "cafe\u0301", "tea"], ["caf\u00e9", "tea"]),
        (["1e3", "1000"], ["1000", "1e3"]),
    ],
)
def test_text_is_one_class_or_two(labels: list[str], classes: list[str], tmp_path: Path) -> None:
    data = prepared(csv(tmp_path / "a.csv", labels))
    assert data.labels == classes
    counts = [0] * len(classes)
    for split in ("train", "val"):
        table = data.table(split)
        for row, number in zip(data.rows(split), range(len(table)), strict=True):
            same = class_key(row.values["label"]) == class_key(
                classes[int(table[number]["labels"])]
            )
            assert same, row
            counts[int(table[number]["labels"])] += 1
    assert min(counts) >= 10


def test_numbers_of_equal_value_are_one_class(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [0, 1, 0.0, 1.0, -0.0])
    assert prepared(path).labels == ["0", "1"]
    frame = pd.read_json(path, lines=True)
    frame["label"] = frame["label"].astype(float)
    frame.to_parquet(tmp_path / "a.parquet")
    assert prepared(tmp_path / "a.parquet").labels == ["0.0", "1.0"]


def test_stated_names_are_found_in_any_spelling(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", ["0.0", "1"])
    for names in (["0", "1"], ["low", "high"]):
        splits = prepared(path, labels=names).meta.splits
        assert [splits["train"].labels, splits["val"].labels] == [[10, 8], [0, 2]]


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        ([1, 2, "1"], "a number, because the similar label 1", "'1'"),
        ([True, False, "true"], "a Boolean, because the similar label true", "'true'"),
        ([1, 0, True], "a number, because the similar label 1", "True"),
        (["a", "1.0", 1], "text, because the similar label '1.0'", "1"),
    ],
)
def test_types_that_look_alike_are_refused(
    labels: list[Any], first: str, second: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", labels)
    with pytest.raises(RequestError) as caught:
        prepared(path)
    told = str(caught.value.problems[0])
    assert f"column label = {second}: expected {first} in {path}, line " in told
    # both places: the one that is refused and the one that it contradicts
    assert told.count(f"{path}, line") == 2


def test_types_that_do_not_look_alike_are_classes(tmp_path: Path) -> None:
    assert prepared(jsonl(tmp_path / "a.jsonl", [10, 9, "x"])).labels == ["9", "10", "x"]
    assert prepared(jsonl(tmp_path / "b.jsonl", [True, False])).labels == ["False", "True"]


def test_csv_tells_no_types(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", [0, 1])
    val = csv(tmp_path / "b.csv", ["0", "1"])
    assert prepared(train, validation=str(val)).labels == ["0", "1"]


def test_what_is_merged_and_what_is_nearly_the_same_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = csv(tmp_path / "a.csv", ["0", "0.0", "Spam", "spam", "NA"])
    for _ in range(2):  # also where the data is prepared already
        caplog.clear()
        with caplog.at_level("INFO", "etude.data"):
            data = prepared(path)
        told = [record.getMessage() for record in caplog.records]
        assert "labels treated as the same class: '0' and '0.0'" in told
        assert "labels with similar names, treated as different classes: 'Spam' and 'spam'" in told
        assert any(line.endswith("may mean a missing label: 'NA'") for line in told)
    assert len(data.meta.notes) == 3


@pytest.mark.parametrize("value", [None, "", " ", [], {}, 1.5, float("nan"), float("inf")])
def test_what_is_no_label(value: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"line 3, column label = .*expected a label"):
        prepared(jsonl(tmp_path / "a.jsonl", ["a", "b", value], 1), validation=0.01)


def test_line_ends_in_a_text_are_newlines(tmp_path: Path) -> None:
    rows = [{"text": "a\r\nb\rc", "label": n % 2} for n in range(10)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepared(path)
    assert data.texts(next(data.rows("train"))) == ["a\nb\nc"]
    assert not data.tokenizer_.unknown_pieces("\n")
    assert data.tokenizer_.unknown_pieces("\r")
