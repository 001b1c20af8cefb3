"""Commands that earlier versions of the README showed still work."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

COMMANDS = """
etude train experiment=debug
etude train experiment=debug model/position=rotary,alibi -m
etude plan experiment=nano model/position=rotary,alibi -m
etude runs list "model.position=rotary" --sort val/loss
etude runs compare debug
etude generate debug --prompt "The people" --samples 2 --max-new-tokens 40 --seed 0
etude train --cfg job experiment=debug model.dim=64
etude reproduce
etude reproduce attention_scale
etude train experiment=debug data=text_files data.path=notes.md name=mine
etude train experiment=spam data.path=mails.csv trainer.max_epochs=2
etude evaluate spam
etude predict spam --text "a text"
etude convert exportable exported
etude plan '~experiment' model=gpt2 name=full
"""


@pytest.mark.slow
def test_each(etude: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("# Notes\n\nSome words of mine, and some more of them.\n" * 9)
    rows = (
        f"{'buy this' if n % 2 else 'see you'} {n},{'spam' if n % 2 else 'ham'}" for n in range(40)
    )
    Path("mails.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    assert etude("train", "experiment=debug", "model.bias=true", "name=exportable").code == 0
    for command in COMMANDS.strip().splitlines():
        answer = etude(*shlex.split(command)[1:])
        assert answer.code == 0, f"{command}\n{answer.err}"
