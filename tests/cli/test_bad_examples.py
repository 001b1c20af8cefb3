"""Errors in labelled data, pairs and tags are reported with exit code 2, and leave no files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]
GOOD: Rows = [{"text": f"text number {n}", "label": "ab"[n % 2]} for n in range(40)]
PAIRS: Rows = [{"source": f"one {n}", "target": f"two {n}"} for n in range(40)]
TAGGED: Rows = [{"words": ["a", "b"], "tags": ["X", "Y"]}] * 20
LONG = "many words here " * 30


def with_row(**row: Any) -> Rows:
    return [*GOOD, {"text": "one more", "label": "a"} | row]


CASES: dict[str, tuple[str, Rows, Sequence[str], str]] = {
    "unknown label": (
        "classification",
        with_row(label="zz"),
        ["data.labels=[a,b]"],
        "line 41 = 'zz': expected one of the labels in data.labels: a, b",
    ),
    "label out of range": (
        "classification",
        with_row(label=7),
        ["data.labels=[a,b]"],
        "label = 7: expected one of the names in data.labels, or an index from 0 to 1",
    ),
    "no label": (
        "classification",
        with_row(label=None),
        [],
        "column label = None: expected a label",
    ),
    "a number that is no class": (
        "classification",
        with_row(label=1.5),
        [],
        "label = 1.5: expected a label (a name or a whole",
    ),
    "one class alone": (
        "classification",
        [row | {"label": "a"} for row in GOOD],
        [],
        "data.label = 'a': expected a column with at least two labels",
    ),
    "a class that is not trained on": (
        "classification",
        GOOD,
        ["data.test=OTHER"],
        "line 1 = 'new': expected a label that occurs in the training split",
    ),
    "missing column": (
        "classification",
        GOOD,
        ["data.label=lable"],
        "data.label = 'lable': expected an existing column",
    ),
    "no text": (
        "classification",
        with_row(text=12),
        [],
        "line 41, column text = 12: expected text",
    ),
    "empty texts": (
        "classification",
        [row | {"text": " "} for row in GOOD],
        [],
        "examples for training (the split has 0 rows with text and 36 rows without text)",
    ),
    "rows repeated across splits": (
        "classification",
        GOOD,
        ["data.validation=DATA", "data.duplicates=refuse"],
        "line 1 (also in validation): expected a row in only one split (40 rows are in two splits",
    ),
    "too long": (
        "classification",
        with_row(text=LONG),
        ["data.too_long=refuse"],
        "line 41: expected at most data.sequence_length = 24 tokens",
    ),
    "longer than the model": (
        "classification",
        GOOD,
        ["model.max_length=16"],
        "data.sequence_length = 24: expected at most the model's max_length, 16",
    ),
    "a vocabulary larger than the model's": (
        "classification",
        GOOD,
        ["model.vocab_size=20"],
        "model.vocab_size = 20: expected at least",
    ),
    "labels that the head has not": (
        "classification",
        GOOD,
        ["model.head.labels=5"],
        "model.head.labels = 5: expected the number of labels in the data, 2",
    ),
    "a head of another kind": (
        "classification",
        GOOD,
        ["model/head=tagging"],
        "model.head = 'TaggingHead': expected a head",
    ),
    "a decoder for an encoder's task": (
        "classification",
        GOOD,
        ["model=nano"],
        "model = 'Decoder': expected an encoder for",
    ),
    "an encoder for a decoder's task": (
        "instruction",
        PAIRS,
        ["model=encoder_nano"],
        "model = 'Encoder': expected a decoder for",
    ),
    "a class that is looked for": (
        "classification",
        GOOD,
        ["task.positive=spam"],
        "task.positive = 'spam': expected one of",
    ),
    "no such side": (
        "translation",
        PAIRS,
        ["data.target=zh"],
        "data.target = 'zh': expected an existing column",
    ),
    "pairs in pieces": (
        "translation",
        [*PAIRS, {"source": LONG, "target": "x"}],
        ["data.too_long=refuse"],
        "(to cut off the end, set data.too_long=truncate)",
    ),
    "labels for a translator": (
        "translation",
        GOOD,
        ["data=labelled_files"],
        "data: expected examples with the fields source, target",
    ),
    "more words than tags": (
        "tagging",
        [{"words": ["a", "b"], "tags": ["X"]}] * 20,
        [],
        "row 1 = (['a', 'b'], ['X']): "
        "expected a list of words and a list of tags of the same length",
    ),
    "a tag that is none": (
        "tagging",
        [*TAGGED, {"words": ["a", "b"], "tags": [None, "X"]}],
        [],
        "row 21 = None: expected tags that are names or whole numbers",
    ),
    "an empty word": (
        "tagging",
        [*TAGGED, {"words": ["", "b"], "tags": ["X", "Y"]}],
        [],
        "row 21 = '': expected words that are non-empty texts",
    ),
    "a tag twice": (
        "tagging",
        TAGGED,
        ["data.labels=[X,Y,X]"],
        "data.labels = ['X', 'Y', 'X']: expected at least two names without duplicates",
    ),
    "spans where there are none": (
        "tagging",
        TAGGED,
        ["task.monitor=val/f1"],
        "task.monitor = 'val/f1': expected a metric that needs no spans",
    ),
    "a metric of no class": (
        "classification",
        GOOD,
        ["task.monitor=val/f1"],
        "task.monitor = 'val/f1': expected a metric of all classes, since task.positive is null",
    ),
    "half a surrogate pair": (
        "classification",
        with_row(text="\ud800 abc"),
        [],
        "line 41, column text",
    ),
    "... in a label": (
        "classification",
        with_row(label="\ud800"),
        [],
        "line 41, column label",
    ),
    "... in a word": (
        "tagging",
        [*TAGGED, {"words": ["a\ud800", "b"], "tags": ["X", "Y"]}],
        [],
        "row 21",
    ),
    "room for the end alone": (
        "translation",
        PAIRS,
        ["data.sequence_length=1"],
        "data.sequence_length = 1: expected at least 2 (a token and the end token)",
    ),
    "low-rank changes of no rank": (
        "classification",
        GOOD,
        ["init_from.lora.alpha=4"],
        "init_from.lora.rank = None: expected a positive number (init_from.lora.alpha is set",
    ),
}
PARTS = {
    "classification": ["model=encoder_nano", "data=labelled_files", "data.tokenizer.vocab_size=60"],
    "instruction": ["model=nano", "data=pairs", "data.tokenizer.vocab_size=270"],
    "translation": ["model=transformer_nano", "data=pairs", "data.tokenizer.vocab_size=270"],
    "tagging": ["model=encoder_nano", "model/head=tagging", "data=tagged"],
}


@pytest.mark.parametrize("name", CASES)
def test_is_told(name: str, etude: Callable, tmp_path: Path) -> None:
    task, rows, more, message = CASES[name]
    file, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other.write_text(json.dumps({"text": "something", "label": "new"}) + "\n", encoding="utf-8")
    words = [word.replace("DATA", str(file)).replace("OTHER", str(other)) for word in more]
    cache = tmp_path / "cache"
    answer = etude(
        "train", "~experiment", "name=bad", f"task={task}", *PARTS[task], f"data.path={file}",
        "data.sequence_length=24", "data.batch.examples=4", "model.layers=1", "model.heads=2",
        "model.dim=8", "trainer.max_steps=2", "trainer.accelerator=cpu", "schedule.warmup_steps=1",
        f"run.root={tmp_path / 'runs'}", f"run.cache={cache}", *words,
    )  # fmt: skip
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.out + answer.err
    assert not (tmp_path / "runs").exists()
    assert not list(cache.glob("*.partial"))
