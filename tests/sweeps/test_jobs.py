"""Running a job, the overhead of a job in a sweep, and small jobs that share a CPU."""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_processes import sweep_of

from etude.config import checks, compose
from etude.config.checks import check
from etude.garbage_collection import collect_rarely
from etude.records.record import FINAL_STATUSES, STATUSES, Record
from etude.records.status import Status
from etude.sweeps import launcher
from etude.sweeps.forking import prepare_to_fork
from etude.sweeps.job import Job, count_by_status, run_job, sweep_exit_code
from etude.sweeps.job_slots import SMALL_STEP, small_job_count
from etude.training.state import Outcome


def test_a_status_is_its_word_and_says_what_follows() -> None:
    assert STATUSES == (
        "running", "finished", "failed", "interrupted", "paused", "diverged", "oom",
    )  # fmt: skip
    assert FINAL_STATUSES == ("finished", "diverged")
    assert [one for one in Status if one.is_successful] == ["finished", "paused", "reused"]
    assert [one for one in Status if one.is_failure] == ["failed", "diverged", "oom", "refused"]
    assert not [one for one in Status if one.is_successful and one.is_failure]


def test_what_a_sweep_ends_with() -> None:
    def code(*statuses: str) -> int:
        jobs = [Job(status, Status(status)) for status in statuses]
        return sweep_exit_code(jobs, done=0, failed=1, wrong=2, held=3)

    assert code("finished", "reused", "paused") == 0
    assert code("finished", "held") == 3
    assert code("refused", "refused") == 2
    for status in ("failed", "oom", "diverged", "refused", "waiting", "interrupted"):
        assert code("finished", "held", status) == 1
    same = Job("b", Status.FAILED, same_as="0")
    assert (
        count_by_status([Job("a", Status.FAILED), same])
        == "2 jobs: 1 failed, 1 the same as another job"
    )
    assert count_by_status([Job("a", Status.FAILED)]) == "1 job: 1 failed"


def test_a_job_is_carried_out_from_its_overrides_alone(tmp_path: Path) -> None:
    def train(config: Any, checked: Any) -> Outcome:
        return Outcome("finished", Record(tmp_path / f"{config.seed}{'' if checked else '!'}"))

    words = ["experiment=debug", "seed=3"]
    assert run_job(words, train).path == str(tmp_path / "3!")
    config = compose.compose(words)
    assert run_job(words, train, config=config).path == str(tmp_path / "3!")
    job = run_job(words, train, checked=check(config), label="mine")
    assert (job.path, job.label, job.status) == (str(tmp_path / "3"), "mine", "finished")
    wrong = run_job(["experiment=debug", "sead=3"], train)
    assert wrong.status is Status.REFUSED
    assert "did you mean seed" in str(wrong.message)


def test_a_finished_job_is_composed_twice_and_checked_once(
    etude, corpus: Path, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composed as a value of its axis and as a job, without a process or Hydra's loader."""
    words = ["train", "-m", *tiny(corpus, tmp_path / "runs", "run.samples=0")]
    earlier = 1_700_000_000
    os.utime(corpus, (earlier, earlier))
    assert etude(*words, "seed=0,1").code == 0
    monkeypatch.setattr("etude.records.fingerprints._SETTLED", 0)
    assert etude(*words, "seed=0,1").code == 0
    calls: Counter[str] = Counter()

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counts(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counts)

    counting(compose, "_compose")
    counting(launcher, "check")
    counting(compose.CachingLoader, "load_configuration")
    counting(compose.CachingLoader, "_load_files")
    counting(checks, "resolve_with_placeholders")
    few = {}
    for axis in ("seed=0,1", "seed=0,1,0,1,0,1"):
        calls.clear()
        assert " reused" in etude(*words, axis).out
        few[axis] = calls.copy()
    assert few["seed=0,1"]["check"] == 2
    assert few["seed=0,1,0,1,0,1"]["check"] == 6
    grown = few["seed=0,1,0,1,0,1"] - few["seed=0,1"]
    assert grown == {"_compose": 8, "check": 4}


@pytest.mark.parametrize(
    ("flops", "memory", "jobs", "threads", "count"),
    [
        (1e6, 2**20, 12, None, 4),
        (1e6, 2**20, 3, None, 3),
        (1e6, 2**20, 12, "1", 4),
        (1e6, 2**20, 12, "2", 2),
        (1e6, 2**20, 12, "8", 1),
        (SMALL_STEP * 1.01, 2**20, 12, None, 1),
        (1e6, 2**30, 12, None, 1),
    ],
)
def test_small_jobs_share_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    flops: float,
    memory: int,
    jobs: int,
    threads: str | None,
    count: int,
) -> None:
    monkeypatch.setattr("etude.sweeps.job_slots.cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    step: Any = SimpleNamespace(training_flops=flops, step_bytes=memory)
    assert small_job_count(step, jobs, 4 * 2**30) == count
    if count > 1:
        assert small_job_count(step, jobs, None) == count


@pytest.mark.slow
@pytest.mark.parametrize(("words", "threads"), [([], 1), (["hydra.launcher.n_jobs=1"], None)])
def test_the_record_says_how_many_threads(
    etude,
    corpus: Path,
    tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    threads: int | None,
) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("etude.sweeps.job_slots.cores", lambda: 2)
    root = tmp_path / "runs"
    answer = etude("train", "-m", *tiny(corpus, root, "run.samples=0", *words), "seed=0,1")
    assert ("running 2 jobs in parallel, one thread each" in answer.out) == (not words)
    for job in sweep_of(root)["jobs"]:
        start = Record.read(root / job["path"]).last_start
        assert start["threads"] == (threads or torch.get_num_threads())


@pytest.mark.parametrize("experiment", ["debug", "sort"])
def test_jobs_are_forked_with_nothing_to_visit(experiment: str) -> None:
    usual = gc.get_threshold()
    checked = check(compose.compose(f"experiment={experiment}"))
    collect_rarely()
    try:
        step = prepare_to_fork(checked)
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() == usual
        assert step is not None
        assert step.training_flops < SMALL_STEP
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
