"""Text that is read on while a run trains: each token once an epoch, in any order of asking."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.mixture import Mixture
from etude.data.sotu import Sotu
from etude.data.steps import Share
from etude.data.streamed import POSITION, Streamed, StreamPosition
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import BPE, Byte, Char
from etude.errors import InvalidArguments, RequestError
from etude.tasks.masked_lm import MaskObjective

TEXTS = [f"document {number}: " + "words " * (number % 5) for number in range(40)]


def streamed(tmp_path: Path, texts: list[str] = TEXTS, **arguments: Any) -> Streamed:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = partial(TextFiles, path=str(file), validation=0.25)
    stated = {"tokenizer": Byte(), "sequence_length": 8, "batch": Batch(examples=4), "shuffle": 8}
    data = Streamed(source=source, **(stated | arguments))
    data.check()
    data.prepare(tmp_path / "cache")
    return data


def steps(data: Streamed, total: int, **changes: Any) -> list[list[Any]]:
    data.attach(**{"seed": 1, "micro_batch": None, "total_steps": total, **changes})
    return list(data.train_dataloader())


def rows(step: list[Any], name: str = "tokens") -> list[list[int]]:
    return [row for micro in step for row in micro[name].tolist()]


def whole(data: Streamed, epochs: int) -> list[int]:
    """The stream, by hand."""
    end, ids = data.tokenizer_.end_of_text, []
    for epoch in range(epochs):
        for number, text in enumerate(data.corpus.documents("train")):
            ids += ([end] if epoch or number else []) + data.tokenizer_.encode(text)
    return ids


@pytest.mark.parametrize("recipe", [Byte(), BPE(280)])
@pytest.mark.parametrize("shuffle", [1, 4, 8, 16])
def test_the_stream_is_cut_into_windows(recipe: Any, shuffle: int, tmp_path: Path) -> None:
    data = streamed(tmp_path, tokenizer=recipe, shuffle=shuffle)
    stream = whole(data, 2)
    count = len(stream) // 8 // 16 * 4
    found = [
        [*tokens, targets[-1]]
        for step in steps(data, count)
        for tokens, targets in zip(rows(step), rows(step, "targets"), strict=True)
    ]
    expected = [stream[first : first + 9] for first in range(0, 8 * 4 * count, 8)]
    assert sorted(found) == sorted(expected)
    assert (found == expected) == (shuffle == 1)
    for first in range(0, len(found), shuffle):  # within a block alone
        assert sorted(found[first : first + shuffle]) == sorted(expected[first : first + shuffle])


def test_a_step_depends_on_nothing_but_its_number(tmp_path: Path) -> None:
    data = streamed(tmp_path)
    found = [rows(step) for step in steps(data, 12)]
    assert [rows(step) for step in steps(data, 12, start_step=7)] == found[7:]
    assert [rows(step) for step in steps(streamed(tmp_path, workers=1), 12)] == found
    ranks = [steps(data, 12, rank=rank, world=2) for rank in (0, 1)]
    assert [rows(a) + rows(b) for a, b in zip(*ranks, strict=True)] == found
    micro = steps(data, 12, micro_batch=3)
    assert [rows(step) for step in micro] == found
    assert [len(each["tokens"]) for each in micro[0]] == [3, 1]
    other = [rows(step) for step in steps(data, 12, seed=2)]
    assert other != found
    for number in (11, 3, 5):
        assert data.batch_of(1, number)["tokens"].tolist() == found[number]


@settings(deadline=None, max_examples=25)
@given(step=st.integers(0, 11))
def test_goes_on_from_a_saved_position(tmp_path_factory: Any, step: int) -> None:
    """From the state alone, without encoding what lies before."""
    tmp_path = tmp_path_factory.mktemp("stream")
    data = streamed(tmp_path)
    found = steps(data, 12)
    for each in found[: step + 1]:
        data.on_before_batch_transfer([dict(micro) for micro in each], 0)
    state = json.loads(json.dumps(data.state_dict()))
    later = streamed(tmp_path)
    later.load_state_dict(state)
    asked: list[str] = []
    encode = type(later.tokenizer_).encode_batch

    def noted(self: Any, texts: Any) -> Any:
        asked.extend(texts)
        return encode(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(later.tokenizer_), "encode_batch", noted)
        rest = steps(later, 12, start_step=step + 1)
    assert [rows(each) for each in rest] == [rows(each) for each in found[step + 1 :]]
    documents = list(later.corpus.documents("train"))
    if rest:
        assert asked[0] == documents[state["document"]]
    if step == 11:
        assert StreamPosition(**state).block == 5


def test_places_and_readings(tmp_path: Path) -> None:
    data = streamed(tmp_path, tokenizer=Char())
    end, encode = data.tokenizer_.end_of_text, data.tokenizer_.encode
    documents = [
        ([end] if number else []) + encode(text)
        for number, text in enumerate(data.corpus.documents("train"))
    ]
    assembly = data.assembly(Share(1))
    for number in (0, 3, 9):
        batch = data.batch_of(1, number)
        found = zip(assembly.places(number), batch["tokens"], batch["targets"], strict=True)
        for example, (places, tokens, targets) in enumerate(found):
            ids = [n for p in places for n in documents[p.document][p.first : p.end]]
            assert ids == [*tokens.tolist(), int(targets[-1])]
            for place in places:
                readings = [r for r in assembly.readings([place], [number]) if r.example == example]
                assert [reading.whole for reading in readings] == [True]
    text = "document 9: w"
    (place,) = data.places_of(text)
    assert data.tokenizer_.decode(documents[place.document][place.first : place.end]) == text
    assert data.sources_of({3})[3].endswith("column text")


def test_masks(tmp_path: Path) -> None:
    data = streamed(tmp_path)
    data.for_task(MaskObjective(rate=0.5))
    data.prepare(tmp_path / "cache")
    (micro,) = steps(data, 3)[2]
    assert micro["tokens"].shape == (4, 8)
    assert micro["step_targets"] == int((micro["labels"] != -100).sum())


def test_only_validation_is_stored(tmp_path: Path) -> None:
    data = streamed(tmp_path)
    names = {path.name for path in data.store.folder.iterdir()}
    assert names == {"meta.json", "tokenizer.json", "val.tokens.ends", "val.tokens.values"}
    learnt = streamed(tmp_path, tokenizer=BPE(280), learn_from=3)
    documents = list(learnt.corpus.documents("train"))[:3]
    assert learnt.tokenizer_.fingerprint == BPE(280).train(documents).fingerprint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shuffle": 0}, "shuffle"),
        ({"learn_from": 0}, "learn_from"),
        ({"workers": 2}, "0 or 1"),
        ({"order": "epochs"}, "only data.shuffle sets the order"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match=said):
        streamed(tmp_path, **arguments)


def test_what_cannot_be(tmp_path: Path) -> None:
    stated: Any = {"tokenizer": Byte(), "sequence_length": 8, "batch": Batch(examples=4)}
    sources = {"a": partial(Sotu)}
    mixed = partial(Mixture, sources=sources, weights={"a": 1})
    with pytest.raises(RequestError, match="a stream does not support mixtures"):
        Streamed(source=mixed, **stated)
    missing = partial(TextFiles, path=str(tmp_path / "none.txt"))
    with pytest.raises(RequestError, match=r"data\.source\.path"):
        Streamed(source=missing, **stated).check()
    (problem,) = streamed(tmp_path).misfits(1, max_epochs=2)
    assert problem.where == "trainer.max_epochs"


@pytest.mark.slow
def test_a_run_stopped_killed_and_continued(etude: Any, toy_files: Path, tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text((toy_files / "text.txt").read_text())
    words = [
        "experiment=debug", "data=streamed", f"data.source.path={text}", "+data.source.lines=true",
        "data.shuffle=8", "data.sequence_length=16", "data.batch.examples=3", "model.dim=8",
        "trainer.max_steps=30", "trainer.val_check_interval=10", "run.samples=0",
        "trainer.accelerator=cpu", f"run.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    whole = tmp_path / "whole"
    assert etude("train", *words, f"run.root={whole}").code == 0
    for stop in (7, 8, 19):
        stopped = etude("train", *words, f"run.root={tmp_path / 'cut'}", f"run.stop_at_step={stop}")
        assert stopped.code == 0, stopped.err
    assert etude("train", *words, f"run.root={tmp_path / 'cut'}").code == 0
    finals = []
    for root in (whole, tmp_path / "cut"):
        (file,) = root.rglob("run.json")
        lines = (file.parent / "metrics.jsonl").read_text().splitlines()
        row = json.loads(lines[-1])
        finals.append((row["train/loss"], row["val/loss"], row["tokens"]))
        (state,) = file.parent.glob("checkpoints/step-00000030/state.pt")
        saved = torch.load(state, weights_only=True)["Streamed"]
        finals.append(saved)
    assert finals[:2] == finals[2:]
    assert finals[1]["block"] == 87 // 8
    (run,) = whole.rglob("run.json")
    shown = etude("data", "step", str(run.parent), "25")
    assert shown.code == 0, shown.err
    assert "lines.txt, line" in shown.out
    assert POSITION not in shown.out


def test_the_stream_is_read_once_though_steps_cross_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = streamed(tmp_path, shuffle=3)
    started: list[StreamPosition] = []
    stream = Streamed.stream

    def noted(self: Streamed, start: StreamPosition) -> Any:
        started.append(start)
        return stream(self, start)

    monkeypatch.setattr(Streamed, "stream", noted)
    assert len(steps(data, 12)) == 12
    assert started == [StreamPosition()]


def test_a_shipped_class_states_no_code(tmp_path: Path) -> None:
    assert "code" not in streamed(tmp_path).meta.identity
