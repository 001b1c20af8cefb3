"""Extractive answers, selected as in transformers' script and scored as in SQuAD's, with
strides.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import SQuAD

from etude.api import load_run
from etude.data.examples.source import Row
from etude.tasks.question_answering import SpanMetrics, exact, overlap

FIXTURE = Path(__file__).parent / "squad" / "postprocessed.json"


@pytest.mark.parametrize("kind", ["always", "perhaps"])
def test_answers_are_those_of_transformers(kind: str) -> None:
    told = json.loads(FIXTURE.read_text(encoding="utf-8"))
    data = SimpleNamespace(read_context=lambda row: row)
    evaluated: Any = SimpleNamespace(
        data=data,
        row=lambda number: told["contexts"][number],
        row_of=np.array([window["row"] for window in told["windows"]]),
    )
    metrics = SpanMetrics(
        evaluated,
        longest=told["longest"],
        candidates=told["candidates"],
        no_answer=kind == "perhaps",
    )
    for index, window in enumerate(told["windows"]):
        batch = {name: torch.tensor([window[name]]) for name in ("begins", "ends")}
        batch |= {"labels": torch.zeros(1, 2, dtype=torch.long), "index": torch.tensor([index])}
        metrics.update(batch, torch.tensor([window["logits"]], dtype=torch.float64))
    found = metrics.answers()
    assert len(found) == 25
    texts = [text for text, _ in found.values()]
    assert texts == [text for text, _ in told["answers"][kind]]
    if kind == "perhaps":
        assert 0 < texts.count("") < 25
    chances = [chance for _, chance in found.values()]
    assert chances == pytest.approx([chance for _, chance in told["answers"][kind]], rel=1e-6)


WORDS = st.lists(
    st.sampled_from(["the", "An", "cat,", "Cat", "sat!", "a", "U.S.", "é", "-"]), max_size=6
)


@given(found=WORDS, truth=st.lists(WORDS.filter(bool), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_scores_as_torchmetrics(found: list[str], truth: list[list[str]]) -> None:
    text, truths = " ".join(found), [" ".join(each) for each in truth]
    metric = SQuAD()
    metric.update(
        [{"prediction_text": text, "id": "0"}],
        [{"answers": {"text": truths, "answer_start": [0] * len(truths)}, "id": "0"}],
    )
    expected = metric.compute()
    assert 100 * max(exact(text, each) for each in truths) == pytest.approx(
        float(expected["exact_match"])
    )
    f1 = 100 * max(overlap(text, each) for each in truths)
    if not any(exact(text, each) for each in truths):  # two without words: 1 as in SQuAD 2.0
        assert f1 == pytest.approx(float(expected["f1"]))


CITIES = ["Paris", "Rome", "Oslo", "Cairo", "Lima"]


def rows(file: Path, *, none: bool = False) -> list[dict[str, Any]]:
    """Returns questions about names and cities, in texts of three to six sentences, as a list of
    objects.
    """
    draw, found = random.Random(2), []
    for number in range(48):
        names = draw.sample(["Ann", "Bob", "Carl", "Dora", "Emil", "Fred"], 3 + number % 4)
        homes = [draw.choice(CITIES) for _ in names]
        context = " ".join(f"{a} lives in {b}." for a, b in zip(names, homes, strict=True))
        name, home = names[-1], homes[-1]
        start = context.index(f"{name} lives in ") + len(f"{name} lives in ")
        answers = [{"text": home, "answer_start": start}]
        if none and number % 3 == 0:
            name, answers = "Zoe", []
        found.append(
            {"question": f"Where does {name} live?", "context": context, "answers": answers}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return found


def words_of(tmp_path: Path, *more: str) -> list[str]:
    return [
        "~experiment", "name=qa", "data=questions", f"data.path={tmp_path / 'rows.jsonl'}",
        "data.sequence_length=40", "data.stride=8", "data.validation=0.25", "model.dim=16",
        "data.batch.examples=8", "data.tokenizer.vocab_size=90", "task=question_answering",
        "model=encoder_nano", "model/head=tagging", "model.layers=1", "model.heads=2",
        "trainer.max_steps=4", "trainer.val_check_interval=4", "schedule.warmup_steps=0",
        f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path / 'cache'}", *more,
    ]  # fmt: skip


def trained(etude: Callable[..., Any], tmp_path: Path, *more: str) -> Any:
    answer = etude("train", *words_of(tmp_path, *more))
    assert answer.code == 0, answer.err
    (path,) = (tmp_path / "runs" / "qa").iterdir()
    return load_run(path)


def test_each_window_has_its_part_of_the_answer(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    run = trained(etude, tmp_path)
    data = run.data()
    tokenizer = run.tokenizer()
    given = [Row(str(n), row) for n, row in enumerate(written)]
    windows = several = 0
    for row, encoded in zip(given, data.encoded(given, tokenizer, []), strict=True):
        (answer,) = data.read_answers(row)
        context, covered, right = row.values["context"], set(), 0
        several += len(encoded.fields) > 1
        for fields in encoded.fields:
            windows += 1
            assert len(fields["tokens"]) <= 40
            for begin, end in zip(fields["begins"], fields["ends"], strict=True):
                covered |= set(range(begin, end)) if begin >= 0 else set()
            first, last = fields["span"]
            if (first, last) != (0, 0):
                assert context[fields["begins"][first] : fields["ends"][last]] == answer.text
                right += 1
        assert right >= 1  # the stride is longer than an answer
        assert covered >= {n for n, letter in enumerate(context) if not letter.isspace()}
    assert several > 5


def test_from_command_to_answers(etude: Callable[..., Any], tmp_path: Path) -> None:
    written = rows(tmp_path / "rows.jsonl")
    run = trained(etude, tmp_path)
    metrics = run.evaluate("val")
    last = run.metrics.iloc[-1]
    for name, value in metrics.items():
        assert last[f"val/{name}"] == pytest.approx(value, rel=1e-6)
    lines = (run.path / "predictions").glob("val-*.jsonl")
    (found,) = [[json.loads(line) for line in file.read_text().splitlines()] for file in lines]
    held = [row for n, row in enumerate(written) if int((n + 1) * 0.25) > int(n * 0.25)]
    squad = SQuAD()
    for place, (said, row) in enumerate(zip(found, held, strict=True)):
        assert said["prediction"] in row["context"]
        text = [each["text"] for each in row["answers"]]
        squad.update(
            [{"prediction_text": said["prediction"], "id": str(place)}],
            [{"answers": {"text": text, "answer_start": [0]}, "id": str(place)}],
        )
    for name, value in squad.compute().items():
        assert metrics[name] == pytest.approx(float(value), abs=1e-4)
    assert run.scores("val") == [said["score"] for said in found]
    context = "Ann lives in Rome. Bob lives in Oslo."
    (told,) = run.predict(["Where does Bob live?"], pair=context)
    assert told["answer"] in context
    assert 0 < told["probability"] <= 1
    answer = etude("predict", run.path, "--text", "Where does Bob live?")
    assert answer.code == 2
    assert "a second text (the run was trained on text pairs)" in answer.err
    both = [run.predict([row["question"]], pair=row["context"])[0] for row in written[:3]]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in written[:3]), encoding="utf-8")
    answer = etude("predict", run.path, "--file", questions, "--json")
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    assert [each["answer"] for each in found] == [each["answer"] for each in both]
    answer = etude("predict", run.path, "--file", questions, "--pair", "Ann lives in Rome.")
    assert answer.code == 2
    assert "no value (the file has second texts in the column context)" in answer.err
    answer = etude("data", "show", *words_of(tmp_path))
    assert answer.code == 0, answer.err


def test_the_loss_is_that_of_both_ends(etude: Callable[..., Any], tmp_path: Path) -> None:
    """Computed with the module alone, window by window, without padding."""
    rows(tmp_path / "rows.jsonl")
    run = trained(etude, tmp_path, "trainer.precision=64-true", "model.dropout=0")
    data, tokenizer = run.data(), run.tokenizer()
    run.prepare(data)
    module = run.model("last").module
    losses = []
    for example in data.evaluated("val").examples():
        with torch.no_grad():
            tokens, types = (torch.from_numpy(example[n])[None] for n in ("tokens", "types"))
            logits = module(tokens, token_types=types)[0].double()
        ends = example["labels"].tolist()
        losses.append(-sum(logits[:, side].log_softmax(0)[ends[side]] for side in (0, 1)) / 2)
    expected = float(torch.stack(losses).mean())
    assert run.evaluate("val", which="last")["loss"] == pytest.approx(expected, rel=1e-9)
    assert tokenizer.vocab_size


def test_questions_without_an_answer(etude: Callable[..., Any], tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl", none=True)
    more = ("task.no_answer=true", "trainer.max_steps=60", "trainer.val_check_interval=60")
    run = trained(etude, tmp_path, *more, "optimizer.lr=0.01")
    notes = etude("data", "show", *words_of(tmp_path)).out
    assert "16 of 48 questions have no answer; to let the model predict" in notes
    found = [json.loads(line) for line in predictions(run)]
    assert {tuple(said["label"]) for said in found} >= {("",)}
    assert any(said["prediction"] == "" for said in found)
    right = [said for said in found if said["label"] == [""] and said["prediction"] == ""]
    assert all(said["score"] == 1 for said in right)


def predictions(run: Any) -> list[str]:
    run.evaluate("val")
    (file,) = (run.path / "predictions").glob("val-*.jsonl")
    lines: list[str] = file.read_text(encoding="utf-8").splitlines()
    return lines


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            [{"text": "Rome", "answer_start": 0}],
            "expected the start of the answer in the context as answer_start (the context has",
        ),
        ([{"text": "Ann", "answer_start": -4}], "a non-empty text, and an answer_start"),
        ([{"text": "Ann", "answer_start": 0.0}], "a non-empty text, and an answer_start"),
        ([{"text": "", "answer_start": 0}], "a non-empty text, and an answer_start"),
        (
            {"text": ["Ann"], "answer_start": []},
            "an object whose keys text and answer_start contain lists",
        ),
        ("Ann", "an object whose keys text and answer_start contain lists"),
        (None, "an object whose keys text and answer_start contain lists"),
    ],
)
def test_answers_that_cannot_be(
    answers: Any, told: str, etude: Callable[..., Any], tmp_path: Path
) -> None:
    rows(tmp_path / "rows.jsonl")
    row = {"question": "Who?", "context": "Ann lives in Rome.", "answers": answers}
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    answer = etude("train", *words_of(tmp_path))
    assert answer.code == 2, answer.out
    assert "line 49, column answers" in answer.err
    assert told in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_question_that_leaves_no_room(etude: Callable[..., Any], tmp_path: Path) -> None:
    rows(tmp_path / "rows.jsonl")
    answer = etude("train", *words_of(tmp_path, "data.sequence_length=16", "data.stride=10"))
    assert answer.code == 2, answer.out
    assert "the limit is data.sequence_length=16 minus data.stride=10" in answer.err
