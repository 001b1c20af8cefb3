"""A custom launcher runs a sweep; a launcher without a required method is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import example


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the page's launcher as a Hydra plugin, and returns the folder of its config."""

    def write(code: str) -> Path:
        plugin = tmp_path / "code" / "hydra_plugins" / "one_by_one.py"
        plugin.parent.mkdir(parents=True)
        plugin.write_text(code, encoding="utf-8")
        file = tmp_path / "conf" / "hydra" / "launcher" / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(example("launcher").config, encoding="utf-8")
        return tmp_path / "conf"

    return write


@pytest.mark.slow
def test_it_carries_out_a_sweep(
    written: Callable, corpus: Path, tiny: Callable, tmp_path: Path
) -> None:
    conf = written(example("launcher").code)
    path = os.pathsep.join([str(tmp_path / "code"), *os.environ.get("PYTHONPATH", "").split(":")])
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "etude", "train", "-m", f"--config-dir={conf}"),
            *tiny(corpus, tmp_path / "runs", "hydra/launcher=mine", "model.layers=1,2"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "2 jobs: 2 finished" in answer.stdout


def test_one_without_launch_is_reported(
    written: Callable,
    corpus: Path,
    tiny: Callable,
    etude: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conf = written(example("launcher").code.replace("def launch(", "def start("))
    monkeypatch.syspath_prepend(tmp_path / "code")
    overrides = tiny(corpus, tmp_path / "runs", "hydra/launcher=mine", "model.layers=1,2")
    answer = etude("train", "-m", f"--config-dir={conf}", *overrides)
    sys.modules.pop("hydra_plugins.one_by_one", None)
    assert answer.code == 2
    assert (
        "hydra.launcher._target_ = 'hydra_plugins.one_by_one.OneByOne': expected a class with a "
        "method launch(job_overrides, initial_job_idx) (see docs/contracts/launcher.md)"
    ) in answer.err
    assert not (tmp_path / "runs").exists()
