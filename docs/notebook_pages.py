"""Pages of the notebooks: copies in docs/notebooks/, with outputs if they are up to date.

`make notebooks` writes executed notebooks to docs/_executed/. A notebook whose code has changed
since then is shown without outputs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def write_notebook_pages() -> None:
    """Writes a page for each notebook to docs/notebooks/."""
    folder = HERE / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for source in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        executed = HERE / "_executed" / source.name
        is_current = executed.is_file() and _code(executed) == _code(source)
        shutil.copyfile(executed if is_current else source, folder / source.name)


def _code(path: Path) -> list[Any]:
    return [cell["source"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
