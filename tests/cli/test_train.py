"""`etude train` from overrides to the record: trained once, then reused, continued or refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from etude.records.lock import RunLock
from etude.records.metrics_file import read_rows
from older_records import as_older


@pytest.fixture(scope="module")
def overrides(tiny) -> list[str]:
    """With relative paths, so that a copy of the folder is the same run."""
    return tiny("corpus.txt", "experiments", "model/position=rotary")


@pytest.fixture(scope="module")
def trained(
    etude, overrides, write_corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """A run of ten steps: the result of the command, and the record, which must not be changed."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder / "corpus.txt")
    answer = etude("train", *overrides, cwd=folder)
    (record,) = (folder / "experiments" / "tiny").iterdir()
    return answer, record


@pytest.fixture
def copy(trained, tmp_path: Path) -> Path:
    """A copy of the record in `tmp_path`, which may be changed."""
    _, record = trained
    shutil.copytree(record.parents[2], tmp_path, dirs_exist_ok=True)
    return tmp_path / "experiments" / "tiny" / record.name


def info(record: Path) -> dict[str, Any]:
    return json.loads((record / "run.json").read_text())


def runs(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "experiments" / "tiny").iterdir())


def test_a_run_leaves_a_complete_record(trained) -> None:
    answer, record = trained
    assert answer.code == 0, answer.err
    assert "finished: 10 steps" in answer.out
    assert f"experiments/tiny/{record.name}" in answer.out
    files = {str(path.relative_to(record)) for path in record.rglob("*") if path.is_file()}
    weights = {
        f"checkpoints/step-{step:08d}/{name}"
        for step in (5, 10)
        for name in ("model.safetensors", "state.pt", "MANIFEST.json")
    }
    plain = {"config.yaml", "overrides.yaml", "run.json", "metrics.jsonl", "tokenizer.json"}
    shown = {"log.txt", "figures/loss.png", "samples/step-00000010.txt"}
    patches = {told["file"] for told in info(record)["starts"][0].get("patches", [])}
    assert files - {".lock"} == weights | plain | shown | patches  # where the checkout differs


def test_what_the_record_says(trained) -> None:
    _, record = trained
    found = info(record)
    assert found["status"] == "finished"
    assert found["signature"].startswith(record.name)
    assert (found["step"], found["total_steps"], found["tokens"]) == (10, 10, 10 * 4 * 8)
    assert found["label"].startswith("path=corpus.txt sequence_length=8")
    assert found["label"].endswith("position=rotary")
    weights = load_file(record / "checkpoints/step-00000010/model.safetensors")
    assert found["parameters"] == sum(tensor.numel() for tensor in weights.values())
    text = (record.parents[2] / "corpus.txt").read_text()
    splits = found["data"]["splits"]
    assert splits["train"]["bytes"] + splits["val"]["bytes"] == len(text)
    assert found["tokenizer"]["size"] >= len(set(text))


def test_metrics_are_rows_by_step(trained) -> None:
    _, record = trained
    rows = read_rows(record / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10]
    assert [row["tokens"] for row in rows] == [160, 320]
    for row in rows:
        assert row["val/perplexity"] == pytest.approx(math.exp(row["val/loss"]))
    assert rows[1]["val/loss"] < rows[0]["val/loss"] < math.log(info(record)["tokenizer"]["size"])
    assert info(record)["best"] == {
        "metric": "val/loss",
        "value": rows[1]["val/loss"],
        "step": 10,
    }


def test_nothing_is_written_beside_the_record_and_the_corpus(trained) -> None:
    folder = trained[1].parents[2]
    assert sorted(os.listdir(folder)) == ["corpus.txt", "experiments"]
    assert os.listdir(folder / "experiments") == ["tiny"]


def test_the_same_command_again_does_no_work(etude, trained, overrides) -> None:
    _, record = trained
    before = {path: path.stat().st_mtime_ns for path in record.rglob("*") if path.is_file()}
    more = ("data.workers=2", "run.notes=other")
    answer = etude("train", *overrides, *more, cwd=record.parents[2])
    assert answer.code == 0
    assert f"already finished: experiments/tiny/{record.name}" in answer.out
    assert "unchanged source" in answer.out
    after = {path: path.stat().st_mtime_ns for path in record.rglob("*") if path.is_file()}
    assert after == before


def test_a_moved_record_still_generates(etude, copy: Path, tmp_path: Path) -> None:
    record = copy.rename(tmp_path / "moved")
    asked = ("--prompt", "the ", "--max-new-tokens", "7", "--min-new-tokens", "7", "--seed", "3")
    first = etude("generate", record, *asked)
    assert first.code == 0, first.err
    assert first.out.startswith("the ")
    assert len(first.out) == len("the ") + 7 + len("\n")
    assert etude("generate", record, *asked).out == first.out
    assert etude("generate", record, *asked, "--samples", "2").out.count("-" * 72) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoint", "7"], "available steps: 5, 10"),
        (["--top-p", "7"], "--top-p = 7.0"),
        (["--samples", "0"], "--samples = 0"),
        (["--stream", "--samples", "2"], "--samples = 2: expected 1 with --stream"),
        (["--temprature", "1"], "unrecognized arguments: --temprature 1"),
        (["--beams", "4", "--top-k", "3"], "--top-k = 3: expected no value with beams = 4"),
        (["--length-penalty", "2"], "--length-penalty = 2.0: expected 1.0 without a beam search"),
        (["--min-p", "3", "--samples", "0"], "2 errors in the request"),
        (["--forbid", ""], "--forbid"),
        (["--prompt-file", "nowhere.txt"], "--prompt-file = 'nowhere.txt': expected a text file"),
        (
            ["--prompt-file", "corpus.txt", "--prompt", "a"],
            "--prompt = 'a': expected no value together with --prompt-file",
        ),
        (["--pretrained", "gpt2"], "--pretrained = 'gpt2': expected no value together with RUN"),
        (["--prompt", "a", "--prompt", "b", "--stream"], "--prompt = '2 prompts': expected one"),
    ],
)
def test_generate_refuses(etude, trained, words: list[str], said: str) -> None:
    _, record = trained
    answer = etude("generate", record, *words)
    assert answer.code == 2
    assert said in answer.err


def test_every_prompt_is_continued(etude, trained) -> None:
    words = ["--prompt", "the ", "--prompt", "and ", "--max-new-tokens", "5", "--seed", "1"]
    answer = etude("generate", trained[1], *words)
    assert answer.code == 0, answer.err
    texts = answer.out.split("\n" + "-" * 72 + "\n")
    assert [text[:4] for text in texts] == ["the ", "and "]


def test_generate_with_everything(etude, trained, tmp_path: Path) -> None:
    _, record = trained
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the \nand \n")
    kept_out = ["--forbid", "the", "--forbid", "and", "--repetition-penalty", "1.1"]
    kept_out += ["--no-repeat-ngram", "4", "--max-new-tokens", "12", "--stop", "\n"]
    searched = ["--beams", "4", "--samples", "2", "--length-penalty", "0.6"]
    for way in (searched, ["--min-p", "0.1", "--seed", "2", "--samples", "2"]):
        answer = etude("generate", record, "--prompt-file", prompts, *kept_out, *way)
        assert answer.code == 0, answer.err
        texts = answer.out.rstrip("\n").split("\n" + "-" * 72 + "\n")
        assert [text[:4] for text in texts] == ["the ", "the ", "and ", "and "]
        assert not any("the" in text[4:].split() for text in texts)


def test_generate_from_released_weights(etude, trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares the command with the model of `load_pretrained`."""
    import etude as package
    from etude.api import load_run

    asked = []

    def load(source: str) -> Any:
        asked.append(source)
        return load_run(trained[1]).model() if source == "gpt2" else SimpleNamespace(writes=False)

    monkeypatch.setattr(package, "load_pretrained", load, raising=False)
    words = ["--prompt", "the ", "--max-new-tokens", "5", "--samples", "3", "--seed", "0"]
    answer = etude("generate", "--pretrained", "gpt2", *words)
    assert answer.code == 0, answer.err
    assert answer.out.count("the ") >= 3
    assert asked == ["gpt2"]
    answer = etude("generate", "--pretrained", "bert", *words)
    assert answer.code == 2
    assert "--pretrained = 'bert': expected a model that generates text" in answer.err


def test_generate_from_a_damaged_checkpoint(etude, copy: Path) -> None:
    weights = copy / "checkpoints/step-00000010/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    answer = etude("generate", copy)
    assert answer.code == 2
    assert f"{weights} = " in answer.err
    assert etude("generate", copy, "--checkpoint", "5").code == 0


# -- run.on_existing --------------------------------------------------------------------------


def test_error_refuses_what_is_there(etude, copy: Path, overrides, tmp_path: Path) -> None:
    answer = etude("train", *overrides, "run.on_existing=error", cwd=tmp_path)
    assert answer.code == 2
    assert f"experiments/tiny/{copy.name}, finished" in answer.err
    assert runs(tmp_path) == [copy.name]


def test_again_keeps_the_old_record_beside_the_new(
    etude, copy: Path, overrides, tmp_path: Path
) -> None:
    old = (copy / "run.json").read_text()
    assert etude("train", *overrides, "run.on_existing=again", cwd=tmp_path).code == 0
    assert runs(tmp_path) == [copy.name, f"{copy.name}~2"]
    assert (copy / "run.json").read_text() == old
    new = copy.with_name(f"{copy.name}~2")
    assert info(new)["signature"] == info(copy)["signature"]
    weights = [load_file(p / "checkpoints/step-00000010/model.safetensors") for p in (copy, new)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    reused = etude("train", *overrides, cwd=tmp_path)
    assert f"already finished: experiments/tiny/{new.name}" in reused.out


def test_a_changed_corpus_is_refused_with_both_fingerprints(
    etude, copy: Path, overrides, tmp_path: Path, write_corpus: Callable[..., Path]
) -> None:
    before = (copy / "run.json").read_text()
    content = write_corpus(tmp_path / "corpus.txt", seed=1).read_bytes()
    new = hashlib.sha256(hashlib.sha256(content).digest()).hexdigest()
    answer = etude("train", *overrides, cwd=tmp_path)
    assert answer.code == 2
    assert info(copy)["data"]["fingerprint"] in answer.err
    assert new in answer.err
    assert "set run.on_existing=again to train again" in answer.err
    assert (copy / "run.json").read_text() == before


def test_what_is_held_by_another_is_left_alone(
    etude, copy: Path, overrides, tmp_path: Path
) -> None:
    """The status is `running`, and another process holds the lock."""
    as_older(copy)  # without hashes: what is edited by hand is not refused
    facts = info(copy) | {"status": "running"}
    (copy / "run.json").write_text(json.dumps(facts))
    lock = RunLock(copy)
    lock.acquire()
    answer = etude("train", *overrides, cwd=tmp_path)
    assert answer.code == 3
    assert f"locked by process {os.getpid()}" in answer.err
    assert "running" in etude("runs", "list", cwd=tmp_path).out
    lock.release()
    assert "interrupted" in etude("runs", "list", cwd=tmp_path).out


# -- runs that end otherwise ------------------------------------------------------------------


def test_a_run_that_diverges_says_at_which_step(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    wild = ["optimizer.lr=1e9", "trainer.gradient_clip_val=null", "schedule.warmup_steps=0"]
    overrides = tiny("corpus.txt", "experiments", *wild)
    answer = etude("train", *overrides, cwd=tmp_path)
    (record,) = (tmp_path / "experiments" / "tiny").iterdir()
    facts = info(record)
    step = facts["diverged"]["step"]
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert f"is nan at step {step}" in answer.err
    assert facts["status"] == "diverged"
    assert 1 < step <= 5
    for checkpoint in (record / "checkpoints").iterdir():
        weights = load_file(checkpoint / "model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())
    before = (record / "log.txt").read_text()
    again = etude("train", *overrides, cwd=tmp_path)
    assert again.code == 1
    assert f"already diverged at step {step}" in again.err
    assert (record / "log.txt").read_text() == before
    assert runs(tmp_path) == [record.name]


def test_a_run_that_pauses_goes_on_to_the_same_end(
    etude, trained, overrides, tmp_path: Path
) -> None:
    _, whole = trained
    shutil.copy(whole.parents[2] / "corpus.txt", tmp_path)
    paused = etude("train", *overrides, "run.stop_at_step=7", cwd=tmp_path)
    record = tmp_path / "experiments" / "tiny" / whole.name
    assert (paused.code, info(record)["status"]) == (0, "paused")
    assert "paused at step 7 of 10" in paused.out
    assert "finished" not in paused.out
    resumed = etude("train", *overrides, cwd=tmp_path)
    assert "continues from step 7 of 10" in resumed.out
    assert (resumed.code, info(record)["status"]) == (0, "finished")
    assert [start["step"] for start in info(record)["starts"]] == [0, 7]
    expected = load_file(whole / "checkpoints/step-00000010/model.safetensors")
    found = load_file(record / "checkpoints/step-00000010/model.safetensors")
    assert all((found[name] == expected[name]).all() for name in expected)


STOPPING = [
    "trainer.max_steps=60",
    "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping",
    "callbacks.stop.monitor=val/loss",
    "callbacks.stop.patience=2",
    "callbacks.stop.min_delta=10",  # nothing is such an improvement
]


def test_early_stopping_ends_a_run_also_when_it_was_paused(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    """Validated at steps 5, 10 and 15; the second one without improvement is at 15."""
    ends = []
    for root, pauses in (("whole", []), ("paused", ["run.stop_at_step=12"])):
        overrides = tiny("corpus.txt", root, *STOPPING)
        for pause in pauses:
            assert etude("train", *overrides, pause, cwd=tmp_path).code == 0
        answer = etude("train", *overrides, cwd=tmp_path)
        assert answer.code == 0, answer.err
        (record,) = (tmp_path / root / "tiny").iterdir()
        facts = info(record)
        assert (facts["status"], facts["step"]) == ("finished", 15)
        assert [row["step"] for row in read_rows(record / "metrics.jsonl")] == [5, 10, 15]
        assert "already finished" in etude("train", *overrides, cwd=tmp_path).out
        ends.append(load_file(record / "checkpoints/step-00000015/model.safetensors"))
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_a_callback_that_watches_what_is_not_there_is_refused(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    overrides = tiny("corpus.txt", "experiments", *STOPPING, "callbacks.stop.monitor=val/los")
    answer = etude("train", *overrides, cwd=tmp_path)
    assert answer.code == 2
    assert "callbacks.stop.monitor = 'val/los': expected a metric of CausalLM" in answer.err
    assert "did you mean val/loss?" in answer.err
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.sequence_length=8", "model.max_length=4"], "data.sequence_length = 8: expected at"),
        (["model.vocab_size=5"], "model.vocab_size = 5: expected at least the tokenizer's"),
        (["data.batch.tokens=64"], "data.batch"),
        (["trainer.devices=0"], "trainer"),
        (["trainer.max_epochs=1"], "exactly one of max_steps and max_epochs"),
        (["run.root=corpus.txt/x"], "run.root"),
        (["model.heads=3"], "model.heads"),
        (["data.sequence_length=100000"], "data"),
    ],
)
def test_what_is_refused_late_leaves_no_folder_either(
    etude, corpus: Path, tiny, tmp_path: Path, more: list[str], said: str
) -> None:
    answer = etude("train", *tiny("corpus.txt", "experiments", *more), cwd=tmp_path)
    assert answer.code == 2, answer.out
    assert said in answer.err
    assert "Traceback" not in answer.err
    left = [path for path in (tmp_path / "experiments").rglob("*") if path.is_file()]
    assert left == []


def test_the_list_of_runs_is_named_with_its_root(
    etude: Any, tiny: Any, corpus: Path, tmp_path: Path
) -> None:
    answer = etude("train", *tiny(corpus, "-my runs"), cwd=tmp_path)
    assert "generate    etude generate './-my runs/tiny/" in answer.out
    assert "list runs   etude runs list --root './-my runs'" in answer.out
    answer = etude("train", *tiny(corpus, "experiments"), cwd=tmp_path)
    assert answer.out.endswith("list runs   etude runs list\n")


@pytest.fixture(scope="module")
def classified(etude, toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run that monitors the F1 of a class: the output, in 50 columns, and the record."""
    folder = tmp_path_factory.mktemp("classified")
    task = ["task.positive=cats", "task.monitor=val/f1", "optimizer.lr=0.03"]
    more = ["trainer.max_steps=60", "trainer.val_check_interval=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "50")
        answer = etude("train", *toy("classification", folder, *task, *more), cwd=folder)
    assert answer.code == 0, answer.err
    (record,) = (folder / "classification").iterdir()
    return answer.out, record


def test_the_summary_names_the_best_step_and_its_metric(classified) -> None:
    out, record = classified
    validated = [row for row in read_rows(record / "metrics.jsonl") if "val/f1" in row]
    best = max(row["val/f1"] for row in validated)
    step = next(row["step"] for row in validated if row["val/f1"] == best)
    told = f"best at step {step} (val/f1 {best:.4f})"
    head, *summary = out[out.index("finished: 60 steps in ") :].splitlines()
    assert head.endswith(f"s, {told}")
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert len(lines) == len(validated)
    for line, row in zip(lines, validated, strict=True):
        assert f"val/f1 {row['val/f1']:.4f}" in line
        assert (told in line) is (row["step"] > step)
    end = next(number for number, line in enumerate(summary) if "run folder" in line)
    assert max(map(len, summary[: end - 1])) <= 50
    table = " ".join(line for line in summary[:end] if line.startswith("  val/")).split()
    expected = {key: f"{value:.4f}" for key, value in validated[-1].items() if key[:4] == "val/"}
    assert dict(zip(table[::2], table[1::2], strict=True)) == expected


def test_the_positive_class_is_named(etude, classified) -> None:
    out, record = classified
    note = "precision, recall and f1 are those of the class 'cats'"
    answers = [etude(*words, record).out for words in (["evaluate"], ["runs", "show"])]
    assert [text.count(note) for text in (out, *answers)] == [1, 1, 1]


def test_evaluate_prints_the_scores_of_both_classes(etude, classified) -> None:
    _, record = classified
    (result,) = json.loads(etude("evaluate", record, "--json").out)
    lines = etude("evaluate", record).out.splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("label ")) :]
    assert len(result["classes"]) == 2
    for row, line in zip(result["classes"], table[1:], strict=False):
        scores = [f"{row[name]:.4f}" for name in ("precision", "recall", "f1")]
        assert line.split() == [row["label"], *scores, f"{row['support']:.0f}"]


def test_a_finished_run_says_that_it_keeps_its_tags(etude, toy, tmp_path: Path) -> None:
    command = toy("classification", tmp_path, "run.tags=[a]")
    assert etude("train", *command, cwd=tmp_path).code == 0
    assert "is ignored" not in etude("train", *command, cwd=tmp_path).out
    answer = etude("train", *command, "run.tags=[b]", "run.notes=x", cwd=tmp_path)
    assert "run.tags=['b'] is ignored: a finished run keeps its tags" in answer.out + answer.err
    assert "run.notes=x is ignored: a finished run keeps its notes" in answer.out + answer.err


def test_a_step_larger_than_the_data_is_reported(etude, toy, tmp_path: Path) -> None:
    command = toy("classification", tmp_path, "data.batch.examples=5000", "trainer.max_steps=1")
    answer = etude("train", *command, cwd=tmp_path)
    assert "data.batch: a step of 5,000 examples is larger than the training data" in (
        answer.out + answer.err
    )


def test_columns_of_metrics_begin_with_those_that_matter(classified) -> None:
    from etude.api import load_run

    _, record = classified
    frame = load_run(record).metrics
    assert list(frame.columns[:5]) == ["step", "tokens", "train/loss", "val/f1", "val/loss"]
    assert frame.columns[-1] == "time"
    rows = read_rows(record / "metrics.jsonl")
    assert [{k: v for k, v in row.items() if v == v} for row in frame.to_dict("records")] == rows


@pytest.mark.parametrize("kind", ["classification", "question_answering", "instruction"])
def test_the_next_commands_work(etude, toy, tmp_path: Path, kind: str) -> None:
    out = etude("train", *toy(kind, tmp_path / "runs"), cwd=tmp_path).out
    commands = [line.split(maxsplit=1)[1] for line in out.splitlines() if "  etude " in line]
    action = "generate" if kind == "instruction" else "predict"
    assert [shlex.split(command)[1] for command in commands[:2]] == [action, "evaluate"]
    for command in commands:
        words = shlex.split(command[command.index("etude ") :])
        assert etude(*words[1:], cwd=tmp_path).code == 0, command
