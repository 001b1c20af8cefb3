"""Jobs that fail or are killed, and how the sweep continues; with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_processes import PLANT, start, sweep_of, wait_for

from etude.errors import Interrupted
from etude.records.record import Record
from etude.records.status import Status
from etude.sweeps.dashboard import Dashboard
from etude.sweeps.job import Job
from etude.sweeps.job_slots import job_slots
from etude.sweeps.pool import JobTask, Pool, start_method


@pytest.mark.slow
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
    words.append("hydra.launcher.n_jobs=1")
    answer = etude("train", "-m", *words, "+callbacks.planted.how=nothing,raise,spin")
    assert answer.code == 1
    assert "3 jobs: 1 finished, 1 failed, 1 waiting" in answer.out
    assert [job["status"] for job in sweep_of(root)["jobs"]] == ["finished", "failed", "waiting"]
    assert len(list((root / "tiny").iterdir())) == 2


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_another_process_holds_is_left_alone(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    root, output = tmp_path / "runs", tmp_path / "output.txt"
    words = tiny(corpus, root, *PLANT, "run.samples=0")
    process = start(
        [*words, "seed=1"], 20, output
    )  # one step takes longer than the rest of the test
    wait_for(lambda: bool(list(root.glob("tiny/*/run.json"))), process, output)
    answer = etude("train", "-m", *words, "seed=0,1,2")
    assert process.poll() is None
    assert answer.code == 3, answer.out
    assert "3 jobs: 2 finished, 1 held" in answer.out
    assert f"process {process.pid} on {os.uname().nodename}" in answer.out
    process.kill()
    process.wait()


@pytest.mark.slow
def test_from_a_process_that_has_computed_on_several_threads(
    corpus: Path, tiny, tmp_path: Path
) -> None:
    """As in a notebook: a forked job must not wait for OpenMP threads, which are not copied."""
    words = tiny(corpus, tmp_path / "runs", "run.samples=0")
    words += ["model.dim=64", "trainer.max_steps=3"]
    script = f"""
import torch
torch.set_num_threads(2)
ones = torch.ones(600, 600)
assert (ones.exp() @ ones).sum() > 0
from etude.cli import main
main(["train", "-m", *{words!r}, "seed=0,1", "hydra.launcher.n_jobs=1"])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert "2 jobs: 2 finished" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("etude.sweeps.pool.START", "spawn"), ("torch.cuda.is_initialized", lambda: True)],
)
def test_in_processes_that_share_nothing(
    etude,
    corpus: Path,
    tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
) -> None:
    """On systems without a safe fork, and in a process that uses a GPU."""
    monkeypatch.setattr(name, value)
    assert start_method() == "spawn"
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", "hydra.launcher.n_jobs=2")
    answer = etude("train", "-m", *words, "model.heads=1,3,2")
    assert answer.code == 1
    assert "3 jobs: 2 finished, 1 refused" in answer.out
    monkeypatch.undo()
    assert "2 jobs: 2 reused" in etude("train", "-m", *words, "model.heads=1,2").out


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_two_jobs_that_are_one_run(etude, corpus: Path, tiny, tmp_path: Path, at_once: int) -> None:
    """A dropout of 0.0 equals 0, so both jobs are the same request. The micro-batch is not part of
    a run's signature: such a job waits and reuses the finished run.
    """
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", f"hydra.launcher.n_jobs={at_once}")
    words += ["trainer.micro_batch=1,2", "model.dropout=0,0.0"]
    answer = etude("train", "-m", *words)
    assert answer.code == 0, answer.out
    assert "[2/4] same as job 1" in answer.out
    assert "4 jobs: 1 finished, 1 reused, 2 the same as another" in answer.out
    assert "  duplicate  job 4 is the same run as job 3  " in answer.out
    (path,) = (root / "tiny").iterdir()
    assert len(Record.read(path).info["starts"]) == 1
    sweep = sweep_of(root)
    jobs = sweep["jobs"]
    assert {job["path"] for job in jobs} == {f"tiny/{path.name}"}
    keys = [jobs[0]["key"], jobs[2]["key"]]
    assert [job.get("same_as") for job in jobs] == [None, keys[0], None, keys[1]]
    again = etude("train", "-m", *words)
    assert "4 jobs: 2 reused, 2 the same as another" in again.out


def test_a_job_that_is_the_same_as_one_that_failed_has_failed(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    root = tmp_path / "experiments"
    words = tiny(corpus, root, *PLANT, "run.samples=0", "+callbacks.planted.how=raise")
    answer = etude("train", "-m", *words, "model.dim=8,8")
    assert answer.code == 1
    assert "2 jobs: 1 failed, 1 the same as another" in answer.out
    first, second = sweep_of(root)["jobs"]
    assert (second["status"], second["message"]) == ("failed", first["message"])


def test_one_that_is_carried_out_otherwise_is_no_twin(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    """The first job fails, because its cache folder cannot be created."""
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", f"run.cache=/proc/none,{tmp_path}/cache")
    answer = etude("train", "-m", *words)
    assert answer.code == 1, answer.out
    assert "2 jobs: 1 refused, 1 finished" in answer.out


def test_the_same_run_that_stops_at_two_steps(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    words = tiny(corpus, root, "run.samples=0", "run.stop_at_step=3,7")
    answer = etude("train", "-m", *words)
    assert answer.code == 0, answer.out
    assert "2 jobs: 2 paused" in answer.out
    (path,) = (root / "tiny").iterdir()
    assert Record.read(path).info["step"] == 7


def test_the_same_run_below_two_roots_is_two(tmp_path: Path) -> None:
    from etude.api import plan

    roots = f"run.root={tmp_path}/a,{tmp_path}/b"
    jobs = plan("experiment=debug", roots, "model.dropout=0,0.0", multirun=True, measure=False)
    assert [job.same_as for job in jobs] == [None, 1, None, 3]
    jobs = plan("experiment=debug", "trainer.micro_batch=1,2", multirun=True, measure=False)
    assert [job.same_as for job in jobs] == [None, None]


def test_gpus_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from etude.errors import InvalidArguments
    from etude.sweeps.job_slots import job_slots, visible_gpus

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7f")
    assert visible_gpus() == ["2", "GPU-7f"]
    given = [
        slot.environment["CUDA_VISIBLE_DEVICES"] for slot in job_slots("auto", 2, gpus=["2", "5"])
    ]
    assert given == ["2", "5", "2", "5"]
    with pytest.raises(InvalidArguments, match="at most 2 jobs on 2 GPUs"):
        job_slots(3, 1, gpus=["2", "5"])
    assert [slot.environment for slot in job_slots(2, 1, gpus=[])] == [{}, {}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    for wrong in (0, "many", 2.5):
        with pytest.raises(InvalidArguments, match="n_jobs"):
            job_slots(wrong, 1, gpus=[])


def test_a_signal_before_a_job_starts_lets_none_start(tmp_path: Path) -> None:
    """Creating the first job takes seconds, because torch is imported."""
    job = Job("a", Status.WAITING)

    def call() -> Job:
        (tmp_path / "begun").touch()
        return job

    def tasks() -> Iterator[JobTask]:
        os.kill(os.getpid(), signal.SIGINT)
        yield JobTask(1, job, call, tmp_path / "logs" / "a.txt")

    pool = Pool(job_slots(1, 1, gpus=[]), Dashboard(1, 1), lambda job: None)
    with pytest.raises(Interrupted):
        pool.run(tasks())
    assert not (tmp_path / "begun").exists()


def test_jobs_of_one_folder_are_carried_out_one_after_the_other(tmp_path: Path) -> None:
    """Three jobs of one folder and one job of another, on three slots."""

    def task(number: int, name: str) -> JobTask:
        job = Job(name, Status.FINISHED)

        def call() -> Job:
            folder = tmp_path / name
            folder.mkdir()  # fails if another job uses it
            time.sleep(0.3)
            folder.rmdir()
            return job

        run, log = tmp_path / name, tmp_path / "logs" / f"{number}.txt"
        return JobTask(number, replace(job, status=Status.WAITING), call, log, run=run)

    pool = Pool(job_slots(3, 4, gpus=[]), Dashboard(4, 3), lambda job: None)
    jobs = pool.run(iter([task(number, name) for number, name in enumerate("aaab", 1)]))
    assert [(job.label, job.status) for job in jobs] == [
        (name, Status.FINISHED) for name in "aaab"
    ], [job.message for job in jobs]
