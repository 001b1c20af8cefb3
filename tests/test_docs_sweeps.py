"""The commands in docs/sweeps.md run, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from etude import cli

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "bash", "python", "bash"]
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/sweeps.md", "exec"), {})
            continue
        for command in block.splitlines():
            assert cli.run(shlex.split(command)[1:]) == 0, command
    shown = capsys.readouterr().out
    assert r"\begin{tabular}" in shown
    assert (tmp_path / "positions.png").exists()
    assert (tmp_path / "heat.png").exists()
    assert len(list((tmp_path / "experiments" / "debug").iterdir())) == 12
    studies = list((tmp_path / "experiments" / "_sweeps").iterdir())
    assert len(studies) == 2
    assert len(list((tmp_path / "experiments" / "searched").iterdir())) <= 8
