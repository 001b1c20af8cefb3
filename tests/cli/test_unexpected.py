"""Whose code an exception is put down to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import etude
from etude.cli.unexpected import fault_of_users_class

SOURCE = Path(etude.__file__).parents[1]
PLUGIN = SOURCE / "hydra_plugins" / "etude_sweeps" / "launcher.py"


def raised_in(file: Path | str) -> Exception:
    """An exception with a frame in that file."""
    try:
        exec(compile("raise ValueError('no')", str(file), "exec"), {})
    except ValueError as error:
        trace = error.__traceback__
        assert trace is not None
        return error.with_traceback(trace.tb_next)
    raise AssertionError


@pytest.mark.parametrize("file", [etude.__file__, PLUGIN, json.__file__, pytest.__file__])
def test_it_is_not_the_users(file: Path | str) -> None:
    assert Path(file).is_file()
    assert fault_of_users_class(raised_in(file), ["train"]) is None


def test_it_is_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.touch()
    problem = fault_of_users_class(raised_in(file), ["train"])
    assert problem is not None
    assert problem.where.startswith(str(file))
