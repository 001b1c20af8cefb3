"""Arguments and exit codes of the commands, except training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import etude as package
from etude.cli import runs
from etude.errors import EtudeError, Interrupted, Problem, RequestError, RunFailed, RunHeld
from etude.records.record import FORMAT, Record


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(etude, words: list[str]) -> None:
    answer = etude(*words)
    assert answer.code == 0
    for command in ("train", "generate", "runs list", "runs show", "reproduce"):
        assert f"etude {command}" in answer.out


def test_version(etude) -> None:
    answer = etude("--version")
    assert (answer.code, answer.out) == (0, f"etude {package.__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "COMMAND = 'trian': expected a command of etude (did you mean train?)"),
        (["train", "--cgf", "job"], "option = '--cgf'"),
        (["train", "--cfg"], "--cfg: expected a value after the option"),
        (["train", "modle=nano"], "modle = 'nano': expected a key of the config"),
        (["train", "model.dim"], "model.dim: expected KEY=VALUE"),
        (["train", "--cfg", "job", "modle=nano"], "did you mean model?"),
        (["train", "--config-dir", "nowhere"], "--config-dir = 'nowhere'"),
        (["train", "data=text_files", "data.path=nowhere.txt"], "data.path = 'nowhere.txt'"),
        (["train", "seed=0,1"], "to sweep over several values, add -m"),
        (["train", "seed=0,1", "modle=nano", "-m"], "did you mean model?"),
        (["train", "-m", "model/position=none,rotry"], "did you mean rotary?"),
        (["train", "-m", "run.wait=true,maybe"], "run.wait = 'maybe': expected true or false"),
        (["runs"], "arguments are required: ACTION"),
        (["runs", "list"], "--root = 'experiments': expected a folder of runs"),
        (["runs", "show"], "RUN"),
        (["runs", "show", "nano"], "experiments does not exist"),
        (["generate"], "RUN"),
        (["generate", "nano"], "experiments does not exist"),
        (["generate", "nano", "--samples", "few"], "invalid int value: 'few'"),
        (["predict", "nano"], "--text and --file: expected exactly one of them (neither is given)"),
        (["predict", "nano", "--text", "a", "--file", "b"], "one of them (both are given)"),
        (["predict", "nano", "--file", ""], "--file = '': expected the path of a file"),
        (["runs", "list", "--root", ""], "--root: expected the path of a folder"),
        (
            ["generate", "nano", "--greedy", "--top-k", "3"],
            "--top-k = 3: expected no value with greedy",
        ),
        (["reproduce", "no_such_paper"], "no_such_paper"),
    ],
)
def test_a_wrong_request_is_refused_in_a_few_lines(
    etude, tmp_path: Path, words: list[str], said: str
) -> None:
    answer = etude(*words, cwd=tmp_path)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err + answer.out
    assert len(answer.err.splitlines()) <= 4
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequestError([Problem("a", "b"), Problem("c", "d", 1)]), 2, "2 errors in the request"),
        (RunFailed("diverged: it did"), 1, "diverged: it did"),
        (RunHeld("held by process 7"), 3, "set run.wait=true to wait for it"),
        (Interrupted(2), 130, "run the same command again to continue"),
        (Interrupted(15), 143, "run the same command again to continue"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (EtudeError("something else"), 1, "something else"),
    ],
)
def test_exit_codes(
    etude, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fails(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(runs, "runs", fails)
    answer = etude("runs")
    assert answer.code == code
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_debug_shows_where_it_came_from(etude) -> None:
    with pytest.raises(RequestError):
        etude("train", "modle=nano", "--debug")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cfg", "job", "experiment=debug"], "name: debug"),
        (["experiment=debug", "--cfg", "job", "seed=7"], "seed: 7"),
        (["--cfg=job", "model.bias=true"], "bias: true"),
        (["--cfg", "job", "--package", "optimizer", "optimizer.lr=0.007"], "lr: 0.007"),
        (["--help"], "model/position"),
    ],
)
def test_questions_about_the_config(etude, tmp_path: Path, words: list[str], said: str) -> None:
    answer = etude("train", *words, cwd=tmp_path)
    assert answer.code == 0
    assert said in answer.out
    assert os.listdir(tmp_path) == []


def test_a_question_that_hydra_does_not_know(etude, capfd: pytest.CaptureFixture[str]) -> None:
    assert etude("train", "--cfg", "jbo").code == 2


def test_info_takes_what_it_is_about(etude) -> None:
    assert etude("train", "--info", "searchpath", "experiment=debug").code == 0


# -- runs, on records made by hand ------------------------------------------------------------


def fabricate(root: Path, name: str, signature: str, **changes: Any) -> None:
    """Writes a record like that of a training, without weights."""
    folder = root / name / signature
    folder.mkdir(parents=True)
    start = {"time": "2026-01-01T00:00:00", "host": "box", "source": "abc", "commit": None}
    start["versions"] = {"torch": "2.13"}
    facts = {
        "format": FORMAT,
        "name": name,
        "signature": signature + 52 * "0",
        "group": "fedcba987654",
        "label": "position=rotary",
        "status": "finished",
        "seed": 3,
        "parameters": 1234567,
        "total_steps": 20,
        "step": 20,
        "tokens": 40960,
        "seconds": 61.4,
        "data": {"fingerprint": "d" * 64},
        "tokenizer": {"fingerprint": "e" * 64, "size": 65},
        "final": {"val/loss": 1.23456},
        "best": {"metric": "val/loss", "value": 1.2, "step": 10},
        "starts": [start],
        "finished": "2026-01-01T00:00:00",
    }
    Record(folder).update(**(facts | changes))


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    root = tmp_path / "experiments"
    fabricate(root, "nano", "aaaa00000000")
    fabricate(root, "nano", "aaaa11111111", status="failed", step=7, final={}, best=None)
    fabricate(root, "other", "bbbb00000000", label="", notes="of mine", tags=["x", "y"])
    return root


def test_list_shows_every_run_in_columns(etude, registry: Path) -> None:
    answer = etude("runs", "list", cwd=registry.parent)
    head, *rows = (line.split() for line in answer.out.splitlines())
    assert answer.code == 0
    assert head == ["run", "status", "started", "duration", "step", "best", "label"]
    times = ["2026-01-01", "00:00", "1m", "01s"]  # 61.4 seconds
    best = ["1.20000", "loss"]
    run = ["nano/aaaa00000000", "finished", *times, "20/20", *best, "position=rotary"]
    assert rows[0] == run
    assert rows[1] == ["nano/aaaa11111111", "failed", *times, "7/20", "position=rotary"]
    assert len(rows) == 3


def test_list_of_one_name(etude, registry: Path) -> None:
    answer = etude("runs", "list", "other", cwd=registry.parent)
    assert [line.split()[0] for line in answer.out.splitlines()] == ["run", "other/bbbb00000000"]
    wrong = etude("runs", "list", "othr", cwd=registry.parent)
    assert (wrong.code, "did you mean other?" in wrong.err) == (2, True)


def test_an_empty_registry_says_how_to_begin(etude, tmp_path: Path) -> None:
    answer = etude("runs", "list", "--root", tmp_path)
    assert answer.code == 0
    assert "etude train experiment=debug" in answer.out


@pytest.mark.parametrize("run", ["bbbb", "other", "experiments/other/bbbb00000000"])
def test_show(etude, registry: Path, run: str) -> None:
    answer = etude("runs", "show", run, cwd=registry.parent)
    lines = answer.out.splitlines()
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line[:1] == " "}
    assert answer.code == 0
    titles = ["run", "metrics", "training", "model and data", "identity"]
    assert [line for line in lines if line[:1].strip()] == titles  # without checkpoints, no files
    assert facts["signature"] == "bbbb00000000" + 52 * "0"
    assert facts["parameters"] == "1,234,567"
    assert facts["val/loss"] == "1.23456"
    assert facts["best"] == "at step 10 (val/loss 1.2000)"
    assert facts["latest"] == "at step 20"
    assert facts["duration"] == "1m 01s"
    assert facts["label"] == "(no overrides)"
    assert (facts["tags"], facts["notes"]) == ("x, y", "of mine")
    assert "error" not in facts


def test_show_refuses_what_fits_several(etude, registry: Path) -> None:
    answer = etude("runs", "show", "aaaa", cwd=registry.parent)
    assert answer.code == 2
    assert "nano/aaaa00000000, nano/aaaa11111111" in answer.err
