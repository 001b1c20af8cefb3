"""The README is true: its commands and Python run, its links lead somewhere, its tests exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEATURES = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
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
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text"}
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "etude"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command: str) -> None:
    """What they would do; CI itself runs `make test`, and the first run takes minutes."""
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {"make train": "etude train", "make test": '-m "not slow and not notebook"'}[command]
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
    assert "The people" in shown
    assert {path.name for path in (tmp_path / "experiments/debug").iterdir()} == before
    names = {path.name for path in (tmp_path / "experiments").iterdir()}
    assert names == {"debug", "mine", "_sweeps", "_papers"}
    assert (tmp_path / "positions.png").is_file()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named_tests(text: str) -> list[str]:
    """The ids in a text, `::name` completed by the file of the id before it.

    Everything in backquotes that looks like an id counts, also one that cannot be right.
    """
    found: list[str] = []
    for quoted in re.findall(r"`([^`\n]*)`", text):
        if re.match(r"tests/[^ ]*::", quoted):
            found.append(quoted)
        elif quoted.startswith("::"):
            file = found[-1].partition("::")[0] if found else ""
            found.append(file + quoted)
    return found


def _tests_in(file: Path) -> set[str]:
    """What pytest collects in a file, `name` or `Class::name`, without parameters."""

    def walk(body: list[ast.stmt], outer: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                yield outer + node.name
            elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield from walk(node.body, f"{outer}{node.name}::")

    return set(walk(ast.parse(file.read_text(encoding="utf-8")).body, ""))


def unknown_tests(ids: list[str]) -> list[str]:
    """Those of the ids that pytest would not find."""
    files = {ROOT / each.partition("::")[0] for each in ids}
    known = {file: _tests_in(file) if file.is_file() else set() for file in files}
    parts = [each.partition("::") for each in ids]
    return [a + b + c for a, b, c in parts if c not in known[ROOT / a]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_tests_that_exist(page: Path) -> None:
    assert unknown_tests(named_tests(page.read_text(encoding="utf-8"))) == []


def test_the_check_above_finds_what_is_not_there() -> None:
    """A name without its class, another class, another file, a parameter, a name cut short."""
    here, steps = "tests/test_readme.py::", "tests/data/test_steps.py::"
    right = [
        f"{here}test_links_lead_somewhere",
        f"{steps}TestWindowSteps::test_workers_change_nothing",
    ]
    wrong = [
        f"{steps}test_workers_change_nothing",
        f"{steps}TestEvaluationBatches::test_workers_change_nothing",
        f"{steps}TestWindowSteps",
        "tests/data/test_step.py::test_workers_change_nothing",
        f"{here}test_a_page_names_tests_that_exist[README.md]",
        f"{here}test_links_lead",
        f"{here}",
    ]
    text = " ".join(f"`{each}`," for each in [*wrong, *right]) + " `::nothing`"
    assert unknown_tests(named_tests(text)) == [*wrong, f"{steps}nothing"]


def test_every_feature_names_a_test() -> None:
    """Checks the rows of tables with a column for tests."""
    tables = re.findall(r"^\| what \| where \| test \|\n.*\n((?:\|.*\n)+)", FEATURES, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 160
    for row in rows:
        cells = row.strip("|").rsplit(" | ", 1)
        assert named_tests(cells[-1]), row
        assert cells[-1].strip().startswith("`tests/"), row


@pytest.mark.slow
def test_pytest_finds_them_too() -> None:
    """What the syntax tree says above, said by pytest."""
    ids = {each for page in PAGES for each in named_tests(page.read_text(encoding="utf-8"))}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *sorted(ids)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


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
