"""The page of papers follows from the evidence that is kept, and the evidence from the papers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.papers import claims, report

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted(path.parent.name for path in (ROOT / "docs" / "papers").glob("*/result.json"))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("papers_page")
    sys.modules.pop("papers_page", None)


def test_the_page_is_that_of_the_evidence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "papers").symlink_to(ROOT / "docs" / "papers")
    page.write_page(tmp_path)
    assert (tmp_path / "papers.md").read_text() == (ROOT / "docs" / "papers.md").read_text()


def test_every_paper_has_a_line(page: Any) -> None:
    text = (ROOT / "docs" / "papers.md").read_text()
    assert [name for name in claims.paper_names() if f"<br>`{name}`" not in text] == []


@pytest.mark.parametrize("name", KEPT)
def test_the_evidence_is_of_the_papers_as_they_are(name: str) -> None:
    folder = ROOT / "docs" / "papers" / name
    paper = claims.load(name)
    found = json.loads((folder / "result.json").read_text())
    settings = claims.measurement_node(name, paper).canonical()
    verdict, protocol = report.judge_result(found, name, paper, settings)
    assert verdict.outcome in ("match", "miss")
    assert (found["verdict"], found["protocol"]) == (str(verdict), str(protocol or ""))
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    text = report.markdown(name, paper, found, figures)
    assert (folder / "report.md").read_text() == text
    assert not list(folder.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 500_000


def test_a_changed_value_changes_the_page(page: Any, tmp_path: Path) -> None:
    name = KEPT[0]
    folder = tmp_path / "papers" / name
    page.keep(ROOT / "docs" / "papers" / name, folder)
    before = page.line_of(name, folder)
    found = json.loads((folder / "result.json").read_text())
    next(iter(found["readings"].values()))["values"][0] += 1.0
    (folder / "result.json").write_text(json.dumps(found))
    assert before[3].startswith(("match", "miss"))
    assert page.line_of(name, folder)[3] == "not run (result.json was edited)"
    (folder / "result.json").unlink()
    assert page.line_of(name, folder)[3] == "not run"
