"""A search that is killed, and one that another process is running; with real runs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_processes import PLANT, start, states, wait_for

from etude.records.record import Record
from etude.sweeps.search import load_study


@pytest.mark.slow
def test_killed_at_five_of_twelve_ends_with_twelve(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real runs; the running trial resumes from its checkpoint."""
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    more = [*PLANT, "run.samples=0", "run.save_every=2", "sweep=optuna"]
    more += ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=12"]
    words = ["-m", *tiny(corpus, root, *more)]
    process = start(words, 0.05, output)

    def study() -> Any:
        (folder,) = (root / "_sweeps").iterdir()
        return load_study(folder)

    def at_the_sixth() -> bool:
        runs = [Record(p) for p in root.glob("tiny/*") if (p / "run.json").exists()]
        rows = [path for path in root.glob("tiny/*/checkpoints/step-00000004")]
        return len(runs) == 6 and bool(rows) and states(study()).get("COMPLETE", 0) == 5

    wait_for(at_the_sixth, process, output)
    process.kill()
    process.wait()
    assert states(study()) == {"COMPLETE": 5, "RUNNING": 1}
    time.sleep(0.5)  # the job is killed with its search
    answer = etude("train", *words)
    assert answer.code == 0, answer.out + answer.err
    assert states(study()) == {"COMPLETE": 12}
    paths = list((root / "tiny").iterdir())
    assert len(paths) == 12
    starts = sorted(len(Record.read(path).info["starts"]) for path in paths)
    assert starts == [1] * 11 + [2]
    assert "7 jobs: 7 finished" in answer.out
    (folder,) = (root / "_sweeps").iterdir()
    assert (folder / "figures" / "history.png").stat().st_size > 5000
    assert "0 jobs" in etude("train", *words).out


@pytest.mark.slow
def test_one_process_a_search(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    more = [*PLANT, "sweep=optuna", "seed=0,1", "hydra.sweeper.n_trials=2"]
    words = ["-m", *tiny(corpus, root, *more)]
    process: subprocess.Popen[bytes] = start(words, 20, output)
    wait_for(lambda: bool(list(root.glob("tiny/*/run.json"))), process, output)
    answer = etude("train", *words)
    assert answer.code == 3
    assert f"process {process.pid} on {os.uname().nodename}" in answer.err
    process.kill()
    process.wait()
