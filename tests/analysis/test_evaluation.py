"""Tests of `etude evaluate` and `etude predict` on toy runs of every task."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from seqeval.metrics import classification_report
from sklearn import metrics as sk

import etude as package
from etude.config.compose import compose
from etude.data.tokenizer import Byte
from etude.errors import RequestError
from etude.records.record import Record
from etude.tasks.causal_lm import sliding_score
from etude.tasks.texts import cut_to, translation_metrics
from etude.training.run import train

Toy = Callable[..., list[str]]
Records = dict[str, Record]


@pytest.fixture(scope="module")
def records(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Records:
    root = tmp_path_factory.mktemp("runs")
    more = {
        "classification": ["data.test=0.2", "task.positive=cats", "trainer.max_steps=40"],
        "tagging": ["data.test=0.2"],
        "translation": ["data.test=0.1"],
        "masked_lm": [],
        "span_denoising": [],
        "instruction": [],
    }
    return {kind: train(compose(toy(kind, root, *words))).record for kind, words in more.items()}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def evaluated(etude: Callable, record: Record, *words: str) -> dict[str, Any]:
    answer = etude("evaluate", record.path, "--json", *words)
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)
    return found


class TestClassification:
    def test_the_metrics_are_scikit_learns(self, records: Records, etude: Callable) -> None:
        record = records["classification"]
        found = evaluated(etude, record, "--split", "test")
        (file,) = (record.path / "predictions").glob("test-*.jsonl")
        kept = lines(file)
        labels = [each["label"] for each in kept]
        said = [each["prediction"] for each in kept]
        ours = found["metrics"]
        assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
        assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, said))
        f1 = sk.f1_score(labels, said, pos_label="cats", zero_division=0)
        assert ours["f1"] == pytest.approx(f1)
        names = Record.read(record.path).info["data"]["labels"]
        chance = [each["probabilities"] for each in kept]
        assert ours["loss"] == pytest.approx(sk.log_loss(labels, chance, labels=names), rel=1e-4)
        assert [each["right"] for each in kept] == [
            a == b for a, b in zip(labels, said, strict=True)
        ]
        assert found["confusion"]["counts"] == sk.confusion_matrix(labels, said).tolist()

    def test_validation_says_what_training_said(self, records: Records, etude: Callable) -> None:
        record = records["classification"]
        found = evaluated(etude, record)
        step = int(found["checkpoint"].removeprefix("step-"))
        (row,) = (row for row in record.rows() if row["step"] == step)
        for name in ("loss", "accuracy", "f1", "f1_macro", "mcc"):
            assert found["metrics"][name] == pytest.approx(row[f"val/{name}"], rel=1e-5), name

    def test_slices(self, records: Records, etude: Callable) -> None:
        record = records["classification"]
        found = evaluated(etude, record, "--split", "test", "--by", "long")
        assert set(found["slices"]) == {"True", "False"}
        total = sum(each["examples"] for each in found["slices"].values())
        right = sum(each["examples"] * each["accuracy"] for each in found["slices"].values())
        assert right / total == pytest.approx(found["metrics"]["accuracy"])
        answer = etude("evaluate", record.path, "--by", "lng")
        assert answer.code == 2
        assert "did you mean long?" in answer.err

    def test_a_column_of_the_split_alone(self, toy: Toy, etude: Callable, tmp_path: Path) -> None:
        words = toy("classification", tmp_path)
        path = Path(next(w for w in words if w.startswith("data.path=")).partition("=")[2])
        rows = [{**row, "odd": n % 2} for n, row in enumerate(lines(path)[:20])]
        test = tmp_path / "test.jsonl"
        test.write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = train(compose([*words, f"data.test={test}"])).record
        found = evaluated(etude, record, "--split", "test", "--by", "odd")
        assert {name: each["examples"] for name, each in found["slices"].items()} == {
            "0": 10,
            "1": 10,
        }

    def test_options_of_running_text_are_refused(self, records: Records, etude: Callable) -> None:
        answer = etude("evaluate", records["classification"].path, "--stride", "4")
        assert answer.code == 2
        assert "--stride = 4: expected no value" in answer.err
        for words in (["--beams", "2"], ["--length-penalty", "1"], ["--sequence-length", "8"]):
            answer = etude("evaluate", records["classification"].path, *words)
            assert answer.code == 2, words
            assert f"{words[0]} = {words[1]}" in answer.err

    def test_json_is_all_of_the_output_whatever_is_logged(
        self, records: Records, etude: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def logging_one(path: Path) -> None:
            logging.getLogger("etude.data").info("a message")

        monkeypatch.setattr("etude.analysis.scoring.check_no_links", logging_one)
        answer = etude("evaluate", records["classification"].path, "--json")
        assert "a message" in answer.err
        assert len(json.loads(answer.out)) == 1

    def test_rows_that_are_not_scored_and_texts_that_are_cut_are_reported(
        self, records: Records, etude: Callable, tmp_path: Path
    ) -> None:
        file = tmp_path / "odd.jsonl"
        texts = ["cats", "", "cats " * 500, "  ", None]
        rows = [{"text": text, "label": "cats"} for text in texts]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = records["classification"]
        answer = etude("evaluate", record.path, "--data", str(file))
        assert "3 of 5 rows have no text and are not scored" in answer.err
        assert "1 text is longer than data.sequence_length" in answer.err
        assert answer.out.splitlines()[0].endswith(", 2 rows")
        found = evaluated(etude, record, "--data", str(file))
        assert (found["rows"], found["rows_without_text"]) == (2, 3)
        answer = etude("predict", record.path, "--text", texts[2])
        assert "1 text is longer than data.sequence_length" in answer.err

    def test_other_files(self, records: Records, etude: Callable, tmp_path: Path) -> None:
        file = tmp_path / "more.jsonl"
        rows = [{"text": "cats and dogs", "label": "cats"}, {"text": "the fox", "label": "none"}]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = records["classification"]
        found = evaluated(etude, record, "--data", str(file))
        assert found["on"] == str(file)
        twin = tmp_path / "other" / "more.jsonl"
        twin.parent.mkdir()
        twin.write_text(file.read_text())
        assert evaluated(etude, record, "--data", str(twin))["files"][0] != found["files"][0]
        test = tmp_path / "test"  # a file, not the split
        test.mkdir()
        (test / "rows.jsonl").write_text(file.read_text())
        before = evaluated(etude, record, "--split", "test")
        told = evaluated(etude, record, "--data", str(test))
        assert not set(told["files"]) & set(before["files"])
        odd = tmp_path / f"{'語' * 80}.jsonl"
        odd.write_text(file.read_text())
        assert evaluated(etude, record, "--data", str(odd))["metrics"] == found["metrics"]
        assert sum(map(sum, found["confusion"]["counts"])) == 2
        file.write_text(json.dumps({"text": "cats", "label": "bird"}) + "\n")
        assert etude("evaluate", record.path, "--data", str(file)).code == 2

    def test_quotation_marks_of_other_files(
        self, records: Records, etude: Callable, tmp_path: Path
    ) -> None:
        file = tmp_path / "more.tsv"
        file.write_text('text\tlabel\ncats and dogs\t"cats"\nthe fox\t"none"\n')
        record = records["classification"]
        answer = etude("evaluate", record.path, "--data", file)
        assert (
            answer.code,
            "in etude evaluate and etude predict, set --quoting instead" in answer.err,
        ) == (2, True)
        found = evaluated(etude, record, "--data", str(file), "--quoting", "csv")
        assert sum(map(sum, found["confusion"]["counts"])) == 2
        answer = etude("evaluate", record.path, "--data", file, "--quoting", "none")
        assert (answer.code, "expected one of the run's labels" in answer.err) == (2, True)
        answer = etude("evaluate", record.path, "--quoting", "csv")
        assert (answer.code, "--quoting = 'csv': expected no value" in answer.err) == (2, True)

    def test_figures_and_a_log_of_who_looked(self, records: Records, etude: Callable) -> None:
        record = records["classification"]
        before = len(list((record.path / "evaluations").glob("log.jsonl")))
        found = evaluated(etude, record, "--split", "test")
        for file in found["files"]:
            assert Path(file).is_file()
            assert Path(file).stat().st_size > 0
        assert any("calibration" in file for file in found["files"])
        assert any("confusion" in file for file in found["files"])
        log = lines(record.path / "evaluations" / "log.jsonl")
        assert len(log) > before
        assert log[-1]["on"] == "test"

    def test_predictions(self, records: Records, etude: Callable, tmp_path: Path) -> None:
        record = records["classification"]
        texts = ["cats ran", "the quick fox"]
        answer = etude("predict", record.path, *(w for t in texts for w in ("--text", t)))
        assert answer.code == 0, answer.err
        rows = [line.split("\t") for line in answer.out.splitlines()]
        assert [row[2] for row in rows] == texts
        assert all(row[0] in ("cats", "none") for row in rows)
        model = package.load_run(record.path).model()
        ids = torch.tensor(model.tokenizer.framed(texts[:1]))
        expected = model.module(ids).double().softmax(-1)[0].max().item()
        assert float(rows[0][1]) == pytest.approx(expected, abs=6e-4)
        run = package.load_run(record.path)
        assert run.predict(texts[0]) == run.predict(texts[:1]) == run.predict(iter(texts[:1]))
        for wrong, message in (([], "texts: expected at least one"), ([1], r"texts = \[1\]")):
            with pytest.raises(RequestError, match=message):
                run.predict(wrong)
        empty = tmp_path / "empty.txt"
        empty.write_text("")
        refused = etude("predict", record.path, "--file", empty)
        assert (refused.code, "--file: expected at least one" in refused.err) == (2, True)
        in_python = run.predict(texts)
        assert [each["label"] for each in in_python] == [row[0] for row in rows]
        file = tmp_path / "rows.csv"
        file.write_text("text,id\ncats ran,1\nthe quick fox,2\n")
        again = etude("predict", record.path, "--file", file)
        assert again.out == answer.out


def test_two_classifiers_by_mcnemar(toy: Toy, etude: Callable, tmp_path: Path) -> None:
    """The exact test on the rows that only one of the classifiers gets right."""
    from scipy.stats import binomtest

    words = toy("classification", tmp_path, "data.validation=0.4", "trainer.max_steps=30")
    for lr in ("1e-5", "3e-2"):
        train(compose([*words, f"optimizer.lr={lr}"]))
    runs = package.runs(tmp_path)
    answer = etude("runs", "significance", *(run.path for run in runs), "--json")
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)["others"]
    kept = [lines(next((run.path / "predictions").glob("val-*.jsonl"))) for run in runs]
    pairs = [(a["right"], b["right"]) for a, b in zip(*kept, strict=True)]
    won, lost = (sum(pair == which for pair in pairs) for which in ((False, True), (True, False)))
    assert won + lost > 5
    assert found["mcnemar"] == pytest.approx(binomtest(won, won + lost).pvalue)
    assert found["difference"] == pytest.approx((won - lost) / len(pairs))
    shown = etude("runs", "significance", *(run.path for run in runs))
    assert "p (McNemar)" in shown.out


class TestTagging:
    def test_words_of_validation(self, records: Records, etude: Callable) -> None:
        record = records["tagging"]
        found = evaluated(etude, record)
        step = int(found["checkpoint"].removeprefix("step-"))
        (row,) = (row for row in record.rows() if row["step"] == step)
        assert found["metrics"]["accuracy"] == pytest.approx(row["val/accuracy"])
        assert found["metrics"]["words_cut_off"] == 0

    def test_predictions(self, records: Records, etude: Callable) -> None:
        answer = etude("predict", records["tagging"].path, "--text", "the quick fox")
        assert answer.code == 0, answer.err
        words = [pair.split("/")[0] for pair in answer.out.split()]
        assert words == ["the", "quick", "fox"]

    def test_files_of_its_own_kinds(
        self, records: Records, etude: Callable, tmp_path: Path
    ) -> None:
        path = records["tagging"].path
        answer = etude("predict", path, "--text", "the quick fox", "--text", "cats ran")
        rows, conllu = tmp_path / "rows.jsonl", tmp_path / "some.conllu"
        sentences = [["the", "quick", "fox"], ["cats", "ran"]]
        rows.write_text("".join(json.dumps({"words": words}) + "\n" for words in sentences))
        columns = "\t_" * 8
        conllu.write_text(
            "\n\n".join(
                "\n".join(f"{n}\t{word}{columns}" for n, word in enumerate(words, 1))
                for words in sentences
            )
            + "\n"
        )
        conll = tmp_path / "some.conll"
        conll.write_text("\n\n".join("\n".join(f"{w} X" for w in words) for words in sentences))
        for file in (rows, conllu, conll):
            found = etude("predict", path, "--file", file)
            assert found.code == 0, found.err
            assert found.out == answer.out

    def test_slices_by_a_column_of_rows(
        self, records: Records, etude: Callable, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        rows = [{"words": ["cats", "ran"], "tags": ["C", "R"], "kind": n % 2} for n in range(6)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = evaluated(etude, records["tagging"], "--data", str(file), "--by", "kind")
        assert {name: each["examples"] for name, each in found["slices"].items()} == {
            "0": 3,
            "1": 3,
        }

    def test_kinds_of_spans_are_seqevals(self, toy: Toy, etude: Callable, tmp_path: Path) -> None:
        draw, file = random.Random(3), tmp_path / "spans.conll"
        tags = {"cats": ["B-PET"], "ran": ["I-PET", "O"], "fox": ["B-WILD", "B-PET"]}
        tags |= {"the": ["B-WORD"]}
        sentences = [draw.choices([*tags, "quick", "dogs"], k=6) for _ in range(120)]
        written = (
            "".join(f"{word} {draw.choice(tags.get(word, ['O']))}\n" for word in words)
            for words in sentences
        )
        file.write_text("\n".join(written))
        words = toy("tagging", tmp_path, "optimizer.lr=0.03", "trainer.max_steps=30")
        words.append("data.sequence_length=5")  # truncates sentences, and spans with them
        record = train(compose([*words, f"data.path={file}"])).record
        found = evaluated(etude, record)
        step = int(found["checkpoint"].removeprefix("step-"))
        (row,) = (row for row in record.rows() if row["step"] == step)
        for name in ("precision", "recall", "f1"):
            assert found["metrics"][name] == pytest.approx(row[f"val/{name}"])
        kept = lines(next((record.path / "predictions").glob("val-*.jsonl")))
        labels, said = ([each[key] for each in kept] for key in ("label", "prediction"))
        assert labels != said
        report = classification_report(labels, said, output_dict=True, zero_division=0)
        assert [each["label"] for each in found["spans"]] == ["PET", "WILD", "WORD"]
        for each in found["spans"]:
            theirs = report[each["label"]]
            assert each["f1"] == pytest.approx(theirs["f1-score"])
            assert each["recall"] == pytest.approx(theirs["recall"])
            assert each["precision"] == pytest.approx(theirs["precision"])
            assert each["support"] == theirs["support"]
        assert any(0 < each["f1"] < 1 for each in found["spans"])
        assert "WILD " in etude("evaluate", record.path).out

    def test_a_word_without_tokens_shifts_no_tag(
        self, records: Records, etude: Callable, tmp_path: Path
    ) -> None:
        path = records["tagging"].path
        texts = ["the quick fox", "\u200b the quick fox"]
        plain, other = (
            json.loads(etude("predict", path, "--text", text, "--json").out) for text in texts
        )
        assert other["words"] == ["\u200b", *plain["words"]]
        assert len(other["tags"]) == 4


class TestTranslation:
    def test_the_metrics_are_sacrebleus(self, records: Records, etude: Callable) -> None:
        record = records["translation"]
        found = evaluated(etude, record, "--split", "test", "--beams", "2")
        (file,) = (record.path / "predictions").glob("test-*.jsonl")
        kept = lines(file)
        said, targets = ([each[key] for each in kept] for key in ("prediction", "label"))
        assert found["metrics"]["bleu"] == sacrebleu.corpus_bleu(said, [targets]).score
        assert found["metrics"]["chrf"] == sacrebleu.corpus_chrf(said, [targets]).score

    def test_chinese_is_cut_by_characters(self) -> None:
        said, targets = ["无法 读取文件"], ["无法读取该文件"]
        ours = translation_metrics(said, targets)
        assert ours["bleu"] == sacrebleu.corpus_bleu(said, [targets], tokenize="zh").score

    def test_predictions_in_their_order(self, records: Records, etude: Callable) -> None:
        record = records["translation"]
        texts = ["the fox", "cats and dogs ran over the lazy fox", "dogs"]
        words = [w for t in texts for w in ("--text", t)]
        together = etude("predict", record.path, *words, "--json")
        assert together.code == 0, together.err
        found = [json.loads(line) for line in together.out.splitlines()]
        assert [each["source"] for each in found] == texts
        for each in found:
            alone = etude("predict", record.path, "--text", each["source"], "--json")
            assert json.loads(alone.out)["target"] == each["target"]


class TestInstruction:
    def test_answers_are_scored(self, records: Records, etude: Callable) -> None:
        record = records["instruction"]
        found = evaluated(etude, record)
        step = int(found["checkpoint"].removeprefix("step-"))
        (row,) = (row for row in record.rows() if row["step"] == step)
        assert found["metrics"]["loss"] == pytest.approx(row["val/loss"], rel=1e-5)
        (file,) = (record.path / "predictions").glob("val-*.jsonl")
        said, targets = ([each[key] for each in lines(file)] for key in ("prediction", "label"))
        assert found["metrics"]["chrf"] == sacrebleu.corpus_chrf(said, [targets]).score
        assert ", line " in lines(file)[0]["where"]

    def test_the_template_is_put_around(self, records: Records, etude: Callable) -> None:
        record = records["instruction"]
        evaluated(etude, record)
        (file,) = (record.path / "predictions").glob("val-*.jsonl")
        run = package.load_run(record.path)
        data = run.data()
        run.prepare(data)
        rows = {row.where: data.pair(row)[0] for row in data.rows("val")}
        for each in lines(file)[:3]:
            source = rows[each["where"]]
            answer = etude("predict", record.path, "--text", source, "--json")
            assert answer.code == 0, answer.err
            assert json.loads(answer.out) == {"source": source, "target": each["prediction"]}
        model = run.model()
        ids = model.tokenizer.encode(f"{source}\n")
        (text,) = [model.answer(ids, max_new_tokens=data.sequence_length)]
        assert text.strip() == each["prediction"]


@pytest.mark.parametrize("kind", ["masked_lm", "span_denoising"])
def test_pretraining_is_scored_as_in_training(kind: str, records: Records, etude: Callable) -> None:
    record = records[kind]
    found = evaluated(etude, record)
    step = int(found["checkpoint"].removeprefix("step-"))
    (row,) = (row for row in record.rows() if row["step"] == step)
    for name in ("loss", "accuracy"):
        assert found["metrics"][name] == pytest.approx(row[f"val/{name}"], rel=1e-5)


class TestSlidingWindow:
    """Perplexity with overlapping windows, against the definition, token by token."""

    class Bigram(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = torch.nn.Embedding(7, 7, dtype=torch.double)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.table(tokens).cumsum(1)  # each position counts the tokens it attends to

    @pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (5, 2), (40, 4)])
    @pytest.mark.parametrize("tokens", [9, 30, 31, 32])
    def test_each_token_once(self, length: int, stride: int, tokens: int) -> None:
        import numpy as np

        stored = np.random.default_rng(0).integers(0, 7, tokens).astype("uint16")
        model = self.Bigram()
        found = sliding_score(model, stored, length, stride, 7)
        ids = torch.from_numpy(stored.astype("int64"))
        total = 0.0
        for target in range(1, tokens):
            # the first window whose new targets contain it
            window = 0 if target <= length else -(-(target - length) // stride)
            start = window * stride
            logits = model(ids[None, start:target])[0, -1]
            total -= float(logits.detach().log_softmax(-1)[ids[target]])
        assert found["nats"] == pytest.approx(total, rel=1e-9)
        assert found["loss"] == pytest.approx(total / (tokens - 1), rel=1e-9)
        assert found["perplexity"] == pytest.approx(math.exp(total / (tokens - 1)), rel=1e-9)


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--split", "tset"], "expected one of val, test, train"),
            (["--beams", "0"], "--beams = 0: expected a positive number"),
            (["--data", "nowhere.jsonl"], "--data"),
        ],
    )
    def test_evaluate(
        self, records: Records, etude: Callable, words: list[str], expected: str
    ) -> None:
        answer = etude("evaluate", records["classification"].path, *words)
        assert answer.code == 2
        assert expected in answer.err

    def test_a_split_that_is_not_there(self, records: Records, etude: Callable) -> None:
        answer = etude("evaluate", records["masked_lm"].path, "--split", "test")
        assert answer.code == 2
        assert "continuous text has no other" in answer.err

    def test_an_encoder_writes_nothing(self, records: Records, etude: Callable) -> None:
        answer = etude("generate", records["classification"].path, "--prompt", "a")
        assert answer.code == 2
        assert "expected a model that generates text" in answer.err
        assert "etude predict" in answer.err

    def test_predict(self, records: Records, etude: Callable) -> None:
        path = records["classification"].path
        assert "one of them" in etude("predict", path).err
        assert "a non-empty text" in etude("predict", path, "--text", " ").err
        assert (
            "--pair = 'b': expected no second text"
            in etude("predict", path, "--text", "a", "--pair", "b").err
        )
        told = etude("predict", records["masked_lm"].path, "--text", "a")
        assert told.code == 2
        assert "a run whose task makes predictions for texts" in told.err


def test_a_source_is_cut_between_characters() -> None:
    tokenizer = Byte().train([])
    assert [cut_to(tokenizer, "aé🙂", n) for n in (8, 7, 6, 3, 2)] == [
        "aé🙂",
        "aé🙂",
        "aé",
        "aé",
        "a",
    ]
