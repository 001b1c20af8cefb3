"""A reproduction that is killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_papers_of_runs import TOY

SCRIPT = """
import sys
from pathlib import Path
from etude.console import show_messages
from etude.papers import claims, reproduction

file, root = map(Path, sys.argv[1:])
claims.load = lambda name, *_: claims.read(file)
show_messages()
reproduction.reproduce("toy", root, jobs=1)
"""


def finished(root: Path) -> dict[str, int]:
    """Returns the finished runs and the modification times of their records."""
    found = {}
    for path in root.glob("toy/*/run.json"):
        if json.loads(path.read_text())["status"] == "finished":
            found[path.parent.name] = path.stat().st_mtime_ns
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_done_twice(tmp_path: Path, signum: int) -> None:
    file, root = tmp_path / "toy.yaml", tmp_path / "runs"
    file.write_text(TOY.replace("trainer.max_steps=40", "trainer.max_steps=400"))
    command = [sys.executable, "-c", SCRIPT, str(file), str(root)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(finished(root)) < 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)  # so that it is killed during the next run
    os.killpg(process.pid, signum)
    process.wait()
    before = finished(root)
    assert 1 <= len(before) < 4
    assert not (root / "_papers" / "toy").exists()
    subprocess.run(command, check=True, timeout=300)
    after = finished(root)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    assert (root / "_papers" / "toy" / "report.md").is_file()
