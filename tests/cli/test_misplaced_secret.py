"""A secret in an unexpected position is neither shown nor saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

KEY = "7f3c0ffee4d2b1980c5a6e7f3d91b2c4a8e0f6d5"
PASSWORD = "hunter2-and-more"
TAKEN = "taken-5cc5b3b0a1"


def leaks(folder: Path, *outputs: str) -> list[str]:
    """Returns where one of the secrets, or a long part of one, occurs."""
    found = []
    for secret in (KEY, PASSWORD, TAKEN):
        parts = (secret[:10], secret[-10:])
        found += [f"output {secret}" for text in outputs if any(part in text for part in parts)]
        for path in (path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            found += [f"{path} {secret}" for part in parts if part.encode() in data]
    return found


@pytest.fixture
def call(etude: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`call("train", ...)` in an environment with secrets."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("SOME_NOTE", TAKEN)
    monkeypatch.chdir(tmp_path)
    return lambda *words: etude(*words, cwd=tmp_path)


WRONG = [
    "optimizer.lr=${oc.env:WANDB_API_KEY}",
    "seed=${oc.env:WANDB_API_KEY}",
    "seed=${oc.env:SOME_NOTE}",
    "trainer.max_steps=${oc.env:SOME_NOTE}",
    "run.save_every=${oc.env:SOME_NOTE}",
    "run.wait=${oc.env:SOME_NOTE}",
    "run.${oc.env:SOME_NOTE}=1",
    f"optimizer.lr={KEY}",
    f"seed={KEY}",
    f"data.path={KEY}",
    f"data.path=/data/{KEY}/x",
    f"name={KEY}",
    f"model={KEY}",
    f"model/{KEY}=rotary",
    f"+{KEY}=1",
    f"model.{KEY}=1",
    f"vars.{KEY}=1",
    f"+wandb_key={PASSWORD}",
    f"optimizer.password={PASSWORD}",
    f"+api_key=[{PASSWORD}",
    f"data.path=https://user:{PASSWORD}@host",
    f"seed=https://user:{PASSWORD}@host",
    f"seed=https://user:{PASSWORD}@host,2",
    f"extensions=[{KEY}]",
    f"init_from={KEY}",
    f"{KEY}",
    f"--{KEY}",
    f"--wandb-key={PASSWORD}",
]


@pytest.mark.parametrize("word", WRONG[::5])
def test_a_refused_run(word: str, call: Any, tmp_path: Path, tiny: Any, corpus: Path) -> None:
    answer = call("train", *tiny(corpus, tmp_path / "runs"), word)
    assert answer.code == 2
    assert leaks(tmp_path, answer.out, answer.err) == [], answer.err


@pytest.mark.slow
@pytest.mark.parametrize("word", WRONG)
def test_a_refused_request(word: str, call: Any, tmp_path: Path, tiny: Any, corpus: Path) -> None:
    words = tiny(corpus, tmp_path / "runs")
    for command in (
        ["train"],
        ["train", "-m"],
        ["plan", "--no-measure"],
        ["train", "--cfg", "job"],
    ):
        answer = call(*command, *words, word)
        if command[-1] != "job":
            assert answer.code == 2, (command, answer.err)
        assert leaks(tmp_path, answer.out, answer.err) == [], (command, answer.out, answer.err)


@pytest.mark.parametrize("command", ["generate", "evaluate", "predict", "convert", "reproduce"])
def test_a_secret_as_a_word_of_a_command(command: str, call: Any, tmp_path: Path) -> None:
    for words in ([KEY], ["x", f"--{KEY}"], [f"https://me:{PASSWORD}@host/x", "--samples", KEY]):
        answer = call(command, *words)
        assert answer.code == 2
        assert leaks(tmp_path, answer.out, answer.err) == []


def test_a_bug_and_its_traceback(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from etude import cli

    def fails(arguments: list[str]) -> int:
        raise ValueError(f"{KEY!r}, password={PASSWORD}")

    monkeypatch.setattr(cli, "_command", lambda name: fails)
    answer = call("train")
    assert "ValueError: '${oc.env:WANDB_API_KEY}', password=***" in answer.err
    assert leaks(tmp_path, answer.out, answer.err) == []


def test_a_run_that_has_them_where_nothing_depends_on_them(
    call: Any, tmp_path: Path, tiny: Any, corpus: Path
) -> None:
    words = tiny(corpus, tmp_path / "runs", "run.samples=0")
    words += [f"run.notes={KEY}", f"run.tags=[{KEY}]", f"vars.a={KEY}", f"vars.api_key={PASSWORD}"]
    answer = call("train", *words)
    assert answer.code == 0, answer.err
    assert leaks(tmp_path, answer.out, answer.err) == []
    (config,) = (tmp_path / "runs").glob("tiny/*/config.yaml")
    assert "notes: ${oc.env:WANDB_API_KEY}" in config.read_text()
    again = call("train", *words)
    assert "finished" in again.out
    for more in (["runs", "show", "tiny"], ["runs", "list", "--json"], ["runs", "verify"]):
        answer = call(*more, "--root", tmp_path / "runs")
        assert answer.code == 0, answer.out
        assert leaks(tmp_path, answer.out, answer.err) == []
