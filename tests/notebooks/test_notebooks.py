"""Every notebook runs from an empty folder, and shows what its text says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.notebook

Execute = Callable[[str], dict[str, Any]]


def printed(cell: Any) -> str:
    """What a cell wrote to standard output."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def value(cell: Any, kind: str = "text/plain") -> str:
    """The last value or picture that a cell shows, as text or base64."""
    return str([o.data[kind] for o in cell.outputs if kind in o.get("data", {})][-1])


def test_first_run(execute: Execute) -> None:
    cells = execute("01_first_run.ipynb")
    assert "did you mean layers?" in printed(cells["mistake"])
    assert "optimizer.lr = 'fast': expected a number" in printed(cells["mistake"])
    assert "finished" in value(cells["train"])
    assert "step 200/200" in printed(cells["train"])
    assert value(cells["again"]) == "True"
    assert "already finished" in printed(cells["again"])
    assert value(cells["metrics"]).splitlines()[-1].split()[1] == "200"
    assert value(cells["curve"], "image/png").startswith("iVBOR")
    assert printed(cells["generate"]).count("My fellow") == 3
    assert value(cells["pause"]) == "'paused'"
    assert value(cells["continue"]) == "('finished', [0, 90])"
    assert value(cells["exact"]) == "True"
    table = value(cells["table"])
    assert [table.count(word) for word in ("rotary", "learned", "none")] == [2, 1, 1]
    assert value(cells["curves"], "image/png").startswith("iVBOR")
