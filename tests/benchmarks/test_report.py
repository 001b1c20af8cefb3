"""The page of figures is made from rows; nothing is timed here."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import each other by name; afterwards nothing goes by names like `run`."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def test_the_page_says_what_was_found_and_what_failed() -> None:
    run, rows = importlib.import_module("run"), importlib.import_module("rows")
    fast = rows.at_least(2, "nano, batch 1", "0.9 ms", "transformers 2.3 ms", 2.56)
    slow = rows.at_most(0.5, "`etude --help`", "0.8 s", "", 0.8, "the disk was slow")
    sections = [
        run.Section("Generation", [fast], notes="What is left is Python.\n"),
        run.Section("Starting", [slow]),
        run.Section("Data", error="OSError: disk full", notes="Never shown."),
    ]
    text = run.page(["- a machine, 2 cores"], "2026-01-31", sections)
    lines = text.splitlines()
    assert lines[0] == "# Performance"
    assert lines.index("- 2026-01-31") + 1 == lines.index("- a machine, 2 cores")
    header = "| what | Étude | beside | figure | target | met |"
    first = lines.index(header)
    assert lines[first - 2] == "## Generation"
    assert lines[first + 2] == (
        "| nano, batch 1 | 0.9 ms | transformers 2.3 ms | 2.56 | at least 2 | yes |"
    )
    assert lines.index("What is left is Python.") < lines.index("## Starting")
    assert "| `etude --help` | 0.8 s |  | 0.8 | at most 0.5 | **no** |" in lines
    assert "- `etude --help`: the disk was slow" in lines
    assert lines[lines.index("## Data") + 2] == "Not measured: OSError: disk full"
    assert "Never shown." not in text
    assert text.endswith("\n")
    assert "\n\n\n" not in text


def test_a_section_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("run")
    (tmp_path / "broken.py").write_text("def measure(quick):\n    raise ValueError('no disk')\n")
    (tmp_path / "fine.py").write_text(
        "from rows import at_least\n"
        "NOTES = 'Why.'\n"
        "def measure(quick):\n    return [at_least(1, 'x', str(quick), '', 2.0)]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken, fine = (run.run_section(name, quick=True) for name in ("broken", "fine"))
    assert broken == run.Section("broken", error="ValueError: no disk")
    assert (fine.rows[0].ours, fine.rows[0].met, fine.notes) == ("True", True, "Why.")


def test_every_section_has_something_to_measure() -> None:
    for name in importlib.import_module("run").SECTIONS:
        tree = ast.parse((BENCHMARKS / f"{name}.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), name
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert [argument.arg for argument in functions["measure"].args.args] == ["quick"], name


def test_medians_of_what_was_measured_in_turn() -> None:
    rows = importlib.import_module("rows")
    order: list[str] = []

    def taken(name: str, values: list[float]):
        def call() -> float:
            order.append(name)
            return values.pop(0)

        return call

    found = rows.in_turn(taken("a", [1.0, 2.0, 4.0]), taken("b", [2.0, 5.0, 2.0]), 3)
    assert found == (2.0, 2.0, 2.0)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_the_twins_are_one_model() -> None:
    """What is compared computes the same."""
    twins = importlib.import_module("twins")
    theirs = twins.gpt2(layers=2, heads=2, dim=16, vocab_size=11, max_length=12)
    ours = twins.ours(theirs)
    again = twins.as_gpt2(ours)
    tokens = torch.randint(11, (2, 12))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_what_the_machine_is() -> None:
    """It reads this machine; the figures themselves are not judged."""
    model, flags, memory = importlib.import_module("machine")._cpu()
    assert model
    if sys.platform == "linux":
        assert memory > 0.5
        assert json.dumps(sorted(flags)) != "[]"
