"""A sweep that is killed or stopped, and resumed by the same command."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_processes import PLANT, contents, results, start, sweep_of, wait_for

from etude.records.lock import is_held
from etude.records.record import Record
from quick_first import quick_first


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_sweep_goes_on(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Six jobs, killed during the third; then a seventh value is added."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = [*PLANT, "run.samples=0", "run.save_every=2", "model.dropout=0.1"]
    more.append(f"hydra.launcher.n_jobs={at_once}")
    whole, root = tmp_path / "whole", tmp_path / "killed"
    assert etude("train", "-m", *tiny(corpus, whole, *more), "seed=0,1,2,3,4,5").code == 0

    words = ["-m", *tiny(corpus, root, *more), "seed=0,1,2,3,4,5"]
    output = tmp_path / "output.txt"
    process = start(words, 0.1, output)

    def jobs() -> list[dict[str, Any]]:
        return sweep_of(root)["jobs"] if list(root.glob("_sweeps/*/sweep.json")) else []

    def is_in_the_third() -> bool:
        done = [job["path"] for job in jobs() if job["status"] == "finished"]
        others = [p for p in root.glob("tiny/*") if not any(d.endswith(p.name) for d in done)]
        steps = [path for path in others if list(path.glob("checkpoints/step-00000004"))]
        return len(done) == 2 and bool(steps)

    wait_for(is_in_the_third, process, output)
    process.kill()
    process.wait()
    done = [root / job["path"] for job in jobs() if job["status"] == "finished"]
    assert len(done) == 2
    begun = [path for path in (root / "tiny").iterdir() if path not in done]
    deadline = time.monotonic() + 10  # the jobs are killed with their sweep
    while any(is_held(path) for path in begun):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = {path: contents(path) for path in done}

    answer = etude("train", *words)
    assert answer.code == 0, answer.out
    assert f"6 jobs: {len(done)} reused, {6 - len(done)} finished" in answer.out
    assert {path: contents(path) for path in done} == before
    starts = {p.name: [s["step"] for s in Record.read(p).info["starts"]] for p in begun}
    assert any(steps[0] == 0 and steps[-1] >= 4 for steps in starts.values())
    assert results(root) == results(whole)

    before = {path: contents(path) for path in (root / "tiny").iterdir()}
    answer = etude("train", *words[:-1], "seed=0,1,2,3,4,5,6")
    assert answer.code == 0
    assert "7 jobs: 6 reused, 1 finished" in answer.out
    assert len(list((root / "tiny").iterdir())) == 7
    assert {path: contents(path) for path in before} == before
    assert len(list((root / "_sweeps").iterdir())) == 1


@pytest.mark.parametrize(
    ("signum", "code"), quick_first([(signal.SIGTERM, 143), (signal.SIGINT, 130)])
)
def test_a_signal_stops_all_jobs_and_keeps_what_they_did(
    etude, corpus: Path, tiny, tmp_path: Path, signum: int, code: int
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    more = [*PLANT, "run.samples=0", "hydra.launcher.n_jobs=2"]
    words = ["-m", *tiny(corpus, root, *more), "seed=0,1,2"]
    process = start(words, 0.3, output)
    wait_for(lambda: len(list(root.glob("tiny/*/run.json"))) == 2, process, output)
    time.sleep(0.5)
    process.send_signal(signum)
    assert process.wait(60) == code, output.read_text()
    assert "to resume, run the same command" in output.read_text()
    paths = list((root / "tiny").iterdir())
    assert [Record.read(path).status for path in paths] == ["interrupted"] * 2
    assert all(Record.read(path).checkpoints() for path in paths)
    assert [job["status"] for job in sweep_of(root)["jobs"]] == ["interrupted"] * 2 + ["waiting"]
    answer = etude("train", *words)
    assert answer.code == 0
    assert "3 jobs: 3 finished" in answer.out
