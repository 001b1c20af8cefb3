"""Every notebook runs from an empty folder, and shows what its text says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Runs a notebook in an empty folder; returns its code cells by id. A cell's error raises."""

    def run(name: str) -> dict[str, Any]:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        folder = tmp_path_factory.mktemp("notebook")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
            client = nbclient.NotebookClient(
                notebook,
                timeout=300,
                kernel_name="python3",
                resources={"metadata": {"path": str(folder)}},
            )
            client.execute()
        return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}

    return run


def printed(cell: Any) -> str:
    """What a cell wrote to standard output."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def value(cell: Any, kind: str = "text/plain") -> str:
    """The last value or picture that a cell shows, as text or base64."""
    return str([o.data[kind] for o in cell.outputs if kind in o.get("data", {})][-1])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.slow
def test_first_run(execute: Callable[[str], dict[str, Any]]) -> None:
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
