"""Compares scores of released models with `transformers` and with simple loops."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import folders
import zoo

from etude import load_pretrained
from etude.errors import InvalidArguments, RequestError
from etude.models.language_model import LanguageModel
from etude.papers import claims, reproduction
from etude_papers import released
from etude_papers.released import LastWords, Released, Windows
from etude_papers.texts import FileTexts, HubTexts

SENTENCES = [
    "the people of the united states, and the congress of 1862; their peace",
    "peace and war and the congress",
    "of the people",
    "their states and the peace of the united people",
]


def nothing(done: int) -> None:
    pass


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = folders.bpe()
    torch.manual_seed(3)
    more = {"rotary_pct": 0.34} if request.param == "gpt_neox" else {}
    model = getattr(zoo, request.param)(vocab_size=tokenizer.vocab_size, **more)
    return folders.write_folder(tmp_path_factory.mktemp(request.param), model, tokenizer)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return hf.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def ours(folder: Path) -> LanguageModel:
    model = load_pretrained(folder)
    assert isinstance(model, LanguageModel)
    return model


@pytest.fixture
def file(tmp_path: Path) -> FileTexts:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in SENTENCES))
    return FileTexts(path=str(path))


@torch.inference_mode()
def documented_loop(model: Any, ids: list[int], longest: int, stride: int) -> float:
    """Returns the mean loss as computed in https://huggingface.co/docs/transformers/perplexity."""
    nats, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + longest, len(ids))
        tokens = torch.tensor([ids[begin:end]])
        labels = tokens.clone()
        labels[:, : -(end - before)] = -100
        valid = int((labels[:, 1:] != -100).sum())
        if valid:
            nats += float(model(tokens, labels=labels).loss) * valid
            count += valid
        before = end
        if end == len(ids):
            break
    return nats / count


class TestWindows:
    @pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 5), (10, 1), (9, 8), (2, 2)])
    def test_as_hugging_face_slides_them(
        self, ours: LanguageModel, theirs: Any, file: FileTexts, window: int, stride: int
    ) -> None:
        text = Windows(source=file, join="\n\n", window=window, stride=stride)
        ids = ours.tokenizer.encode("\n\n".join(SENTENCES))
        expected = documented_loop(theirs, ids, window, stride)
        found = text.score(ours, nothing)
        assert found["loss"] == pytest.approx(expected, abs=2e-5)
        assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)

    @pytest.mark.parametrize("window", [3, 8, 64])
    def test_any_length_of_the_rest(self, ours: LanguageModel, theirs: Any, window: int) -> None:
        """Any remainder in the last window, including a single token without context."""
        words = SENTENCES[0].split()
        for count in range(2, 9):
            text = Windows(source=FileTexts(path="x"), join="", window=window, stride=window)
            text.__dict__["texts"] = [" ".join(words[:count])]
            ids = ours.tokenizer.encode(" ".join(words[:count]))
            if window <= ours.module.max_length:
                expected = documented_loop(theirs, ids, window, window)
                assert text.score(ours, nothing)["loss"] == pytest.approx(expected, abs=2e-5)
            else:
                with pytest.raises(RequestError, match="a window of at most"):
                    text.score(ours, nothing)

    def test_words_of_documents_after_an_end_of_text(
        self, ours: LanguageModel, theirs: Any, file: FileTexts
    ) -> None:
        """As in lm-evaluation-harness: each token once, in windows of the maximum length."""
        text = Windows(source=file, join=" \n ", begin=True, per="word", clean="wikitext")
        end, longest = ours.tokenizer.end_of_text, ours.module.max_length
        whole = " \n ".join(SENTENCES)
        ids = [end, *ours.tokenizer.encode(whole.replace(" \n ", "\n"))]
        nats = 0.0
        with torch.inference_mode():
            for begin in range(0, len(ids) - 1, longest):
                part = torch.tensor(ids[begin : begin + longest + 1])
                logits = theirs(part[None, :-1]).logits[0].double().log_softmax(-1)
                nats -= float(logits[torch.arange(len(part) - 1), part[1:]].sum())
        words = len(re.split(r"\s+", whole))
        found = text.score(ours, nothing)
        assert found["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-4)

    def test_documents_have_an_end_after_each(self, ours: LanguageModel, file: FileTexts) -> None:
        end = ours.tokenizer.end_of_text
        expected = [token for line in SENTENCES for token in [*ours.tokenizer.encode(line), end]]
        text = Windows(source=file)
        assert text.ids(ours, None) == expected
        shuffled = text.ids(ours, 1)
        assert sorted(shuffled) == sorted(expected) != shuffled
        assert shuffled == text.ids(ours, 1) != text.ids(ours, 2)

    def test_what_cannot_be(self, file: FileTexts) -> None:
        with pytest.raises(InvalidArguments, match="window"):
            Windows(source=file, window=1)
        with pytest.raises(InvalidArguments, match="stride"):
            Windows(source=file, window=8, stride=9)


@torch.inference_mode()
def last_words(model: Any, tokenizer: Any, longest: int) -> tuple[float, float]:
    """Computes LAMBADA's accuracy and perplexity token by token."""
    nats, right = 0.0, 0
    for text in SENTENCES:
        before, word = text.rsplit(" ", 1)
        context = tokenizer.encode(before)
        whole = tokenizer.encode(f"{before} {word}")
        known = True
        for place in range(len(context), len(whole)):
            first = max(0, len(whole) - 1 - longest)
            logits = model(torch.tensor([whole[first:place]])).logits[0, -1].double()
            nats -= float(logits.log_softmax(-1)[whole[place]])
            known &= int(logits.argmax()) == whole[place]
        right += known
    return right / len(SENTENCES), math.exp(nats / len(SENTENCES))


class TestLastWords:
    def test_as_a_plain_loop_says(self, ours: LanguageModel, theirs: Any, file: FileTexts) -> None:
        text = LastWords(source=file)
        accuracy, perplexity = last_words(theirs, ours.tokenizer, ours.module.max_length)
        found = text.score(ours, nothing)
        assert found["accuracy"] == accuracy
        assert found["perplexity"] == pytest.approx(perplexity, rel=1e-4)
        other = text.score(ours, nothing, 1)
        assert other["perplexity"] != pytest.approx(perplexity, rel=1e-4)
        assert other == text.score(ours, nothing, 1)

    def test_a_model_that_knows_the_word(self, ours: LanguageModel, tmp_path: Path) -> None:
        """Uses the model's own continuation as the text's last word, if it is one token."""
        path = tmp_path / "known.jsonl"
        known, unknown = [], []
        for before in SENTENCES:
            ids = ours.tokenizer.encode(before)
            logits = ours(ids)[-1]
            best, worst = int(logits.argmax()), int(logits.argmin())
            for rows, token in ((known, best), (unknown, worst)):
                text = ours.tokenizer.decode([*ids, token])
                whole = ours.tokenizer.encode(text)
                if text.rpartition(" ")[0] == before and whole == [*ids, token]:
                    rows.append(text)
        rows = known + unknown
        if not rows:
            pytest.skip("none of these tokens is a word")
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        found = LastWords(source=FileTexts(path=str(path))).score(ours, nothing)
        assert found["accuracy"] == len(known) / len(rows)

    def test_no_words(self, ours: LanguageModel, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("word")
        with pytest.raises(RequestError, match="two words"):
            LastWords(source=FileTexts(path=str(path))).score(ours, nothing)


def test_wikitext_without_its_spaces() -> None:
    text = (
        ' \n = Robert = \n \n He said : " a well @-@ known 1 @,@ 000 ( or so ) men \'s , " ok . \n'
    )
    expected = '\n= Robert =\n\nHe said: "a well-known 1,000 (or so) men\'s," ok.\n'
    assert released.without_wikitext_spaces(text) == expected
    assert released.without_wikitext_spaces(" = = Life = = \n") == " == Life ==\n"


def test_texts_of_files(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("one\ntwo\n")
    assert list(FileTexts(path=str(plain)).read()) == ["one\ntwo\n"]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"body": "one"}\n{"body": "two"}\n{"body": "three"}\n')
    assert list(FileTexts(path=str(rows), column="body", rows=2).read()) == ["one", "two"]
    with pytest.raises(RequestError, match="an existing file of texts"):
        list(FileTexts(path=str(tmp_path / "b.txt")).read())
    with pytest.raises(InvalidArguments, match="owner/name"):
        HubTexts(name="wikitext")


PAPER = {
    "title": "Toys", "claim": "Something", "citation": "Nobody (2000).", "tier": "weights",
    "link": "https://example.org", "cost": "seconds", "seeds": [0],
    "cells": [
        {"key": "toy/text/perplexity", "says": "it", "published": None, "read": "nowhere",
         "tolerance": {"above": 1.0}, "because": "of that", "control": "shuffled"},
    ],
}  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path, folder: Path, file: FileTexts, monkeypatch: pytest.MonkeyPatch) -> Any:
    source = {"_target_": "etude.papers.texts.FileTexts", "path": str(file.path)}
    texts = {
        "text": {"_target_": "etude.papers.released.Windows", "source": source},
        "words": {"_target_": "etude.papers.released.LastWords", "source": source},
    }

    def write(model: str) -> str:
        measure = {
            "_target_": "etude.papers.released.Released",
            "models": {"toy": model},
            "texts": texts,
        }
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({**PAPER, "measure": measure}))
        monkeypatch.setattr(claims, "paper_names", lambda *_: ["toy"])
        monkeypatch.setattr(claims, "load", lambda name, *_: claims.read(path))
        return "toy"

    return write


def test_a_paper_of_weights_from_the_command_to_its_record(
    toy: Any, folder: Path, ours: LanguageModel, file: FileTexts, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    reproduction.reproduce(toy(str(folder)), root)
    place = root / "_papers" / "toy"
    found = json.loads((place / "result.json").read_text())["readings"]
    assert set(found) == {
        "toy/text/loss", "toy/text/perplexity", "toy/words/accuracy", "toy/words/perplexity",
    }  # fmt: skip
    scores = Windows(source=file).score(ours, nothing)
    assert found["toy/text/perplexity"]["values"] == [scores["perplexity"]]
    shuffled = Windows(source=file).score(ours, nothing, 0)
    assert found["toy/text/perplexity"]["controls"] == [shuffled["perplexity"]]
    assert (place / "figures" / "released.png").is_file()


@pytest.mark.parametrize("model", ["no/such-model-here", "missing/folder.safetensors"])
def test_weights_that_cannot_be_had_leave_nothing(
    toy: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "runs"
    with pytest.raises(RequestError, match=re.escape(model)):
        reproduction.reproduce(toy(model), root)
    assert not (root / "_papers" / "toy").exists()
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_no_decoder(tmp_path: Path, file: FileTexts) -> None:
    tokenizer = folders.framed(folders.wordpiece())
    bert = zoo.bert(hf.BertModel, vocab_size=tokenizer.vocab_size)
    folder = folders.write_folder(tmp_path / "bert", bert, tokenizer)
    measure = Released(models={"bert": str(folder)}, texts={"text": Windows(source=file)})
    with pytest.raises(RequestError, match="expected a causal language model"):
        measure.measure([0], tmp_path)


def test_what_released_refuses(file: FileTexts) -> None:
    with pytest.raises(InvalidArguments, match="texts"):
        Released(models={"a": "b"}, texts={})
    with pytest.raises(InvalidArguments, match="revisions"):
        Released(models={"a": "b"}, texts={"t": Windows(source=file)}, revisions={"c": "main"})
