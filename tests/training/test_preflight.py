"""Invalid paths and machines: exit code 2, no training, no files left behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from etude.errors import RequestError
from etude.records import storage
from etude.tasks.causal_lm import CausalLM
from etude.training.run import train

Words = Callable[..., list[str]]


@pytest.fixture
def forbid_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(*_: Any) -> None:
        raise AssertionError("the data was prepared before the place was looked at")

    monkeypatch.setattr("etude.data.text.TextData.prepare", prepared)


@pytest.mark.usefixtures("forbid_data")
def test_the_root_is_a_file(words: Words, etude: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.write_text("not a folder")
    answer = etude("train", *words(root))
    assert answer.code == 2
    assert f"run.root = '{root}': expected a folder" in answer.err
    assert root.read_text() == "not a folder"


@pytest.mark.usefixtures("forbid_data")
def test_the_root_cannot_be_written(
    words: Words, etude: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Permission bits do not stop a superuser, who runs many a test.
    monkeypatch.setattr(storage.os, "access", lambda path, mode: not mode & os.W_OK)
    answer = etude("train", *words(tmp_path / "runs"))
    assert answer.code == 2
    assert f"run.root = '{tmp_path}': expected a writable folder" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not stop a superuser")
def test_a_read_only_root(words: Words, etude: Callable, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir(mode=0o555)
    answer = etude("train", *words(root))
    assert answer.code == 2
    assert f"run.root = '{root}': expected a writable folder" in answer.err


@pytest.mark.usefixtures("forbid_data")
def test_there_is_no_room(
    words: Words, etude: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)
    answer = etude("train", *words(tmp_path / "runs"))
    assert answer.code == 2
    assert "expected a disk with at least 64 MiB free" in answer.err
    assert "3 MiB" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("forbid_data")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "typed", ["trainer=gpu", "trainer.accelerator=cuda", "trainer.accelerator=mps"]
)
def test_no_such_device(words: Words, etude: Callable, tmp_path: Path, typed: str) -> None:
    overrides = [item for item in words(tmp_path / "runs") if "accelerator" not in item]
    answer = etude("train", *overrides, typed)
    assert answer.code == 2
    assert "trainer.accelerator = " in answer.err
    assert "expected an accelerator of this machine: cpu" in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("forbid_data")
def test_half_precision_is_scaled_on_gpus_only(
    words: Words, etude: Callable, tmp_path: Path
) -> None:
    answer = etude("train", *words(tmp_path / "runs", "trainer.precision=16-mixed"))
    assert answer.code == 2
    assert "trainer.precision = '16-mixed': expected a precision that cpu supports" in answer.err
    assert "set trainer.precision=bf16-mixed" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_short_run_is_warned_of_and_found_again_without_its_device(
    small: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    train(small(tmp_path, "trainer.max_steps=1"))
    told = "schedule: warmup_steps=2 does not fit into the run (1 step)"
    told += ", so the whole run is warm-up; to change this, set schedule.warmup_steps=0"
    assert told in caplog.messages
    outcome = train(small(tmp_path, "trainer.max_steps=1", "trainer.accelerator=cuda"))
    assert outcome.reused


def test_a_refused_run_leaves_its_neighbours(
    small: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    neighbour = train(small(tmp_path, "trainer.max_steps=1")).record

    def refuse(*_: Any, **__: Any) -> None:
        raise RequestError([])

    monkeypatch.setattr("etude.training.trainer.Trainer.build", refuse)
    with pytest.raises(RequestError):
        train(small(tmp_path))
    assert list(neighbour.path.parent.iterdir()) == [neighbour.path]


@pytest.mark.parametrize("tasks", [{"NTASKS": 1, "NTASKS_PER_NODE": 1}, {"NTASKS": 4}])
def test_the_working_folder_is_nothing_to_go_on_from(
    small: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tasks: dict[str, int],
) -> None:
    # Under SLURM, Lightning goes on from such a file, and saves one whenever SIGUSR1 comes. It
    # fails if NTASKS is above 1 without NTASKS_PER_NODE.
    slurm = {**tasks, "JOB_NAME": "job", "JOB_ID": 1}
    for name, value in {**slurm, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("no checkpoint")
    monkeypatch.chdir(tmp_path)
    handlers = []
    original = CausalLM.training_step

    def watched(self: CausalLM, *arguments: Any) -> Any:
        handlers.append(signal.getsignal(signal.SIGUSR1))
        return original(self, *arguments)

    monkeypatch.setattr(CausalLM, "training_step", watched)
    record = train(small(tmp_path / "runs", "trainer.max_steps=2")).record
    assert record.info["step"] == 2
    assert handlers == [signal.SIG_DFL] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "runs"]
