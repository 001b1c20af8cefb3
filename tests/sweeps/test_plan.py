"""Compares plans with the runs that are trained afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.api import train_record
from etude.config.compose import compose
from etude.errors import RequestError, RunFailed
from etude.records.lock import RunLock
from etude.records.record import Record
from etude.sweeps import speed
from etude.sweeps.planning import PlannedJob, plan


def one(overrides: list[str], **options: Any) -> PlannedJob:
    (job,) = plan(overrides, **{"measure": False, **options})
    return job


def train(overrides: list[str]) -> Record:
    record: Record = train_record(compose(overrides)).record
    return record


def tree(*folders: Path) -> dict[str, tuple[int, str]]:
    """Returns modification time and content of each file."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def words(corpus: Path, tiny: Callable[..., list[str]], tmp_path: Path) -> list[str]:
    """Overrides of a run of ten steps with its own cache."""
    return [
        *tiny(corpus, tmp_path / "runs", "run.samples=0", "run.save_every=2"),
        f"run.cache={tmp_path / 'cache'}",
    ]


def test_a_run_from_new_to_done_and_nothing_is_written(words: list[str], tmp_path: Path) -> None:
    def state(*more: str) -> tuple[str, str, int]:
        before = tree(tmp_path)
        folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
        found = one([*words, *more]).state
        assert tree(tmp_path) == before
        assert {path for path in tmp_path.rglob("*") if path.is_dir()} == folders
        return found.kind, found.description, found.step

    assert state() == ("new", "new", 0)
    record = train([*words, "run.stop_at_step=6"])
    assert state() == ("continues", "continues from step 6 (paused)", 6)
    assert state("run.stop_at_step=6") == ("paused", "already paused at step 6", 6)

    weights = record.path / "checkpoints" / "step-00000006" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    kind, said, step = state()
    assert (kind, step) == ("continues", record.checkpoints()[-2][0])
    assert "(checkpoint step-00000006 cannot be used)" in said
    weights.write_bytes(whole)

    lock = RunLock(record.path)
    lock.acquire()
    kind, said, _ = state()
    assert kind == "held"
    assert said.startswith(f"locked by process {os.getpid()} on ")
    lock.release()

    assert train(words).path == record.path
    assert state() == ("done", "done", 10)
    assert state("seed=9")[0] == "new"
    again = one([*words, "run.on_existing=again"]).state
    assert (again.kind, again.path) == ("new", record.path.with_name(f"{record.path.name}~2"))
    assert "run.on_existing" in state("run.on_existing=error")[1]

    corpus = tmp_path / "corpus.txt"
    text = corpus.read_text()
    corpus.write_text(text + "!")
    kind, said, _ = state()
    assert kind == "refused"
    assert record.info["data"]["fingerprint"] in said
    corpus.write_text(text)

    (record.path / "run.json").write_text("{")
    kind, said, _ = state()
    assert (kind, "valid JSON" in said) == ("refused", True)


def test_what_diverged_is_not_asked_for_again(words: list[str]) -> None:
    overrides = [*words, "optimizer.lr=1e30", "trainer.gradient_clip_val=null"]
    with pytest.raises(RunFailed):
        train(overrides)
    state = one(overrides).state
    assert state.kind == "diverged"
    assert state.description == f"already diverged at step {state.step}"
    assert not state.works


def test_while_it_trains_in_another_process(words: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from etude.records.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire()\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    folder = one(words).state.path
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        state = one(words).state
        assert (state.kind, f"process {process.pid} " in state.description) == ("held", True)
        process.communicate("")


# -- sizes ------------------------------------------------------------------------------------


def formula(job: PlannedJob, tokens: int, validated: int) -> float:
    """6 FLOP per parameter and token, and 12 T D for attention, with one layer of width 8."""
    assert job.size is not None
    vocabulary, T, D = job.size.vocabulary, 8, 8
    multiplied = vocabulary * D + 12 * D * D
    return (tokens + validated / 3) * (6 * multiplied + 12 * T * D)


def test_sizes_are_those_of_the_run(words: list[str]) -> None:
    before = one(words).size
    assert before is not None
    assert before.about
    assert (before.steps, before.tokens) == (10, 10 * 4 * 8)
    assert "unknown until the data is prepared" in before.notes[0]

    record = train(words)
    job = one([*words, "seed=5"])
    size = job.size
    assert size is not None
    assert size.cost is not None
    assert not size.about
    assert not size.notes
    assert size.vocabulary == record.info["tokenizer"]["size"]
    assert size.parameters == record.info["parameters"]
    assert size.tokens == record.info["tokens"]
    validated = 2 * (record.info["data"]["splits"]["val"]["tokens"] - 1)  # at steps 5 and 10
    assert size.flops == pytest.approx(formula(job, size.tokens, validated))
    assert size.flops_left == size.flops
    assert size.cost.weight_bytes == 4 * size.parameters
    assert size.cost.optimizer_bytes == pytest.approx(8 * size.parameters, rel=0.02)

    often = one([*words, "trainer.val_check_interval=4"])  # at steps 4 and 8, and at the end
    assert often.size is not None
    assert often.size.flops == pytest.approx(formula(often, size.tokens, validated * 3 // 2))

    done = one(words).size
    assert done is not None
    assert (done.flops, done.flops_left, done.seconds_left) == (size.flops, 0, 0)


def test_what_is_left_of_an_interrupted_run(words: list[str]) -> None:
    record = train([*words, "run.stop_at_step=6"])
    validated = record.info["data"]["splits"]["val"]["tokens"] - 1
    job = one(words)
    assert job.size is not None
    assert job.size.flops_left == pytest.approx(formula(job, 4 * 4 * 8, validated))
    job = one([*words, "run.stop_at_step=8"])
    assert job.size is not None
    assert job.size.flops_left == pytest.approx(formula(job, 2 * 4 * 8, 0))


def test_epochs_become_steps_once_the_data_is_there(words: list[str]) -> None:
    epochs = [*words, "trainer.max_steps=null", "trainer.max_epochs=0.1"]
    before = one(epochs).size
    assert before is not None
    assert (before.steps, before.tokens, before.flops) == (None, None, None)
    assert "unknown until the data is prepared" in before.notes[0]
    assert before.parameters is not None
    record = train(epochs)
    after = one([*epochs, "seed=2"]).size
    assert after is not None
    assert (after.steps, after.tokens) == (record.info["total_steps"], record.info["tokens"])


@pytest.mark.parametrize(
    ("precision", "weights", "state"),
    [("32-true", 4, 8), ("64-true", 8, 16), ("bf16-true", 2, 4), ("bf16-mixed", 4, 8)],
)
def test_memory_by_precision(words: list[str], precision: str, weights: int, state: int) -> None:
    size = one([*words, f"trainer.precision={precision}", "model.dim=32"]).size
    assert size is not None
    assert size.cost is not None
    assert size.parameters is not None
    assert size.cost.weight_bytes == weights * size.parameters
    assert size.cost.gradient_bytes == weights * size.parameters
    assert size.cost.optimizer_bytes == pytest.approx(state * size.parameters, rel=0.02)


def test_a_micro_batch_takes_its_share_of_memory(words: list[str]) -> None:
    large = [*words, "data.batch.examples=64", "data.sequence_length=32"]
    whole, part = one(large).size, one([*large, "trainer.micro_batch=16"]).size
    assert whole is not None
    assert part is not None
    assert whole.cost is not None
    assert part.cost is not None
    assert (whole.micro_batch, part.micro_batch) == (64, 16)
    assert whole.flops == part.flops
    ratio = whole.cost.activation_bytes / part.cost.activation_bytes
    assert ratio == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_gpt3_is_planned_as_it_was_published(tmp_path: Path) -> None:
    """Brown et al. 2020, tables 2.1 and D.1: 174.6 billion parameters, 3.14e23 FLOP."""
    job = one(
        [
            "~experiment",
            "name=gpt3",
            "model=gpt3_175b",
            "data.sequence_length=2048",
            "data.batch={tokens: 3276800, examples: null}",
            "trainer.micro_batch=1",
            "trainer.max_steps=91553",
            f"run.root={tmp_path}",
        ]
    )
    assert job.size is not None
    assert job.size.parameters == pytest.approx(174.6e9, rel=0.001)
    assert job.size.tokens == pytest.approx(300e9, rel=0.001)
    assert job.size.flops == pytest.approx(3.14e23, rel=0.05)


# -- speeds -----------------------------------------------------------------------------------


def test_an_earlier_run_says_how_fast_it_goes(words: list[str]) -> None:
    record = train([*words, "trainer.log_every_n_steps=1"])
    rates = [row["perf/tokens_per_second"] for row in record.rows()]
    job = one([*words, "seed=3"])
    assert job.size is not None
    assert job.size.speed is not None
    assert job.size.speed.tokens_per_second == pytest.approx(statistics.median(rates[1:]))
    assert job.size.speed.source == f"measured in tiny/{record.path.name}"
    assert job.size.flops is not None
    assert job.size.seconds_left is not None
    assert job.size.tokens is not None
    training = job.size.tokens / job.size.speed.tokens_per_second
    assert training < job.size.seconds_left < 20 * training  # validation takes additional time

    other = one([*words, "model.dim=16"]).size  # the record of another model is not used
    assert other is not None
    assert other.speed is not None
    assert other.speed.source.startswith("assumed: 40% of this machine's ")


SLEEPER = """
import time
from etude.models.decoder import Decoder

class Sleeper(Decoder):
    def forward(self, tokens, cache=None, *, last_only=False):
        time.sleep(0.05)
        return super().forward(tokens, cache, last_only=last_only)
"""


def test_else_a_few_steps_are_tried(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    overrides = [*words, "extensions=[sleeper]", "model._target_=sleeper.Sleeper"]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = one(overrides, measure=True).size
    parts = one([*overrides, "trainer.micro_batch=1"], measure=True).size
    assert torch.equal(torch.get_rng_state(), state)
    assert whole is not None
    assert parts is not None
    assert whole.speed is not None
    assert parts.speed is not None
    assert whole.speed.source.startswith("measured now")
    assert 4 * 8 / 0.05 / 5 < whole.speed.tokens_per_second < 4 * 8 / 0.05
    assert 8 / 0.05 / 5 < parts.speed.tokens_per_second < 8 / 0.05  # four passes per step


def test_what_does_not_fit_into_memory_is_not_tried(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "free_memory", lambda device: 1000)
    size = one(words, measure=True).size
    assert size is not None
    assert size.speed is not None
    assert size.speed.source.startswith("assumed")


def test_free_memory_is_told() -> None:
    free = speed.free_memory(torch.device("cpu"))
    assert free is not None
    assert 10e6 < free < 1e14


# -- sweeps -----------------------------------------------------------------------------------


def test_equal_jobs_are_told_and_wrong_ones_refused(words: list[str]) -> None:
    told: list[tuple[int, int]] = []
    overrides = [*words, "model.heads=1,3", "optimizer.lr=1e-3,0.001"]
    jobs = plan(
        overrides,
        multirun=True,
        measure=False,
        progress=lambda number, of: told.append((number, of)),
    )
    assert [job.state.kind for job in jobs] == ["new", "new", "refused", "refused"]
    assert [job.same_as for job in jobs] == [None, 1, None, 3]
    assert "model.heads = 3: expected a divisor of dim = 8" in jobs[2].state.description
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_sweep_that_does_not_compose_is_refused_whole(words: list[str]) -> None:
    with pytest.raises(RequestError) as refused:
        plan([*words, "model/position=rotary,rotry", "seed=0,x"], multirun=True)
    assert "did you mean rotary?" in str(refused.value)
    assert "seed = 'x': expected an integer" in str(refused.value)


def test_data_that_is_not_there_is_a_mistake(words: list[str]) -> None:
    state = one([*words, "data.path=nowhere.txt"]).state
    assert state.kind == "refused"
    assert "data.path = 'nowhere.txt'" in state.description


def test_what_entered_is_what_is_hashed(words: list[str]) -> None:
    job = one(words)
    text = json.dumps(job.identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == job.signature
    assert train(words).path.name == job.signature
