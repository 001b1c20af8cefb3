"""Signals are acknowledged and obeyed while the main thread computes in C; without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.stopping import descendants
from quick_first import quick_first

WORK = """
import hashlib, os, signal, subprocess, sys
from etude.stopping import begin_saving, end_saving, cleanup_on_kill, watch_signals

def handler(signum, frame):  # also where one runs, nothing comes of it
    pass

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, handler)
watch_signals()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

class Work:
    notice = "saving"
    def saves(self):
        return "saves" in sys.argv

begin_saving(Work())
with cleanup_on_kill(lambda: open(sys.argv[1], "w").write("cleaned")):
    print(child.pid, flush=True)
    while True:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
LONG = 120


def begin(*words: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("signum", quick_first([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
def test_the_first_ends_what_saves_nothing(signum: int, tmp_path: Path) -> None:
    process, child = begin(str(tmp_path / "file"))
    assert descendants(process.pid) == [child]
    os.kill(process.pid, signum)
    _, said = process.communicate(timeout=LONG)
    assert process.returncode == 128 + signum
    assert said == f"{signal.Signals(signum).name}: stopping at once\n"
    assert (tmp_path / "file").read_text() == "cleaned"
    assert gone(child)


def test_the_second_ends_what_saves(tmp_path: Path) -> None:
    process, child = begin(str(tmp_path / "file"), "saves")
    assert process.stderr is not None
    os.kill(process.pid, signal.SIGTERM)
    assert process.stderr.readline() == "SIGTERM: saving (send it again to stop at once)\n"
    time.sleep(2)  # longer than a process may take that is to end
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(LONG) == 130
    assert gone(child)


def test_a_forked_child_hears_its_own_signals_alone(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from etude.stopping import is_watching, watch_signals
signal.signal(signal.SIGTERM, lambda *_: None)
watch_signals()
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os._exit(7 if not is_watching() else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
time.sleep(0.5)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG
    )
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_nohup_stays(etude: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert etude("--version").code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def gone(pid: int) -> bool:
    """Returns whether a process ends within a short time."""
    for _ in range(10 * LONG):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # nobody has asked how it ended
            return True
        time.sleep(0.1)
    return False
