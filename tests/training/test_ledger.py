"""The examples of a step, and the steps of a text, compared with the batches of training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.api import Run, load_run
from etude.config.compose import compose
from etude.data.origins import find_occurrences
from etude.data.passages import cut
from etude.data.tokenizer import BPE, Char
from etude.errors import RequestError
from etude.tasks.base import Task
from etude.training.run import train

Toy = Callable[..., list[str]]
KINDS = ["masked_lm", "span_denoising", "translation", "instruction", "classification", "tagging"]


def trained(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Run, list[list[dict[str, Any]]]]:
    """A run, and the micro-batches of each of its steps."""
    given: list[list[dict[str, Any]]] = []
    original = Task.training_step

    def recorded(self: Task, batch: list[dict[str, Any]], *more: Any) -> Any:
        given.append(batch)
        return original(self, batch, *more)

    monkeypatch.setattr(Task, "training_step", recorded)
    record = train(compose(words)).record
    monkeypatch.undo()
    return load_run(record.path), given


def rows(batches: list[dict[str, Any]], name: str) -> list[list[Any]]:
    return [row.tolist() for batch in batches for row in batch[name]]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["data.order=windows"],
        ["data.curriculum={batch: {0: 2, 9: 4}, sequence_length: {0: 4, 21: 8}}"],
    ],
)
def test_windows(
    more: list[str], words: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = trained(words(tmp_path, *more), monkeypatch)
    data = run.data()
    run.prepare(data)
    documents = dict(enumerate(text for _, text in data.sourced("train")))
    assert len(given) == 40
    for step in (1, 2, 9, 10, 22, 40):
        batch = run.batch(step)
        for name in ("tokens", "targets"):
            assert batch[name].tolist() == rows(given[step - 1], name)
        places = run.places(step)
        assert len(places) == len(batch["tokens"])  # one document
        for (_, place), tokens, targets in zip(
            places.iterrows(), batch["tokens"].tolist(), batch["targets"].tolist(), strict=True
        ):
            text = documents[place.document][place["first"] : place.end]  # characters are tokens
            assert data.tokenizer_.decode([*tokens, targets[-1]]) == text
            assert place.source.endswith("text.txt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [[], ["data.pack=true"], ["data.fraction=0.5"]], ids=str)
def test_each_task(
    kind: str, more: list[str], toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("masked_lm", "span_denoising") and more:
        more = ["data.order=epochs"]
    run, given = trained(toy(kind, tmp_path, *more, "trainer.max_steps=5"), monkeypatch)
    for step in (1, 5):
        batch, micros = run.batch(step), given[step - 1]
        targets = "labels" if "labels" in batch else "targets"
        assert batch["step_targets"] == micros[0]["step_targets"]
        if more != ["data.pack=true"]:  # micro-batches are of sequences, which are packed anew
            counted = [n for row in rows(micros, targets) for n in _flat(row) if n != -100]
            assert [n for n in batch[targets].flatten().tolist() if n != -100] == counted
        assert run.places(step)["example"].nunique() >= 1


def _flat(row: Any) -> list[Any]:
    return row if isinstance(row, list) else [row]


def test_rows_are_named(toy: Toy, tmp_path: Path) -> None:
    run = load_run(train(compose(toy("classification", tmp_path))).record.path)
    data = run.data()
    run.prepare(data)
    train_rows = list(data.rows("train"))
    batch, places = run.batch(3), run.places(3)
    tokens = [
        [n for n, kept in zip(row, keep, strict=True) if kept]
        for row, keep in zip(
            batch["tokens"].tolist(),
            batch.get("keep", torch.ones_like(batch["tokens"])).tolist(),
            strict=True,
        )
    ]
    for ids, (_, place) in zip(tokens, places.iterrows(), strict=True):
        row = train_rows[place.document]
        assert place.source == row.where
        assert data.tokenizer_.framed([data.texts(row)[0]])[0][: len(ids) - 1] == ids[:-1]
    text = data.texts(train_rows[places.document[0]])[0]
    found = run.readings(text)
    expected = [
        (step, example)
        for step in range(1, run.summary["step"] + 1)
        for example, document in enumerate(run.places(step).document, 1)
        if text in data.texts(train_rows[document])[0]
    ]
    assert [*zip(found.step, found.example, strict=True)] == expected
    assert (3, 1) in expected


@pytest.mark.parametrize("more", ["data.too_long=truncate", "data.too_long=chunk"])
def test_the_rest_of_a_long_row(more: str, toy: Toy, tmp_path: Path) -> None:
    """No step reads the truncated rest of a row; of a chunked row, a step reads the chunk."""
    rows_ = tmp_path / "rows.jsonl"
    lines = [
        {"text": f"start{n} " + "cats ran over dogs " * 8 + f"end{n}", "label": n % 2}
        for n in range(40)
    ]
    rows_.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = [f"data.path={rows_}", "data/tokenizer=byte", "~data.tokenizer.vocab_size", more]
    words = [w for w in toy("classification", tmp_path) if "vocab_size" not in w]
    run = load_run(train(compose([*words, *own[:2], more])).record.path)
    decode = run.tokenizer().decode
    kept = {place.document for step in range(1, 13) for place in run.places(step).itertuples()}
    number = min(kept)
    for text in (f"start{number} ", f"end{number}"):
        found = (
            [*zip(*(run.readings(text)[key] for key in ("step", "example")), strict=True)]
            if (more.endswith("chunk") or text.startswith("start"))
            else []
        )
        expected = [
            (step, example)
            for step in range(1, 13)
            for example, ids in enumerate(run.batch(step)["tokens"].tolist(), 1)
            if text in decode(ids)
        ]
        assert found == expected
        if not expected and more.endswith("truncate"):
            with pytest.raises(RequestError, match="a text in the training split"):
                run.readings(text)


def test_packed_examples_are_named_in_their_order(toy: Toy, tmp_path: Path) -> None:
    words = toy("classification", tmp_path, "data.pack=true", "data.sequence_length=128")
    run = load_run(train(compose([*words, "model.max_length=128"])).record.path)
    data = run.data()
    run.prepare(data)
    texts = {number: data.texts(row)[0] for number, row in enumerate(data.rows("train"))}
    for step in (1, 4):
        batch, places = run.batch(step), run.places(step)
        decoded = " ".join(data.tokenizer_.decode(row.tolist()) for row in batch["tokens"])
        at = [decoded.find(texts[document]) for document in places.document]
        first = texts[places.document.iloc[0]]
        assert min(at) >= 0
        assert decoded.removeprefix("[CLS] ").startswith(first)


def test_a_rule(tmp_path: Path) -> None:
    words = ["experiment=sort", "trainer.max_steps=3", f"run.root={tmp_path}", "run.samples=0"]
    run = load_run(train(compose([*words, "trainer.accelerator=cpu"])).record.path)
    data = run.data()
    batch, places = run.batch(2), run.places(2)
    made = data.examples("train", places.document.to_numpy(), run.summary["seed"])
    assert batch["tokens"].tolist() == made["tokens"].tolist()
    with pytest.raises(RequestError, match="synthetic data has no text"):
        run.readings("1 2 3")


def test_which_steps_read_a_text(words: Callable, tmp_path: Path) -> None:
    run = load_run(train(compose(words(tmp_path))).record.path)
    data = run.data()
    run.prepare(data)
    (document,) = data.documents("train")
    for text in (document[50:53], document[100:104], document[7:40]):
        found = run.readings(text)
        for step in range(1, 41):
            batch = run.batch(step)
            read = [
                data.tokenizer_.decode([*tokens, targets[-1]])
                for tokens, targets in zip(
                    batch["tokens"].tolist(), batch["targets"].tolist(), strict=True
                )
            ]
            own = found[(found.step == step) & found.whole]
            expected = [number for number, row in enumerate(read, 1) if text in row]
            assert sorted(set(own.example)) == expected
        if len(text) > 9:  # no window holds all of it
            assert not found.whole.any()
            assert len(found)
    with pytest.raises(RequestError, match="a text in the training split"):
        run.readings("no such text")
    with pytest.raises(RequestError, match="a non-empty text"):
        run.readings("")


def test_the_gradient_is_of_what_is_named(words: Callable, tmp_path: Path) -> None:
    """The logged gradient norm follows from the weights before the step and the step's examples."""
    whole = ["model.dropout=0", "trainer.log_every_n_steps=1", "run.keep_every=5"]
    run = load_run(train(compose(words(tmp_path, *whole))).record.path)
    logged = run.metrics.set_index("step")["train/grad_norm"]
    for step in (6, 11, 36):
        model = run.task(str(step - 1)).model.train()
        norms = []
        for number in (step, step % 40 + 1):
            batch = run.batch(number)
            model.zero_grad()
            logits = model(batch["tokens"]).flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, batch["targets"].flatten()).backward()
            gradients = [p.grad for p in model.parameters()]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        assert norms[0] == pytest.approx(logged[step], rel=1e-4)
        assert norms[1] != pytest.approx(logged[step], rel=1e-3)


def test_a_text_within_a_long_document() -> None:
    draw = random.Random(0)
    document = "".join(draw.choice("ab cé\n") for _ in range(5000)) + "needle in it"
    for tokenizer in (BPE(280).train([document]), Char().train([document])):
        ids = [n for passage in cut([document]) for n in tokenizer.encode(passage)]
        for text in ("needle", document[100:140], "é"):
            found, count = find_occurrences(document, text, tokenizer)
            assert count == len(ids)
            assert len(found) == sum(document.startswith(text, at) for at in range(len(document)))
            for first, end in found:
                assert text in tokenizer.decode(ids[first:end]) or text == "é"


def test_from_the_command_line(etude: Any, words: Callable, tmp_path: Path) -> None:
    run = train(compose(words(tmp_path))).record.path
    answer = etude("data", "step", str(run), "7", "--examples", "2")
    assert answer.code == 0, answer.err
    assert "step 7 of 40" in answer.out
    assert "text.txt, tokens" in answer.out
    assert "and 2 more examples" in answer.out
    told = json.loads(etude("data", "step", str(run), "7", "--json").out)
    assert [line["example"] for line in told] == [1, 2, 3, 4]
    text = load_run(run).data()
    load_run(run).prepare(text)
    (document,) = text.documents("train")
    answer = etude("data", "find", str(run), document[50:53])
    assert answer.code == 0, answer.err
    assert "used this text" in answer.out
    assert answer.out.count("\nstep ") == len(set(load_run(run).readings(document[50:53]).step))
    for words_, said in (
        (["step", str(run), "41"], "a step of the run, 1 to 40"),
        (["step", str(run), "0"], "a step of the run, 1 to 40"),
        (["step", str(run), "7", "--examples", "-1"], "a non-negative number"),
        (["find", str(run), "nowhere"], "a text in the training split"),
        (["stop"], "did you mean step?"),
        ([], "one of show, step or find"),
    ):
        answer = etude("data", *words_)
        assert answer.code == 2
        assert said in answer.err
