"""What ends one job of a sweep, and how the sweep goes on: nothing here is imitated."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.records.lock import is_held
from etude.records.record import Record

HERE = Path(__file__).parent
PLANT = ["extensions=[planted]", "+callbacks.planted._target_=planted.Planted"]


@pytest.fixture(autouse=True)
def _planted_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def sweep_of(root: Path) -> dict[str, Any]:
    (folder,) = (root / "_sweeps").iterdir()
    found = json.loads((folder / "sweep.json").read_text())
    jobs = {job["key"]: job for job in found["jobs"]}
    return found | {"jobs": [jobs[key] for key in found["asked"]], "folder": folder}


@pytest.mark.parametrize(
    ("axis", "status", "recorded", "said", "trace"),
    [
        ("+callbacks.planted.how=nothing,raise,spin", "failed", "failed", "planted", True),
        ("+callbacks.planted.how=nothing,kill,spin", "failed", "failed", "SIGKILL", False),
        ("+callbacks.planted.how=nothing,exit,spin", "failed", "failed", "exit code 7", False),
        ("+callbacks.planted.how=nothing,oom,spin", "oom", "oom", "trainer.micro_batch", True),
        ("model.heads=1,3,2", "refused", None, "model.heads = 3", False),
    ],
)
def test_one_job_ends_badly_and_the_others_are_done(
    etude,
    corpus: Path,
    tiny,
    tmp_path: Path,
    axis: str,
    status: str,
    recorded: str | None,
    said: str,
    trace: bool,
) -> None:
    root = tmp_path / "experiments"
    answer = etude("train", "-m", *tiny(corpus, root, *PLANT, "run.samples=0"), axis)
    assert answer.code == 1, answer.out
    assert f"3 jobs: 2 finished, 1 {status}" in answer.out
    told = answer.out.rpartition("3 jobs:")[2]  # the table at the end
    assert said in told
    sweep = sweep_of(root)
    first, second, third = sweep["jobs"]
    assert [first["status"], second["status"], third["status"]] == ["finished", status, "finished"]
    assert said in second["message"]
    log = (sweep["folder"] / "logs" / f"{second['key']}.txt").read_text()
    assert ("Traceback" in log) == trace
    if recorded is None:
        assert "path" not in second
        return
    record = Record.read(root / second["path"])
    assert record.status == recorded
    assert said.split(".")[-1] in record.info["error"] or recorded == "oom"
    assert ("Traceback" in record.info.get("traceback", "")) == trace
    own = (record.path / "log.txt").read_text()
    assert ("Traceback" in own) == trace
    assert trace or said in own


def test_a_sweep_may_stop_at_the_first_error(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    words = tiny(corpus, root, *PLANT, "run.samples=0", "run.on_error=stop")
    answer = etude("train", "-m", *words, "+callbacks.planted.how=nothing,raise,spin")
    assert answer.code == 1
    assert "3 jobs: 1 finished, 1 failed, 1 waiting" in answer.out
    assert [job["status"] for job in sweep_of(root)["jobs"]] == ["finished", "failed", "waiting"]
    assert len(list((root / "tiny").iterdir())) == 2


def test_a_failed_job_is_tried_again_and_the_others_are_not(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "experiments"
    words = ["train", "-m", *tiny(corpus, root, *PLANT, "run.samples=0"), "seed=0,1"]
    words.append("+callbacks.planted.how=raise")
    assert etude(*words).code == 1
    monkeypatch.setattr("planted.Planted.on_train_batch_end", lambda *_: None)
    answer = etude(*words)
    assert answer.code == 0, answer.out
    assert "2 jobs: 2 finished" in answer.out
    for path in (root / "tiny").iterdir():
        assert "error" not in Record.read(path).info
    assert "2 reused" in etude(*words).out


# -- killed in the middle ---------------------------------------------------------------------


def start(words: list[str], seconds: float, output: Path) -> subprocess.Popen[bytes]:
    """`etude train WORDS` in a process of its own, each step slowed down."""
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
    """What the runs of a root came to, without the time it took."""
    found = {}
    for path in (root / "tiny").iterdir():
        record = Record.read(path)
        assert record.status == "finished"
        rows = record.rows()
        steps = [row["step"] for row in rows]
        assert steps == sorted(set(steps))  # each step once
        timeless = [
            {k: v for k, v in row.items() if k != "time" and not k.startswith("perf/")}
            for row in rows
        ]
        weights = (record.checkpoint("last") / "model.safetensors").read_bytes()
        found[path.name] = (timeless, hashlib.sha256(weights).hexdigest())
        assert not list(path.rglob("*.tmp-*"))
    return found


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_killed_sweep_goes_on(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Six jobs, killed in the third; then a seventh value."""
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
    deadline = time.monotonic() + 10  # the jobs die with their sweep
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


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
    assert "the same command goes on" in output.read_text()
    paths = list((root / "tiny").iterdir())
    assert [Record.read(path).status for path in paths] == ["interrupted"] * 2
    assert all(Record.read(path).checkpoints() for path in paths)
    assert [job["status"] for job in sweep_of(root)["jobs"]] == ["interrupted"] * 2 + ["waiting"]
    answer = etude("train", *words)
    assert answer.code == 0
    assert "3 jobs: 3 finished" in answer.out


def test_what_another_process_holds_is_left_alone(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    words = tiny(corpus, root, *PLANT, "run.samples=0")
    process = start([*words, "seed=1"], 20, output)  # a step takes longer than the rest
    wait_for(lambda: bool(list(root.glob("tiny/*/run.json"))), process, output)
    answer = etude("train", "-m", *words, "seed=0,1,2")
    assert process.poll() is None
    assert answer.code == 3, answer.out
    assert "3 jobs: 2 finished, 1 held" in answer.out
    assert f"process {process.pid} on {os.uname().nodename}" in answer.out
    process.kill()
    process.wait()


@pytest.mark.slow
def test_in_processes_that_share_nothing(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process cannot be forked."""
    monkeypatch.setattr("etude.sweeps.pool.START", "spawn")
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", "hydra.launcher.n_jobs=2")
    answer = etude("train", "-m", *words, "model.heads=1,3,2")
    assert answer.code == 1
    assert "3 jobs: 2 finished, 1 refused" in answer.out
    monkeypatch.setattr("etude.sweeps.pool.START", "fork")
    assert "2 jobs: 2 reused" in etude("train", "-m", *words, "model.heads=1,2").out


def test_two_jobs_that_are_one_run(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    """Micro-batches are no part of a run; the second job waits and finds it done."""
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", "hydra.launcher.n_jobs=2", "trainer.max_steps=60")
    answer = etude("train", "-m", *words, "trainer.micro_batch=1,2", "seed=0,1")
    assert answer.code == 0, answer.out
    assert "4 jobs: 2 finished, 2 reused" in answer.out
    assert len(list((root / "tiny").iterdir())) == 2


def test_gpus_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from etude.errors import InvalidArguments
    from etude.sweeps.slots import slots, visible_gpus

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7f")
    assert visible_gpus() == ["2", "GPU-7f"]
    given = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots("auto", 2, gpus=["2", "5"])]
    assert given == ["2", "5", "2", "5"]
    with pytest.raises(InvalidArguments, match="at most 2, on 2 GPUs"):
        slots(3, 1, gpus=["2", "5"])
    assert [slot.environment for slot in slots(2, 1, gpus=[])] == [{}, {}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    for wrong in (0, "many", 2.5):
        with pytest.raises(InvalidArguments, match="n_jobs"):
            slots(wrong, 1, gpus=[])
