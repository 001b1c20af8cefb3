"""Executes notebooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from pairs import FOLDER

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def execute(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Runs a notebook in an empty folder; returns its code cells by id. A cell's error raises.

    With `--executed DIR`, the notebook with its outputs is written to that folder.
    """

    def run(name: str) -> dict[str, Any]:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        folder, scratch = tmp_path / "notebook", tmp_path / "scratch"
        folder.mkdir()
        scratch.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("TMPDIR", str(scratch))
            client = nbclient.NotebookClient(
                notebook,
                timeout=400,
                kernel_name="python3",
                resources={"metadata": {"path": str(folder)}},
            )
            client.execute()
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell in code:  # without progress bars, which have ended
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        if target := request.config.getoption("--executed"):
            Path(target).mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, Path(target) / name)
        return {cell.id: cell for cell in code}

    return run
