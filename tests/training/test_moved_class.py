"""A moved built-in class: configs, records and runs keep its original name."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.api import load_run, train
from etude.config import table as tables
from etude.nn import norm

FIRST, NOW = "etude.nn.norm.LayerNorm", "etude.nn.elsewhere.LayerNorm"


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Returns a function that moves a class to another module, like a change of the source."""

    def moved() -> None:
        elsewhere = types.ModuleType("etude.nn.elsewhere")
        exec(Path(norm.__file__).read_text(encoding="utf-8"), vars(elsewhere))
        monkeypatch.setitem(sys.modules, "etude.nn.elsewhere", elsewhere)
        monkeypatch.delattr(norm, "LayerNorm")
        plain = json.loads(tables.FILE.read_text(encoding="utf-8"))
        plain["moved"][FIRST] = NOW
        (tmp_path / "targets.json").write_text(json.dumps(plain), encoding="utf-8")
        monkeypatch.setattr(tables, "FILE", tmp_path / "targets.json")
        tables.table.cache_clear()

    yield moved
    tables.table.cache_clear()


def test_its_runs_keep_their_names(small: Callable, move: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first = train(small(root, "trainer.max_steps=6"))
    paused = train(small(root, "trainer.max_steps=6", "seed=1", "run.stop_at_step=3"))
    metrics = first.evaluate()
    move()
    written = (first.path / "metrics.jsonl").stat().st_mtime_ns
    again = train(small(root, "trainer.max_steps=6"))
    assert again.path == first.path
    assert (first.path / "metrics.jsonl").stat().st_mtime_ns == written  # it was reused
    continued = train(small(root, "trainer.max_steps=6", "seed=1"))
    assert (continued.path, continued.status) == (paused.path, "finished")
    anew = train(small(root, "trainer.max_steps=6", "seed=2"))
    for run in (again, continued, anew):
        loaded = load_run(run.path)
        kind = type(loaded.model().module.norm)
        assert f"{kind.__module__}.{kind.__qualname__}" == NOW
        assert FIRST in (run.path / "config.yaml").read_text(encoding="utf-8")
        assert NOW not in (run.path / "config.yaml").read_text(encoding="utf-8")
    assert load_run(first.path).evaluate() == metrics
