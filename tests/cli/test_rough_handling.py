"""Closed pipes, unusual characters, absurd numbers and damaged records."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import compose
from etude.errors import RequestError

Etude = Callable[..., Any]


class Unwilling:
    """An output that cannot be written: a closed pipe or a full disk."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [BrokenPipeError(), FULL], ids=["reader", "disk"])
def test_training_survives_its_output(
    tiny: Callable[..., list[str]],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    from etude.api import compose, train
    from etude.console import Messages

    handler = Messages(stderr=False)
    monkeypatch.setattr("sys.stdout", Unwilling(error))
    logging.getLogger("etude").addHandler(handler)
    try:
        run = train(compose(tiny(corpus, tmp_path / "runs")))
    finally:
        logging.getLogger("etude").removeHandler(handler)
    assert run.status == "finished"


def test_a_full_output_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from etude import cli

    monkeypatch.setattr(cli, "show_messages", lambda **_: None)  # leaves no handler behind
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.stdout", Unwilling(FULL))
    assert cli.run(["--version"]) == 2
    assert "No space left on device: standard output" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr", Unwilling(FULL))
    assert cli.run(["nothing"]) == 2


def test_closed_streams_are_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from etude import cli

    monkeypatch.setattr(cli, "show_messages", lambda **_: None)  # leaves no handler behind
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", None)
    assert cli.run(["runs", "list", "--root", str(tmp_path)]) == 0
    assert cli.run(["nothing"]) == 2
    with pytest.raises(RequestError, match=r"standard input: expected an open stream"):
        list(sys.stdin.buffer)


def test_a_label_may_hold_any_characters(
    tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    from etude.api import compose, train

    run = train(compose(*tiny(corpus, tmp_path / "runs"), "vars.x='a$_$b'"))
    assert run.status == "finished"
    assert (run.path / "figures" / "loss.png").is_file()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.dim=1000000007", "a divisor of dim = 1000000007"),
        ("seed=9223372036854775808", "from 0 to 2**63 - 1"),
        ("data.batch=null", "a mapping with the keys tokens, examples"),
        ("data.batch=64", "(set data.batch.tokens=... or data.batch.examples=...)"),
        ("trainer.num_nodes=2", "because a run uses only one machine"),
        ("trainer.precision=33", "one of 32-true"),
        ("optimizer.lr=inf", "a positive number"),
        ("model.layers=true", "an integer"),
    ],
)
def test_absurd_values_are_refused(etude: Etude, tmp_path: Path, override: str, said: str) -> None:
    answer = etude("train", "experiment=debug", override, cwd=tmp_path)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["\tname: x\n", "a: b: c\n", "a: [1\n", "defaults: [self]\n"])
def test_a_file_of_ones_own_that_is_no_config(etude: Etude, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    answer = etude("train", "--config-dir", tmp_path / "conf", "experiment=mine", cwd=tmp_path)
    assert (answer.code, "mine" in answer.err) == (2, True), answer.err


def test_one_damaged_record_does_not_hide_the_others(etude: Etude, tmp_path: Path) -> None:
    for name, content in (
        ("aaaa00000000", {"format": 1, "status": "failed", "starts": []}),
        ("bbbb00000000", {"format": 1, "status": "finished", "best": 5}),
    ):
        folder = tmp_path / "experiments" / "nano" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(content))
    (tmp_path / "experiments" / "nano" / "cccc00000000" / "run.json").mkdir(parents=True)
    answer = etude("runs", "list", cwd=tmp_path)
    assert answer.code == 0
    assert "aaaa00000000" in answer.out
    for damaged in ("aaaa00000000", "bbbb00000000", "cccc00000000"):
        shown = etude("runs", "show", f"experiments/nano/{damaged}", cwd=tmp_path)
        assert (shown.code, "Traceback" in shown.err) == (2, False)


def test_changed_code_of_ones_own_is_told(
    etude: Etude,
    tiny: Callable[..., list[str]],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_parts_that_change.py"
    module.write_text("from etude.nn.norm import LayerNorm as Mine\n")
    words = [*tiny(corpus, tmp_path / "runs"), "extensions=[my_parts_that_change]"]
    words += ["model.norm._target_=my_parts_that_change.Mine"]
    assert etude("train", *words).code == 0
    assert "unchanged source" in etude("train", *words).out
    module.write_text("from etude.nn.norm import RMSNorm as Mine\n")
    monkeypatch.delitem(sys.modules, "my_parts_that_change")  # as in another process
    assert "the source code of my_parts_that_change has changed" in etude("train", *words).out


def test_links_that_lead_back_come_to_an_end(etude: Etude, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    (root / "name").mkdir(parents=True)
    (root / "name" / "up").symlink_to(root)
    (root / "self").symlink_to(root)
    (root / "_sweeps").symlink_to(root)
    for words in (["list"], ["verify"], ["list", "name"]):
        answer = etude("runs", *words, cwd=tmp_path)
        assert answer.code in (0, 2)
        assert "Traceback" not in answer.err


def test_a_removed_current_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etude import cli

    monkeypatch.setattr(cli, "show_messages", lambda **_: None)  # leaves no handler behind
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert cli.run(["train", "experiment=debug"]) == 2
        with pytest.raises(RequestError, match="current folder: expected an existing folder"):
            compose("experiment=debug")
    finally:
        os.chdir(before)


def test_a_secret_key_is_named_by_its_place(
    etude: Etude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh1234")
    answer = etude("train", "experiment=debug", "+hf_abcdefgh1234=1", cwd=tmp_path)
    assert answer.err == (
        "etude: 1 error in the request:\n"
        "  override 2: expected a key that does not contain a secret (the name of this "
        "config key contains the value of the environment variable HF_TOKEN, a secret that would "
        "be saved in the run's folder)\n"
    )
