"""Runs in several processes: same samples, same losses, one record, no process left behind."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apart
import pytest
import torch
from comparing import assert_same, rows
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.api import compose
from etude.errors import InvalidArguments, RequestError, RunFailed
from etude.records.record import Record
from etude.training.devices import Devices, cores
from etude.training.process import shared_threads
from etude.training.run import train
from etude.training.trainer import Trainer

Words = Callable[..., list[str]]
Small = Callable[..., DictConfig]

TWO = ["trainer.strategy=ddp", "trainer.devices=2"]
EXACT = ["trainer.precision=64-true", "model.dropout=0.0", "trainer.max_steps=20"]


# -- without starting processes ------------------------------------------------------------------


@pytest.mark.parametrize("order", ["windows", "epochs"])
@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_a_step_make_up_the_step(
    small: Small, tmp_path: Path, order: str, world: int
) -> None:
    from etude.config.checks import check
    from etude.training.build import build_parts

    data = build_parts(check(small(tmp_path, f"data.order={order}"))).data
    data.prepare(Path(os.environ["ETUDE_CACHE"]))

    def steps(rank: int, world: int) -> list[torch.Tensor]:
        data.attach(seed=3, micro_batch=1, total_steps=15, start_step=2, rank=rank, world=world)
        batches = list(data.train_dataloader())
        assert {micro["step_targets"] for step in batches for micro in step} == {4 * 8}
        return [torch.cat([micro["tokens"] for micro in step]) for step in batches]

    whole = steps(0, 1)
    shares = zip(*(steps(rank, world) for rank in range(world)), strict=True)
    for step, share in zip(whole, shares, strict=True):
        assert torch.equal(torch.cat(share), step)


@pytest.mark.parametrize(
    ("arguments", "where", "told"),
    [
        ({"devices": 0}, "devices", "a number of devices (1 or more)"),
        ({"devices": -1}, "devices", "a number of devices (1 or more)"),
        ({"devices": "many"}, "devices", "a number of devices (1 or more)"),
        ({"devices": [0, 0]}, "devices", "a number of devices (1 or more)"),
        ({"devices": [0, 1], "accelerator": "cpu"}, "devices", "a number"),
        ({"devices": 2, "strategy": "fsdp"}, "strategy", "ddp or auto, because devices is 2"),
        ({"num_nodes": 2}, "num_nodes", "because a run uses only one machine"),
    ],
)
def test_what_makes_no_processes_is_refused(
    arguments: dict[str, Any], where: str, told: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        Trainer(max_steps=1, **arguments)
    assert [problem.where for problem in refused.value.problems] == [where]
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("accelerator", "strategy", "devices", "gpus", "processes"),
    [
        ("auto", "auto", "auto", 8, 1),
        ("auto", "ddp", "auto", 8, 8),
        ("auto", "ddp", "auto", 0, 1),
        ("cpu", "ddp", "auto", 8, 1),
        ("cpu", "ddp", 3, 0, 3),
        ("gpu", "auto", 2, 2, 2),
        ("gpu", "ddp", [1, 3], 4, 2),
        ("auto", "auto", "2", 0, 2),
    ],
)
def test_how_many_processes(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    strategy: str,
    devices: Any,
    gpus: int,
    processes: int,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    asked = Devices(accelerator, strategy, devices)
    assert asked.processes == processes
    asked.check()


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpus"), [("gpu", 2, 1), ("auto", 4, 2), ("gpu", [0, 2], 2)]
)
def test_more_gpus_than_there_are(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: Any, gpus: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(RequestError, match=rf"trainer\.devices .*torch can use {gpus} GPU"):
        Devices(accelerator, "ddp", devices).check()


def test_refused_before_anything_starts(words: Words, etude: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    answer = etude("train", *words(root), *TWO, "trainer.devices=3")
    assert answer.code == 2
    expected = "data.batch.examples = 4: expected a number of examples divisible by the number of "
    assert f"{expected}processes (3) (the nearest is 3)" in answer.err
    if not torch.cuda.is_available():
        answer = etude("train", *words(root), *TWO, "trainer.accelerator=gpu")
        assert answer.code == 2
        assert "trainer.accelerator = 'gpu': expected" in answer.err
    assert not root.exists()


def test_each_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(7)
    try:
        with shared_threads(1):
            assert torch.get_num_threads() == 7
        with shared_threads(2):
            assert torch.get_num_threads() == min(7, max(1, cores() // 2))
        with shared_threads(10 * cores()):
            assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        with shared_threads(2):
            assert torch.get_num_threads() == 7
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)


# -- two processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(
    words: Words, write_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Words:
    """A run like `small` with a text whose validation has three batches."""
    text = write_corpus(tmp_path_factory.mktemp("long") / "text.txt", lines=5000)

    def overrides(root: Path, *more: str) -> list[str]:
        return words(root, f"data.path={text}", *more)

    return overrides


def weights(record: Record) -> dict[str, torch.Tensor]:
    return load_file(record.checkpoint("last") / "model.safetensors")


def assert_close(one: Record, other: Record) -> None:
    """Asserts equal rows and weights, up to the order of sums in double precision."""
    mine, others = rows(one), rows(other)
    assert [row["step"] for row in mine] == [row["step"] for row in others]
    for row, same in zip(mine, others, strict=True):
        assert row.keys() == same.keys()
        for key, value in row.items():
            assert value == pytest.approx(same[key], rel=1e-9), key
    trained, same_trained = weights(one), weights(other)
    assert trained.keys() == same_trained.keys()
    for name, tensor in trained.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, same_trained[name], rtol=1e-6, atol=1e-9)


def processes_of(record: Path) -> list[int]:
    """Returns the processes of the other ranks from the log."""
    return [int(n) for n in re.findall(r"is process (\d+)", (record / "log.txt").read_text())]


def assert_gone(pids: list[int], seconds: float = 3.0) -> None:
    assert pids
    end = time.monotonic() + seconds
    while any(map(_runs, pids)):
        assert time.monotonic() < end, "a process was left behind"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_processes_train_as_one_does(long: Words, tmp_path: Path) -> None:
    more = [*EXACT, "trainer.log_every_n_steps=1", "trainer.micro_batch=1"]
    one = train(compose(*long(tmp_path / "one", *more))).record
    two = train(compose(*long(tmp_path / "two", *more, *TWO))).record
    assert one.path.name == two.path.name  # where a run is trained is no part of its name
    assert len(rows(two)) == 20
    assert_close(two, one)
    assert two.status == "finished"
    assert two.info["starts"][-1]["processes"] == 2
    assert two.info["starts"][-1]["devices"] == ["cpu", "cpu"]
    assert two.info["best"]["value"] == pytest.approx(one.info["best"]["value"], rel=1e-9)
    names = {path.name for path in two.path.rglob("*")}
    assert names == {path.name for path in one.path.rglob("*")}
    assert_gone(processes_of(two.path))
    assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def exact(long: Words, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(compose(*long(tmp_path_factory.mktemp("exact"), *EXACT))).record


@pytest.mark.slow
@pytest.mark.parametrize("first", [2, 1])
def test_goes_on_with_another_number_of_processes(
    long: Words, exact: Record, tmp_path: Path, first: int
) -> None:
    asked = long(tmp_path, *EXACT)
    for processes, more in ((first, ["run.stop_at_step=9"]), (3 - first, [])):
        two = TWO if processes == 2 else []
        record = train(compose(*asked, *two, *more)).record
    assert [start["processes"] for start in record.info["starts"]] == [first, 3 - first]
    assert_close(record, exact)
    assert "processes (before: " in (record.path / "log.txt").read_text()


@pytest.fixture(scope="module")
def whole(words: Words, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Record of an uninterrupted run in two processes, with dropout."""
    return train(compose(*words(tmp_path_factory.mktemp("whole"), *TWO))).record


@pytest.mark.slow
@pytest.mark.parametrize("order", ["windows", "epochs"])
def test_killed_and_started_again(words: Words, whole: Record, tmp_path: Path, order: str) -> None:
    asked = words(tmp_path, *TWO, f"data.order={order}", "data.workers=1")
    if order == "epochs":
        whole = train(compose(*words(tmp_path / "whole", *TWO, f"data.order={order}"))).record
    first = apart.start(asked, tmp_path / "output.txt", "killed_in_a_step", 18)
    first.join(120)
    assert first.exitcode == -signal.SIGKILL
    folder = tmp_path / "tiny" / whole.path.name
    assert_gone(processes_of(folder))
    assert Record.read(folder).checkpoints()[-1][0] == 15
    assert_same(train(compose(*asked)).record, whole)


@pytest.mark.slow
def test_the_same_bits_from_four_processes(words: Words, tmp_path: Path) -> None:
    """Sums of more than two numbers depend on their order."""
    four = ["trainer.strategy=ddp", "trainer.devices=4", "model.dim=32", "model.layers=3"]
    at_a_stretch = train(compose(*words(tmp_path / "whole", *four))).record
    train(compose(*words(tmp_path / "cut", *four, "run.stop_at_step=16")))
    assert_same(train(compose(*words(tmp_path / "cut", *four))).record, at_a_stretch)


@pytest.mark.slow
def test_ctrl_c_reaches_every_process(words: Words, whole: Record, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / whole.path.name
    first = apart.start([*words(tmp_path), *TWO], tmp_path / "output.txt", "slow", 100)
    _wait_for(lambda: any(row["step"] >= 4 for row in Record(folder).rows()), first)
    others = processes_of(folder)
    for pid in (*others, first.pid):
        os.kill(pid, signal.SIGINT)
    first.join(60)
    assert first.exitcode == 130
    assert_gone(others)
    stopped = Record.read(folder)
    assert stopped.info["status"] == "interrupted"
    assert 4 <= stopped.info["step"] == stopped.checkpoints()[-1][0] < 40
    assert_same(train(compose(*words(tmp_path, *TWO))).record, whole)


@pytest.mark.slow
def test_a_signal_before_all_are_ready(words: Words, tmp_path: Path) -> None:
    asked = [*words(tmp_path), *TWO]
    first = apart.start(asked, tmp_path / "output.txt")
    _wait_for(lambda: any(path.read_text().count("is process") for path in _logs(tmp_path)), first)
    os.kill(first.pid, signal.SIGTERM)
    first.join(60)
    assert first.exitcode == 143
    (log,) = _logs(tmp_path)
    assert_gone(processes_of(log.parent))
    assert Record.read(log.parent).info["status"] == "interrupted"


@pytest.mark.slow
def test_a_signal_during_validation(
    words: Words, whole: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from etude.errors import Interrupted
    from etude.tasks.causal_lm import CausalLM

    original, calls = CausalLM.validation_step, 0

    def planted(self: CausalLM, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first batch at step 14; the other process has the second
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(CausalLM, "validation_step", planted)
    with pytest.raises(Interrupted):
        train(compose(*words(tmp_path, *TWO)))
    record = Record.read(tmp_path / "tiny" / whole.path.name)
    assert record.info["step"] == record.checkpoints()[-1][0] == 14
    assert_gone(processes_of(record.path))
    assert_same(train(compose(*words(tmp_path, *TWO))).record, whole)


@pytest.mark.slow
def test_in_a_sweep_each_job_has_one_record(
    words: Words, etude: Callable, whole: Record, tmp_path: Path
) -> None:
    answer = etude("train", "-m", *words(tmp_path), *TWO, "seed=1337,1")
    assert answer.code == 0, answer.err
    records = [Record.read(path.parent) for path in tmp_path.glob("tiny/*/run.json")]
    assert sorted(record.info["seed"] for record in records) == [1, 1337]
    for record in records:
        assert [start["processes"] for start in record.info["starts"]] == [2]
        assert_gone(processes_of(record.path))
    assert_same(next(r for r in records if r.path.name == whole.path.name), whole)


@pytest.mark.slow
def test_early_stopping_stops_every_process(words: Words, tmp_path: Path) -> None:
    more = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0.5"]
    one = train(compose(*words(tmp_path / "one", "model.dropout=0", *more))).record
    assert one.info["step"] < 40
    two = train(compose(*words(tmp_path / "two", "model.dropout=0", *more, *TWO))).record
    assert two.status == "finished"
    assert two.info["step"] == one.info["step"]
    assert_gone(processes_of(two.path))


FAULTY = """
import os, signal, sys
import pytorch_lightning as pl
import torch
from etude.tasks.causal_lm import CausalLM

if os.environ["FAULT"] == "import" and os.environ.get("RANK") == "1":
    raise ImportError("no such thing here")

class Fault(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        kind = os.environ["FAULT"]
        if kind == "first" and trainer.global_rank == 0 and trainer.global_step == 6:
            raise ValueError("only here")
        if kind == "both" and trainer.global_step == 6:
            raise RuntimeError("everywhere")
        if trainer.global_rank != 1 or trainer.global_step != 6:
            return
        if kind == "error":
            raise ValueError("no luck\\nat all")
        if kind == "memory":
            raise torch.OutOfMemoryError("2 GiB are missing")
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exit":
            os._exit(7)

class Bad(CausalLM):
    def loss(self, micro):
        value = super().loss(micro)
        mine = self.global_rank == 1 and self.trainer.global_step == 6
        return value * float("nan") if mine and os.environ["FAULT"] == "nan" else value
"""


@pytest.fixture
def faulty(
    words: Words, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], list[str]]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "faulty", raising=False)

    def overrides(kind: str) -> list[str]:
        monkeypatch.setenv("FAULT", kind)
        more = ["extensions=[faulty]", "task._target_=faulty.Bad"]
        return words(tmp_path / "runs", *TWO, *more, "+callbacks.fault._target_=faulty.Fault")

    return overrides


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("error", "failed", "rank 1: ValueError: no luck"),
        ("memory", "oom", "rank 1: OutOfMemoryError: 2 GiB are missing"),
        ("killed", "failed", "rank 1: killed by SIGKILL"),
        ("exit", "failed", "rank 1: ended with exit code 7"),
        ("import", "failed", "faulty.py, line 8: ImportError: no such thing here)"),
        ("first", "failed", "failed: ValueError: only here"),
        ("both", "failed", "RuntimeError: everywhere"),
        ("nan", "diverged", "train/loss is nan at step 7 "),
    ],
)
def test_what_ends_another_process_ends_the_run(
    faulty: Callable[[str], list[str]], tmp_path: Path, kind: str, status: str, told: str
) -> None:
    began = time.monotonic()
    with pytest.raises(RunFailed, match=re.escape(told)):
        train(compose(*faulty(kind)))
    assert time.monotonic() - began < 60
    (path,) = (tmp_path / "runs").rglob("run.json")
    record = Record.read(path.parent)
    assert record.status == status
    assert_gone(processes_of(record.path))
    assert not torch.distributed.is_initialized()
    log = (record.path / "log.txt").read_text()
    if kind in ("error", "memory", "import"):
        assert re.search(rf"rank 1: Traceback[\s\S]*{re.escape(told)}", log)
        assert record.info["error"].startswith("RankFailed: rank 1")


def test_a_process_group_of_somebody_else_is_left_alone(words: Words, tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(RequestError, match=r"trainer\.devices = 2: expected 1"):
            train(compose(*words(tmp_path / "runs", *TWO)))
        assert torch.distributed.is_initialized()
        train(compose(*words(tmp_path / "runs", "trainer.max_steps=2")))
    finally:
        torch.distributed.destroy_process_group()


def _wait_for(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)


def _logs(root: Path) -> list[Path]:
    return list(root.rglob("log.txt"))
