"""W&B's process: its messages, its end, and its independence of the environment."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from read_views import (
    BOTH,
    same_as_metrics,
    wandb_exit_code,
    wandb_file,
    wandb_rows,
    wandb_run,
)

from etude.errors import InvalidArguments
from etude.loggers.base import RunInfo
from etude.loggers.run_loggers import RunLoggers
from etude.loggers.wandb import WandB
from etude.secrets import Mask

ROWS: list[dict[str, Any]] = [{"step": s, "train/loss": 1 / s, "tokens": 7 * s} for s in (1, 2, 3)]
SECRET = "hunter2-of-the-environment"


def run_in(folder: Path, **changes: Any) -> RunInfo:
    told: dict[str, Any] = {"name": "tiny", "signature": "0123456789ab~2", "group": "feedfeedfeed"}
    told |= {"label": "", "seed": 0, "tags": ["t" * 80], "config": {"model": {"dim": 8}}}
    return RunInfo(folder, **(told | changes))


def started(logger: WandB, folder: Path, **changes: Any) -> RunLoggers:
    views = RunLoggers({"wandb": logger})
    views.set_run(run_in(folder, **changes))
    views.start(lambda: ROWS[:1])
    return views


def process_of(logger: WandB) -> subprocess.Popen[str]:
    """Returns the logger's process after the W&B run has started."""
    wait_for(lambda: bool(logger._summary))
    assert logger._process is not None
    return logger._process


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def services(of: int) -> list[int]:
    """Returns the `wandb-core` processes started by process `of`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if words[0].endswith(b"wandb-core") and str(of).encode() in words:
            found.append(int(path.parent.name))
    return found


def logged(folder: Path) -> list[dict[str, Any]]:
    rows = wandb_rows(folder)
    return [{"step": r["_step"], **{k: r[k] for k in ROWS[0] if k != "step"}} for r in rows]


def test_nothing_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config sets offline and etude; variables for other programs are ignored."""
    settings = ("API_KEY", "NAME", "NOTES", "TAGS", "ENTITY", "PROJECT", "RUN_GROUP", "JOB_TYPE")
    for name in (*settings, "USERNAME", "USER_EMAIL", "HOST", "PROGRAM", "DIR", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", SECRET)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("USER", SECRET)
    monkeypatch.setattr(sys, "argv", ["etude", SECRET])
    logger = WandB(entity=SECRET)  # written `logger.wandb.entity=${oc.env:SECRET}`
    views = started(logger, tmp_path, mask=Mask({"SECRET": SECRET}))
    views.metrics(ROWS[1])
    process = process_of(logger)
    (service,) = services(process.pid)
    views.finish("paused")

    assert logged(tmp_path) == ROWS[:2]
    run = wandb_run(tmp_path)
    assert (run.run_id, run.project, run.entity) == ("0123456789ab-2", "etude", "")
    assert (run.display_name, list(run.tags)) == ("tiny", ["t" * 64])
    assert wandb_exit_code(tmp_path) == 0
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert "wandb sync --entity" in logger._summary
    assert process.returncode == 0
    wait_for(lambda: not Path(f"/proc/{service}").exists() or _is_zombie(service))
    assert not Path(logger._scratch).exists()
    assert "WANDB_SERVICE" not in os.environ


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_process_that_dies_is_reported_and_nothing_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = WandB()
    with caplog.at_level(logging.WARNING, "etude"):
        views = started(logger, tmp_path)
        process = process_of(logger)
        (service,) = services(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        views.metrics(ROWS[1])
        views.finish("finished")
    (told,) = caplog.messages
    assert told.startswith(
        "logger wandb failed; the run continues without it: RuntimeError: the W&B proc"
    )
    wait_for(lambda: _is_zombie(service))
    assert not Path(logger._scratch).exists()
    for path in tmp_path.rglob("*"):  # what it could not clear away names no place
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


def test_a_process_that_hangs_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = WandB(timeout=0.5)
    with caplog.at_level(logging.WARNING, "etude"):
        views = started(logger, tmp_path)
        process = process_of(logger)
        (service,) = services(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        views.finish("finished")
    assert caplog.messages == [
        "logger wandb failed; the run continues without it: the logger did not finish within 0.5 s"
    ]
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: _is_zombie(service))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ImportError('no wandb here')", "RuntimeError: ImportError: no wandb here"),
        ("import sys; print('chatter'); sys.exit(3)", "RuntimeError: SystemExit: 3"),
        ("import os; os._exit(5)", "RuntimeError: the W&B process ended with exit code 5"),
    ],
)
def test_a_wandb_that_does_not_work(
    module: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text(module + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with caplog.at_level(logging.WARNING, "etude"):
        views = started(WandB(), tmp_path)
        views.metrics(ROWS[1])
        views.finish("finished")
    assert caplog.messages == [f"logger wandb failed; the run continues without it: {said}"]


def test_disabled_does_nothing(tmp_path: Path) -> None:
    views = started(WandB(mode="disabled"), tmp_path)
    views.metrics(ROWS[1])
    views.finish("finished")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(InvalidArguments, match=r"project.*\n.*timeout"):
        WandB(project="a/b", timeout=0)


PLANT = """
import os, signal, sys
from etude.tasks.causal_lm import CausalLM
from etude import cli
from etude.loggers import wandb
whole = CausalLM.training_step
def step(self, *arguments):
    if self.trainer.global_step == 7:
        import time
        time.sleep(4)  # W&B's run is up by now
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)
CausalLM.training_step = step
cli.run(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_killed_and_continued(etude: Any, corpus: Path, tiny: Any, tmp_path: Path) -> None:
    """After a kill, W&B's process ends by itself; the continued run logs each step once."""
    words = tiny(corpus, tmp_path / "root", "trainer.log_every_n_steps=1", "run.samples=0", BOTH)
    killed = subprocess.run([sys.executable, "-c", PLANT, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    (path,) = (tmp_path / "root" / "tiny").iterdir()
    wait_for(lambda: wandb_exit_code(path) is not None)
    assert wandb_exit_code(path) == 1
    assert [row["_step"] for row in wandb_rows(path)] == [1, 2, 3, 4, 5, 6, 7]
    first = wandb_file(path)

    assert etude("train", *words).code == 0
    assert wandb_file(path) != first
    same_as_metrics(path)


@pytest.mark.slow
def test_three_jobs_three_views(etude: Any, corpus: Path, tiny: Any, tmp_path: Path) -> None:
    """Each job of a sweep has its own W&B run and event file, equal to its metrics."""
    words = tiny(corpus, tmp_path / "root", "run.samples=0", "trainer.log_every_n_steps=1", BOTH)
    assert etude("train", "-m", *words, "seed=0,1,2").code == 0
    paths = sorted((tmp_path / "root" / "tiny").iterdir())
    assert len(paths) == 3
    for path in paths:
        same_as_metrics(path)
    runs = [wandb_run(path) for path in paths]
    assert {run.run_id for run in runs} == {path.name for path in paths}
    assert len({run.run_group for run in runs}) == 1


@pytest.mark.slow
def test_a_pause_and_an_interruption(
    etude: Any, corpus: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etude.tasks.causal_lm import CausalLM

    words = tiny(corpus, tmp_path / "root", "run.samples=0", "trainer.log_every_n_steps=1", BOTH)
    assert etude("train", *words, "run.stop_at_step=3").code == 0
    (path,) = (tmp_path / "root" / "tiny").iterdir()
    assert wandb_exit_code(path) == 0
    same_as_metrics(path)

    whole = CausalLM.training_step

    def interrupted(self: Any, *arguments: Any) -> Any:
        if self.trainer.global_step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments)

    monkeypatch.setattr(CausalLM, "training_step", interrupted)
    assert etude("train", *words).code == 130
    assert wandb_exit_code(path) == 1
    same_as_metrics(path)

    monkeypatch.setattr(CausalLM, "training_step", whole)
    assert etude("train", *words).code == 0
    assert len(wandb_rows(path)) == 10
    same_as_metrics(path)
