"""Notebooks as pairs: a script in jupytext's percent format, and the notebook made from it.

    python tests/notebooks/pairs.py           # write the notebooks of all scripts
    python tests/notebooks/pairs.py --back    # write the scripts of all notebooks

The text after `# %%` is the cell's name: its title in the metadata, and its id in the notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def scripts() -> list[Path]:
    """The scripts of all notebooks, by number."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def notebook_of(script: Path) -> Any:
    """Returns the notebook of a script. A markdown cell without a name is named by its position."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        title = cell.metadata.get("title")
        cell.id = title or f"text-{number}"
        cell.metadata = nbformat.from_dict({"title": title} if title else {})
    return notebook


def write_notebooks() -> None:
    """Writes the notebooks of all scripts."""
    for script in scripts():
        nbformat.write(notebook_of(script), script.with_suffix(".ipynb"))


def write_scripts() -> None:
    """Writes the scripts of all notebooks."""
    for path in sorted(FOLDER.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("language_info", None)
        jupytext.write(notebook, path.with_suffix(".py"), fmt="py:percent")


if __name__ == "__main__":
    if "--back" in sys.argv[1:]:
        write_scripts()
    else:
        write_notebooks()
