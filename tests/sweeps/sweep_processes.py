"""Helpers for tests that run sweeps in subprocesses and kill them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etude.records.record import Record

HERE = Path(__file__).parent
PLANT = ["extensions=[planted]", "+callbacks.planted._target_=planted.Planted"]


def sweep_of(root: Path) -> dict[str, Any]:
    (folder,) = (root / "_sweeps").iterdir()
    found = json.loads((folder / "sweep.json").read_text())
    jobs = {job["key"]: job for job in found["jobs"]}
    return found | {"jobs": [jobs[key] for key in found["asked"]], "folder": folder}


def start(words: list[str], seconds: float, output: Path) -> subprocess.Popen[bytes]:
    """Starts `etude train WORDS` in a subprocess, with each step slowed down."""
    environment = os.environ | {
        "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
        "PLANTED_SECONDS": str(seconds),
        "OMP_NUM_THREADS": "1",
    }
    with output.open("wb") as file:
        command = [sys.executable, "-m", "etude", "train", *words]
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], out: Path) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, out.read_text()
        assert time.monotonic() < end, out.read_text()
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def results(root: Path) -> dict[str, Any]:
    """Returns metrics and weights of all runs below a root, without times."""
    found = {}
    for path in (root / "tiny").iterdir():
        record = Record.read(path)
        assert record.status == "finished"
        rows = record.rows()
        steps = [row["step"] for row in rows]
        assert steps == sorted(set(steps))  # no step is recorded twice
        timeless = [
            {k: v for k, v in row.items() if k != "time" and not k.startswith("perf/")}
            for row in rows
        ]
        weights = (record.checkpoint("last") / "model.safetensors").read_bytes()
        found[path.name] = (timeless, hashlib.sha256(weights).hexdigest())
        assert not list(path.rglob("*.tmp-*"))
    return found


def states(study: Any) -> dict[str, int]:
    """Returns the number of a study's trials in each state."""
    names = [trial.state.name for trial in study.trials]
    return {name: names.count(name) for name in sorted(set(names))}
