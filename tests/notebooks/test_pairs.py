"""Every notebook is stored without outputs, and equals its script."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from pairs import FOLDER, notebook_of, scripts

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_every_notebook_has_a_script() -> None:
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in scripts()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_equals_its_script(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert stored == notebook_of(path.with_suffix(".py")), "run python tests/notebooks/pairs.py"
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all("title" in cell.metadata for cell in code)
