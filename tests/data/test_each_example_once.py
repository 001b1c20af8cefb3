"""What a run trains on, however it is cut into micro-batches, ranks and starts: each example of an
epoch once. Labels out of range and rows in two splits are seen before anything is trained."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from windows import window_steps

from etude.data.columns import Column
from etude.data.examples.batches import ExampleBatches
from etude.data.examples.example_steps import ExampleSteps, MemoryTable
from etude.data.examples.labelled import LabelledFiles
from etude.data.examples.pairs import Pairs
from etude.data.examples.tagged import Tagged
from etude.data.order import EveryExampleOnce
from etude.data.steps import Share, Steps
from etude.data.text import Batch
from etude.data.tokenizer import BPE
from etude.errors import RequestError
from etude.tasks.classification import LabelObjective
from etude.tasks.tagging import TagObjective
from etude.tasks.translation import PairObjective

cuts = st.fixed_dictionaries(
    {
        "share": st.integers(1, 5),
        "world": st.sampled_from([1, 2]),
        "micro_batch": st.none() | st.integers(1, 6),
        "stops": st.sets(st.integers(1, 12), max_size=3),
        "seed": st.integers(0, 2**32),
    }
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Column:
    """Token i of the file is i."""
    path = tmp_path_factory.mktemp("tokens") / "train"
    np.arange(400, dtype="<u2").tofile(path.with_name("train.values"))
    return Column(path, "<u2")


def shares_of(cut: dict[str, Any]) -> list[Share]:
    ranks = range(cut["world"])
    return [Share(cut["seed"], cut["micro_batch"], rank, cut["world"]) for rank in ranks]


@settings(deadline=None, max_examples=60)
@given(cut=cuts, length=st.integers(3, 60))
def test_windows_of_a_text(file: Column, cut: dict[str, Any], length: int) -> None:
    batch = cut["share"] * cut["world"]
    examples = (400 - 1) // length
    epochs = 2
    total = -(-epochs * examples // batch)
    order = EveryExampleOnce(400, length, batch, cut["seed"])
    seen: list[int] = []
    bounds = [0, *sorted(stop for stop in cut["stops"] if stop < total), total]
    for start, stop in pairwise(bounds):  # stopped and continued
        ranks = [
            Steps(window_steps(file, order, share, length, batch), start, stop)
            for share in shares_of(cut)
        ]
        for shares in zip(*ranks, strict=True):
            for micros in shares:
                seen += [first for micro in micros for first in micro["tokens"][:, 0].tolist()]
    for epoch in range(epochs):
        part = seen[epoch * examples : (epoch + 1) * examples]
        assert sorted(part) == [length * number for number in range(examples)]


@settings(deadline=None, max_examples=40)
@given(
    cut=cuts,
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=40),
    by=st.sampled_from(["examples", "tokens"]),
    bucket_steps=st.integers(1, 4),
)
def test_examples_of_different_lengths(
    cut: dict[str, Any], sizes: list[int], by: str, bucket_steps: int
) -> None:
    """Example i is told by its label."""
    fields = {
        "tokens": [[1] * size for size in sizes],
        "types": [[0] * size for size in sizes],
        "label": [[number] for number in range(len(sizes))],
    }
    table, rows = MemoryTable(fields, LabelObjective()), np.arange(len(sizes))
    batches = ExampleBatches(
        table.lengths(),
        seed=cut["seed"],
        examples=cut["share"] * cut["world"] if by == "examples" else None,
        tokens=None if by == "examples" else 20,
        bucket_steps=bucket_steps,
    )
    total, steps = 0, 0
    while total < 2 * len(sizes):
        total += len(batches.step(steps))
        steps += 1
    seen: list[int] = []
    bounds = [0, *sorted(stop for stop in cut["stops"] if stop < steps), steps]
    for start, stop in pairwise(bounds):
        ranks = [
            Steps(ExampleSteps(table, batches, share, rows), start, stop)
            for share in shares_of(cut)
        ]
        for shares in zip(*ranks, strict=True):
            for micros in shares:
                found = [n for micro in micros for n in micro["labels"].flatten().tolist()]
                seen += [number for number in found if number >= 0]
    assert Counter(seen[: len(sizes)]) == Counter(range(len(sizes)))
    assert Counter(seen[len(sizes) : 2 * len(sizes)]) == Counter(range(len(sizes)))


@pytest.mark.parametrize("value", [2, "2", -1, "-1", 10**30, "c", True, 1.5, "+1", "²", None, ""])
def test_a_label_out_of_range(tmp_path: Path, value: object) -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(20)]
    rows.append({"text": "odd", "label": value})  # type: ignore[dict-item]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = LabelledFiles(
        tokenizer=BPE(270), sequence_length=64, batch=Batch(examples=4), path=str(file),
        validation=0.2, labels=["bad", "good"],
    )  # fmt: skip
    data.for_task(LabelObjective())
    data.check()
    with pytest.raises(RequestError) as caught:
        data.prepare(tmp_path / "cache")
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"{file}, line 21")
    assert str(problem.value) == str(value)


SHARED = ["the cats ran", "dogs jump over"]


def rows_of(kind: str, sentences: list[str]) -> str:
    if kind == "pairs":
        return "".join(json.dumps({"source": s, "target": s[::-1]}) + "\n" for s in sentences)
    lines = ["".join(f"{word}\t{len(word) % 2}\n" for word in s.split()) for s in sentences]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("duplicates", ["warn", "drop"])
@pytest.mark.parametrize("kind", ["pairs", "tagged"])
def test_rows_that_stand_in_two_splits_are_counted(
    tmp_path: Path, kind: str, duplicates: str, caplog: pytest.LogCaptureFixture
) -> None:
    ending = "jsonl" if kind == "pairs" else "conll"
    train, val = tmp_path / f"train.{ending}", tmp_path / f"val.{ending}"
    train.write_text(rows_of(kind, [*(f"word{n} here" for n in range(20)), *SHARED]))
    val.write_text(rows_of(kind, ["only here", *(s.upper() for s in SHARED)]))
    common: dict[str, Any] = {
        "tokenizer": BPE(270), "sequence_length": 64, "batch": Batch(examples=4),
        "path": str(train), "validation": str(val), "duplicates": duplicates,
    }  # fmt: skip
    data: Any = Pairs(**common) if kind == "pairs" else Tagged(**common)
    data.for_task(PairObjective() if kind == "pairs" else TagObjective())
    data.check()
    data.prepare(tmp_path / "cache")
    found = data.meta.splits["train"]
    dropped = 2 if duplicates == "drop" else 0
    assert (found.leaked, found.dropped, found.examples) == (2, dropped, 22 - dropped)
    assert "2 rows are also in validation" in caplog.text
