"""Labelled rows: splits, duplicates, lengths, and whatever can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from etude.data.examples.labelled import LabelledFiles
from etude.data.text import Batch
from etude.data.tokenizer import BPE, Char
from etude.data.wordpiece import WordPiece
from etude.errors import InvalidArguments, RequestError
from etude.tasks.classification import LabelObjective

Rows = Sequence[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def simple(count: int, labels: Sequence[object] = ("a", "b")) -> list[dict[str, Any]]:
    return [{"text": f"text number {n}", "label": labels[n % len(labels)]} for n in range(count)]


def made(path: Path, **more: Any) -> LabelledFiles:
    options: dict[str, Any] = {
        "tokenizer": BPE(300),
        "sequence_length": 64,
        "batch": Batch(examples=4),
        **more,
    }
    data = LabelledFiles(path=str(path), **options)
    data.for_task(LabelObjective())
    return data


def prepared(path: Path, cache: Path, **more: Any) -> LabelledFiles:
    data = made(path, **more)
    data.check()
    data.prepare(cache)
    return data


def refused(path: Path, cache: Path, **more: Any) -> list[str]:
    with pytest.raises(RequestError) as caught:
        prepared(path, cache, **more)
    return [str(problem) for problem in caught.value.problems]


class TestSplits:
    def test_parts_of_one_file(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(100))
        data = prepared(file, tmp_path, validation=0.1, test=0.2)
        found = {name: [r.values["text"] for r in data.rows(name)] for name in data.meta.splits}
        assert {name: len(rows) for name, rows in found.items()} == {
            "train": 70,
            "val": 10,
            "test": 20,
        }
        assert sorted(text for rows in found.values() for text in rows) == sorted(
            row["text"] for row in simple(100)
        )
        assert found["test"] == [f"text number {n}" for n in range(4, 100, 5)]

    def test_files_of_their_own(self, tmp_path: Path) -> None:
        rows = simple(30)
        train = write(tmp_path / "train.jsonl", rows[:20])
        val = write(tmp_path / "val.jsonl", rows[20:])
        data = prepared(train, tmp_path, validation=str(val))
        assert [data.meta.splits[name].examples for name in ("train", "val", "test")] == [20, 10, 0]

    @pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "json"])
    def test_every_format_gives_the_same_examples(self, tmp_path: Path, form: str) -> None:
        import pandas as pd

        rows = simple(40)
        lines = write(tmp_path / "rows.jsonl", rows)
        other = tmp_path / f"rows.{form}"
        frame = pd.DataFrame(rows)
        if form == "parquet":
            frame.to_parquet(other)
        elif form == "json":
            other.write_text(json.dumps(rows))
        else:
            frame.to_csv(other, sep="\t" if form == "tsv" else ",", index=False)
        one, two = (prepared(path, tmp_path / "cache") for path in (lines, other))
        for split in ("train", "val"):
            assert one.meta.splits[split] == two.meta.splits[split]

    def test_a_part_of_the_training_examples(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(200))
        sizes, before = [], set()
        for part in (0.01, 0.1, 1.0):
            data = prepared(file, tmp_path, fraction=part)
            table = data._training_table()
            texts = {tuple(table[n]["tokens"].tolist()) for n in range(len(table))}
            assert before <= texts
            before = texts
            sizes.append(len(table))
        assert sizes == [2, 18, 180]


class TestFields:
    def test_a_pair_is_read_as_bert_reads_it(self, tmp_path: Path) -> None:
        rows = [{"text": f"one {n}", "other": f"two {n}", "label": n % 2} for n in range(20)]
        file = write(tmp_path / "rows.jsonl", rows)
        data = prepared(file, tmp_path, tokenizer=WordPiece(60), pair="other")
        example, decode = data.table("train")[0], data.tokenizer_.decode
        assert decode(example["tokens"].tolist()) == "[CLS] one 0 [SEP] two 0 [SEP]"
        types = example["types"].tolist()
        assert types == [0] * types.count(0) + [1] * types.count(1)
        assert types.count(0) == 4

    def test_labels_in_order(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(60, [10, 9, "x", "b"]))
        assert prepared(file, tmp_path).labels == ["9", "10", "b", "x"]

    def test_numbers_of_stated_names(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(60, [0, 1, 2]))
        data = prepared(file, tmp_path, labels=["low", "middle", "high"])
        assert data.labels == ["low", "middle", "high"]
        assert data.meta.splits["train"].labels == [18, 18, 18]
        assert "from 0 to 1" in refused(file, tmp_path, labels=["low", "high"])[0]


class TestLength:
    def rows(self) -> list[dict[str, Any]]:
        return [{"text": "a " * (5 + n), "label": "xy"[n % 2]} for n in range(40)]

    def test_cut_and_counted(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", self.rows())
        data = prepared(file, tmp_path, sequence_length=20)
        found = data.meta.splits["train"]
        whole = prepared(file, tmp_path, sequence_length=64).meta.splits["train"]
        assert (found.longest, whole.truncated) == (20, 0)
        assert 0 < found.truncated < found.examples == whole.examples == 36
        # what is cut off is in pieces that have special tokens of their own
        assert found.tokens + found.truncated_tokens >= whole.tokens

    def test_in_pieces(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", self.rows())
        data = prepared(file, tmp_path, sequence_length=20, too_long="chunk")
        found = data.meta.splits["train"]
        assert found.examples > found.rows == 36
        assert found.truncated == 0
        rows = data.row_numbers("train").tolist()
        assert rows == sorted(rows)
        assert len(set(rows)) == 36

    def test_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", self.rows())
        (told,) = refused(file, tmp_path, sequence_length=20, too_long="refuse")
        assert "rows.jsonl, line" in told
        assert "at most data.sequence_length = 20 tokens" in told

    def test_no_room_beside_the_special_tokens(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(40))
        assert "special tokens" in refused(file, tmp_path, sequence_length=2)[0]


class TestDuplicates:
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        train = [*simple(20), {"text": "Said  TWICE", "label": "a"}]
        val = [{"text": "said twice", "label": "b"}, {"text": "only here", "label": "a"}]
        return write(tmp_path / "train.jsonl", train), write(tmp_path / "val.jsonl", val)

    def test_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        train, val = self.files(tmp_path)
        found = prepared(train, tmp_path, validation=str(val)).meta.splits["train"]
        assert (found.leaked, found.dropped, found.examples) == (1, 0, 21)
        assert "1 rows are also in validation or test and were kept" in caplog.text

    def test_left_out(self, tmp_path: Path) -> None:
        train, val = self.files(tmp_path)
        data = prepared(train, tmp_path, validation=str(val), duplicates="drop")
        found = data.meta.splits
        assert (found["train"].leaked, found["train"].dropped) == (1, 1)
        assert (found["train"].examples, found["val"].examples) == (20, 2)
        assert 20 not in data.row_numbers("train")

    def test_what_is_left_out_teaches_no_tokenizer_and_no_label(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.jsonl", [*simple(20), {"text": "Ünique", "label": "c"}])
        val = write(tmp_path / "val.jsonl", [{"text": "ünique", "label": "c"}])
        common = {"validation": str(val), "tokenizer": Char()}
        (told,) = refused(train, tmp_path, duplicates="drop", **common)
        assert "val.jsonl, line 1 = 'c': expected a label that occurs in the training split" in told
        assert "data.duplicates=drop drops all 1 training rows with this label" in told
        data = prepared(train, tmp_path, duplicates="drop", labels=["a", "b", "c"], **common)
        assert data.tokenizer_.unknown_pieces("Ü")
        assert data.meta.splits["val"].unknown == 3  # ü, i, q
        data = prepared(train, tmp_path, labels=["a", "b", "c"], **common)
        assert not data.tokenizer_.unknown_pieces("Ü")

    def test_a_label_of_rows_left_out_alone_refuses_nothing(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.jsonl", [*simple(20), {"text": "twice", "label": "c"}])
        rows = [{"text": "twice", "label": "a"}, {"text": "thrice", "label": "d"}]
        val = write(tmp_path / "val.jsonl", rows)
        test = write(tmp_path / "test.jsonl", [{"text": "THRICE", "label": "b"}])
        data = prepared(train, tmp_path, validation=str(val), test=str(test), duplicates="drop")
        assert data.labels == ["a", "b"]
        counts = {name: found.examples for name, found in data.meta.splits.items()}
        assert counts == {"test": 1, "val": 1, "train": 20}

    def test_refused(self, tmp_path: Path) -> None:
        train, val = self.files(tmp_path)
        (told,) = refused(train, tmp_path, validation=str(val), duplicates="refuse")
        assert "train.jsonl, line 21 (also in validation): expected a row in only one split" in told

    def test_within_a_split(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", [*simple(20), *simple(20)])
        found = prepared(file, tmp_path, validation=0.1).meta.splits["train"]
        assert found.repeated > 10


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"label": None}, "line 7, column label = None: expected a label"),
            ({"label": ""}, "column label = '': expected a label"),
            ({"label": ["a"]}, "expected a label"),
            ({"label": 1.5}, "column label = 1.5: expected a label (a name or a whole number)"),
            ({"text": 5}, "line 7, column text = 5: expected text or null"),
        ],
    )
    def test_a_bad_row_is_named(
        self, tmp_path: Path, change: dict[str, Any], expected: str
    ) -> None:
        rows = simple(20)
        rows[6] |= change
        assert expected in refused(write(tmp_path / "rows.jsonl", rows), tmp_path)[0]

    def test_all_bad_labels_are_named(self, tmp_path: Path) -> None:
        rows = simple(20)
        for line in (3, 7, 19):
            rows[line - 1]["label"] = None
        told = refused(write(tmp_path / "rows.jsonl", rows), tmp_path)
        assert {each.partition(", column")[0].rpartition(" ")[2] for each in told} == {
            "3",
            "7",
            "19",
        }

    def test_rows_without_text_are_left_out_and_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = simple(20)
        rows[3]["text"], rows[4]["text"] = "", None
        found = prepared(write(tmp_path / "rows.jsonl", rows), tmp_path).meta.splits["train"]
        assert found.empty == 2
        assert "skipped 2 rows without text" in caplog.text

    def test_a_missing_column(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(20))
        with pytest.raises(RequestError) as caught:
            made(file, label="lable").check()
        (problem,) = caught.value.problems
        assert problem.where == "data.label"
        assert "did you mean label" in str(problem)

    def test_a_label_that_nobody_trains_on(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.jsonl", simple(20))
        val = write(tmp_path / "val.jsonl", simple(6, ["a", "new"]))
        (told,) = refused(train, tmp_path, validation=str(val))
        assert (
            "val.jsonl, line 2 = 'new': expected a label that occurs in the training split" in told
        )

    def test_a_label_that_is_not_stated(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(20, ["a", "b", "c"]))
        assert (
            "expected one of the labels in data.labels: a, b"
            in refused(file, tmp_path, labels=["a", "b"])[0]
        )

    def test_an_empty_class(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = write(tmp_path / "rows.jsonl", simple(20))
        prepared(file, tmp_path, labels=["a", "b", "never"])
        assert "labels without training examples: never" in caplog.text

    def test_labels_without_validation_examples(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each tenth row is for validation; in this file, all of these have the same label."""
        file = write(tmp_path / "rows.jsonl", simple(40))
        data = prepared(file, tmp_path)
        assert data.meta.splits["val"].labels == [0, 4]
        assert "val: no example has the label a" in caplog.text
        caplog.clear()
        prepared(file, tmp_path, validation=0.3)
        assert "no example" not in caplog.text

    def test_too_few_rows_for_validation(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(6))
        (message,) = refused(file, tmp_path)
        assert "the split has no rows, and the training split has 6; set a larger" in message

    @pytest.mark.parametrize(
        ("typed", "fraction"), [("20%", 0.2), ("2.5 %", 0.025), (".5%", 0.005)]
    )
    def test_a_percentage(self, typed: str, fraction: float, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(6))
        for key in ("validation", "test"):
            (message,) = refused(file, tmp_path, **{key: typed})
            assert f"for a fraction, use {fraction}" in message
        (message,) = refused(file, tmp_path, validation="150%")
        assert "fraction" not in message
        (tmp_path / "30%").mkdir()
        write(tmp_path / "30%" / "rows.jsonl", simple(3))
        assert (
            prepared(file, tmp_path, validation=str(tmp_path / "30%")).meta.splits["val"].rows == 3
        )

    def test_one_class_alone(self, tmp_path: Path) -> None:
        file = write(tmp_path / "rows.jsonl", simple(20, ["same"]))
        assert "expected a column with at least two labels" in refused(file, tmp_path)[0]

    def test_a_split_with_nothing_left(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.jsonl", simple(10))
        told = refused(train, tmp_path, validation=str(train), duplicates="drop")[0]
        assert "expected examples for training" in told
        assert (
            "10 rows with text and 0 rows without text; data.duplicates=drop dropped 10 rows"
            in told
        )

    @pytest.mark.parametrize(
        "bad",
        [
            {"validation": 0.0},
            {"validation": None},
            {"label": "text"},
            {"pair": "label"},
            {"pair": "text"},
            {"validation": 0.6, "test": 0.4},
            {"fraction": 0.0},
            {"labels": ["a", "a"]},
            {"batch": Batch(tokens=8)},
            {"batch": Batch()},
            {"batch": Batch(tokens=100, examples=2)},
        ],
    )
    def test_arguments_that_cannot_work(self, tmp_path: Path, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidArguments):
            made(tmp_path / "rows.jsonl", **bad)

    def test_plain_text_is_no_table(self, corpus: Path) -> None:
        with pytest.raises(RequestError, match="files that contain rows"):
            made(corpus).check()
        with pytest.raises(RequestError, match=r"use a glob such as '.*/\*\.csv'"):
            made(corpus.parent).check()


def test_a_task_for_running_text_is_refused(tmp_path: Path, etude: Callable) -> None:
    file = write(tmp_path / "rows.jsonl", simple(20))
    words = ["train", "~experiment", "name=x", "data=labelled_files", f"data.path={file}"]
    told = etude(*words, "trainer.max_steps=2", f"run.root={tmp_path / 'runs'}")
    assert told.code == 2
    assert "expected continuous text, which the run's task needs" in told.err
    assert not (tmp_path / "runs").exists()
