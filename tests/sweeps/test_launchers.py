"""Hydra's other launchers give the same runs, record and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etude.records.record import Record


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=basic"]]
)
def test_through_it(etude, corpus: Path, tiny, tmp_path: Path, launcher: list[str]) -> None:
    root = tmp_path / "experiments"
    words = ["train", "-m", *tiny(corpus, root, *launcher, "run.samples=0"), "model.heads=1,3,2"]
    answer = etude(*words)
    assert answer.code == 1, answer.out + answer.err
    assert "3 jobs: 2 finished, 1 refused" in answer.out
    assert "model.heads = 3" in answer.out
    (folder,) = (root / "_sweeps").iterdir()
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert sorted(job["status"] for job in jobs) == ["finished", "finished", "refused"]
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    paths = list((root / "tiny").iterdir())
    assert [Record.read(path).status for path in paths] == ["finished"] * 2
    answer = etude(*words[:-1], "model.heads=1,2")
    assert answer.code == 0
    assert "2 jobs: 2 reused" in answer.out
