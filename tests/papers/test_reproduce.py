"""`etude reproduce`, from the command to its output files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etude.errors import RequestError
from etude.papers import claims, report, reproduction
from etude.papers.claims import Reading
from etude_papers.attention_scale import AttentionScale

NAME = "attention_scale"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, etude: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("experiments")
    answer = etude("reproduce", NAME, "--root", root)
    assert answer.code == 0, answer
    return root


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Patches `claims.load` to return the shipped paper with other fields, also of a cell."""
    load = claims.load

    def alter(cell: str | None = None, **changes: Any) -> None:
        def altered_load(name: str, *more: Any) -> claims.Paper:
            paper = load(name, *more)
            if cell is None:
                return replace(paper, **changes)
            cells = [replace(c, **changes) if c.key == cell else c for c in paper.cells]
            return replace(paper, cells=cells)

        monkeypatch.setattr(claims, "load", altered_load)

    return alter


def state(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    reproduction.print_papers(root)
    columns, *rows = capsys.readouterr().out.splitlines()
    assert columns.split() == [
        "paper",
        "claim",
        "cost",
        "matches",
        "the",
        "paper",
        "the",
        "protocol",
    ]
    shown = [row.split()[0] for row in rows]
    assert sorted(shown) == claims.paper_names()
    tiers = [claims.load(name).tier for name in shown]
    assert tiers == sorted(tiers, key=["cpu", "gpu", "weights"].index)
    (row,) = (row for row in rows if row.startswith(NAME))
    return row.split("(cpu)")[1].strip()


def test_the_shipped_cells_match_and_all_is_recorded(root: Path) -> None:
    folder = root / "_papers" / NAME
    assert {path.name for path in folder.iterdir()} == {
        "figures",
        "report.html",
        "report.md",
        "result.json",
    }
    assert [path.name for path in (folder / "figures").iterdir()] == ["softmax.png"]

    result = json.loads((folder / "result.json").read_text())
    paper = claims.load(NAME)
    assert result["verdict"] == "match"
    assert {key: cell["verdict"] for key, cell in result["cells"].items()} == {
        cell.key: "match" for cell in paper.cells
    }
    # The prediction of footnote 4, checked with the numbers in the file.
    for width in (16, 64, 256):
        values = result["readings"][f"variance/{width}"]["values"]
        assert len(values) == 3
        assert sum(values) / 3 == pytest.approx(width, rel=0.05)


def test_the_report_names_its_source_and_every_cell(root: Path) -> None:
    folder = root / "_papers" / NAME
    text = (folder / "report.md").read_text()
    paper = claims.load(NAME)
    assert paper.link in text
    assert "(figures/softmax.png)" in text
    for cell in paper.cells:
        assert f"| {cell.key} | " in text
        assert cell.because in text
        assert cell.control in text


def test_the_list_shows_the_state(root: Path, tmp_path: Path, capsys: Any, altered: Any) -> None:
    assert state(tmp_path, capsys) == "not run"
    assert state(root, capsys) == "match"
    altered("variance/64", published=80)
    assert state(root, capsys) == "miss (1 of 6 values)"
    altered(seeds=[0])
    assert state(root, capsys) == "not run (settings changed)"


def test_a_miss_is_reported_with_exit_code_1(tmp_path: Path, etude: Any, altered: Any) -> None:
    altered("variance/64", published=80)
    answer = etude("reproduce", NAME, "--root", tmp_path)
    assert answer.code == 1
    row = next(line for line in answer.out.splitlines() if line.startswith("variance/64"))
    assert row.split()[1] == "80"
    assert row.endswith("miss")
    assert "miss (1 of 6 values)" in (tmp_path / "_papers" / NAME / "report.md").read_text()


def test_a_cell_that_nothing_measures_is_refused(tmp_path: Path, altered: Any) -> None:
    altered("variance/64", key="variance/65")
    with pytest.raises(RequestError, match=r"cells\[1\].key = 'variance/65'.*mean variance/64"):
        reproduction.reproduce(NAME, tmp_path)
    assert not (tmp_path / "_papers").exists()


def test_check_measures_nothing(root: Path, tmp_path: Path, altered: Any, caplog: Any) -> None:
    caplog.set_level("INFO", "etude")
    empty = tmp_path / "empty"
    assert not reproduction.reproduce(NAME, empty, check=True)
    assert f"{NAME}: not run; run `etude reproduce {NAME}` to measure this paper" in caplog.messages
    assert not empty.exists()
    shutil.copytree(root, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionScale, "measure", lambda *_: pytest.fail("measured"))
        assert reproduction.reproduce(NAME, tmp_path / "copy", check=True)
        altered("variance/64", published=80)
        assert not reproduction.reproduce(NAME, tmp_path / "copy", check=True)


def test_a_wrong_name_is_refused_before_anything_is_measured(tmp_path: Path, etude: Any) -> None:
    answer = etude("reproduce", NAME, "atention_scale", "--root", tmp_path)
    assert answer.code == 2
    assert "did you mean attention_scale?" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="--root"):
        reproduction.reproduce(NAME, tmp_path / "file")
    with pytest.raises(RequestError, match="--root"):
        reproduction.print_papers(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "valid JSON"),
        ("[]", "a result of `etude reproduce` in format 1"),
        ('{"format": 2}', "a result of `etude reproduce` in format 1"),
    ],
)
def test_a_damaged_result_is_named(
    tmp_path: Path, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = reproduction.folder_of(NAME, tmp_path)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(content)
    with pytest.raises(RequestError, match=told):
        reproduction.print_papers(tmp_path)
    shown = capsys.readouterr().out.splitlines()[1:]  # the other papers are listed, too
    assert [line.split()[0] for line in shown if line.rstrip().endswith("damaged")] == [NAME]
    assert len(shown) == len(claims.paper_names())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "state_"),
    [
        (
            lambda found: found["readings"]["variance/64"].update(values=[64.0] * 3),
            "result.json was edited",
        ),
        (
            lambda found: found["readings"]["variance/64"].update(values=["64"] * 3),
            "result.json was edited",
        ),
        (lambda found: found.update(seeds=[0, 1]), "settings changed"),
        (lambda found: found.update(experiments={"sort": "0"}), "settings changed"),
    ],
)
def test_a_changed_result_is_no_match(
    root: Path, tmp_path: Path, capsys: Any, change: Any, state_: str
) -> None:
    shutil.copytree(root / "_papers" / NAME, tmp_path / "_papers" / NAME)
    file = tmp_path / "_papers" / NAME / "result.json"
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    assert state(tmp_path, capsys).startswith("not run")
    assert state_ in state(tmp_path, capsys)


@pytest.mark.parametrize("runs", [[], None, {"a": ["x"]}, {"a": None}, {"a": [{"place": "x"}]}])
def test_damaged_runs_are_told_by_their_file(
    root: Path, tmp_path: Path, etude: Any, runs: Any
) -> None:
    shutil.copytree(root / "_papers" / NAME, tmp_path / "_papers" / NAME)
    file = tmp_path / "_papers" / NAME / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"runs": runs}))
    answer = etude("reproduce", "--root", tmp_path)
    assert answer.code == 2
    assert f"{file}: runs" in answer.err


def test_a_paper_of_runs_needs_runs(tmp_path: Path, capsys: Any) -> None:
    paper = claims.load("sort")
    settings = claims.measurement_node("sort", paper).canonical()
    told = {"exact": {"values": [1.0] * 3, "controls": [0.0] * 3}}
    readings = {key: Reading(**each) for key, each in told.items()}
    found = report.result("sort", paper, settings, readings, {})
    assert str(report.judge_result(found, "x", paper, settings)[0]) == "not run"
    assert str(report.verdict_of(paper, readings)) == "match"  # so the missing runs are the reason


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sort", "--jobs", "²"], "--jobs = '²': expected a positive integer or auto"),
        (["--check"], "PAPER: expected at least one paper with --check or --smoke"),
        (["names", "sort", "--files", "nowhere"], "names: names.txt = "),
        (["sort", "names", "--files", "nowhere"], "names: names.txt = "),
    ],
)
def test_what_is_wrong_is_refused_before_anything_begins(
    tmp_path: Path, etude: Any, words: list[str], told: str
) -> None:
    answer = etude("reproduce", *words, "--root", tmp_path)
    assert answer.code == 2
    assert told in answer.err
    assert not list(tmp_path.iterdir())
