"""Which exceptions are attributed to the user's code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import etude
from etude.cli.unexpected import find_user_fault

SOURCE = Path(etude.__file__).parents[1]
PLUGIN = SOURCE / "hydra_plugins" / "etude_sweeps" / "launcher.py"


def raised_in(file: Path | str) -> Exception:
    """Returns an exception with a frame in a file."""
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
    assert find_user_fault(raised_in(file), ["train"]) is None


def test_it_is_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.touch()
    problem = find_user_fault(raised_in(file), ["train"])
    assert problem is not None
    assert problem.where.startswith(str(file))


CUT_SHORT = """
import os, signal, sys, time
from etude import cli

def command(arguments):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(60)
    except BaseException:  # as libraries do while they are imported
        time.sleep(0.3)
        raise ImportError("cannot load module more than once per process")

cli._command = lambda name: command
cli.main(["plan"])
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_error_that_follows_a_signal_is_none(signum: int) -> None:
    words = [sys.executable, "-c", CUT_SHORT, str(int(signum))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 128 + signum
    assert "please report" not in done.stderr
    name = "interrupted" if signum == signal.SIGINT else "terminated"
    assert f"etude: {name}\n" in done.stderr
