"""`import etude` is fast, and its names are the documented ones after any other import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import etude
from etude.errors import RequestError


def test_no_module_hides_a_name_of_the_notebook(tmp_path: Path) -> None:
    """A package `etude.runs` would: importing its modules would replace the function."""
    folder = Path(etude.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & set(etude.__all__)
    assert len(etude.runs(tmp_path)) == 0
    with pytest.raises(RequestError, match="a folder of runs"):
        etude.runs(tmp_path / "nowhere")


def test_runs_can_be_called_first_of_all(tmp_path: Path) -> None:
    code = f"import etude; print(etude.runs({str(tmp_path)!r}).frame().shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0)\n"


def test_the_import_is_light() -> None:
    code = "import sys, etude; print({'torch', 'pandas', 'hydra', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = etude.trian
