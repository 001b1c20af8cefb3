"""The README is true: its commands and Python run, its links lead somewhere, its tests exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from etude import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("   #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.strip()
]
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_every_block_is_a_command_or_python() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "etude"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command: str) -> None:
    """What they would do; CI itself runs `make test`, and the first run takes minutes."""
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {"make train": "etude train", "make test": '-m "not slow"'}[command]
    assert expected in done.stdout


def test_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order in which they stand, in one folder, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    for command in (c for c in COMMANDS if c.startswith("etude")):
        assert cli.run(shlex.split(command)[1:]) == 0, command
    assert PYTHON
    before = {path.name for path in (tmp_path / "experiments/debug").iterdir()}
    capsys.readouterr()
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "To be" in shown
    assert {path.name for path in (tmp_path / "experiments/debug").iterdir()} == before
    names = {path.name for path in (tmp_path / "experiments").iterdir()}
    assert names == {"debug", "mine", "_sweeps", "_papers", "_comparisons"}


def test_the_table_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_on_configuration_lists_every_file() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    listed = re.findall(r"\w+", page.split("```")[1])
    files = [file.relative_to(ROOT / "conf") for file in (ROOT / "conf").rglob("*.yaml")]
    groups = [file for file in files if len(file.parts) > 1 and file.parts[0] not in {"paper"}]
    assert len(groups) > 50
    assert [str(file) for file in groups if file.stem not in listed] == []
