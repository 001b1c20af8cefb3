"""`etude train -m`: each job is a run, so a restarted sweep repeats no work."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from etude.cli.train import has_several_seeds
from etude.errors import Interrupted
from etude.records.record import Record
from etude.records.status import Status
from etude.sweeps.job import Job
from etude.sweeps.multirun import multirun
from etude.training.state import Outcome
from quick_first import quick_first


def report(root: Path) -> dict[str, Any]:
    """Returns the sweep's record with the jobs of the last start, in order."""
    (folder,) = (root / "_sweeps").iterdir()
    found = json.loads((folder / "sweep.json").read_text())
    jobs = {job["key"]: job for job in found["jobs"]}
    return found | {"jobs": [jobs[key] for key in found["asked"]]}


def test_logs_that_are_a_link_are_refused_before_any_job(tmp_path: Path) -> None:
    from etude.errors import RequestError
    from etude.sweeps.expand import BASIC, Sweep
    from etude.sweeps.sweep_record import SweepRecord

    folder = tmp_path / "_sweeps" / "abc"
    folder.mkdir(parents=True)
    (folder / "logs").symlink_to(tmp_path)
    with pytest.raises(RequestError, match=r"logs: expected a folder .it is a l"):
        SweepRecord(folder).begin(Sweep([], {}, [], [["seed=1"]], BASIC))
    assert not (folder / "sweep.json").exists()


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_refused_job_and_again_repeats_nothing(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    """Two numbers of heads by two widths; a width of eight is not divisible by three heads."""
    command = ["train", "-m", *tiny("corpus.txt", "experiments", "run.samples=0")]
    command += ["model.dim=8,12", "model.heads=1,3"]
    root = tmp_path / "experiments"

    first = etude(*command, cwd=tmp_path)
    assert first.code == 1
    jobs = report(root)["jobs"]
    labels = [dict(part.split("=") for part in job["label"].split()) for job in jobs]
    status = {
        (label["heads"], label["dim"]): job["status"]
        for label, job in zip(labels, jobs, strict=True)
    }
    assert status == {
        ("1", "8"): "finished",
        ("1", "12"): "finished",
        ("3", "8"): "refused",
        ("3", "12"): "finished",
    }
    assert report(root)["axes"] == {"model.dim": ["8", "12"], "model.heads": ["1", "3"]}
    assert [job["status"] for job in jobs][2] == "refused"  # the next job runs after it
    assert "model.heads = 3" in jobs[2]["message"]
    assert "path" not in jobs[2]
    assert "4 jobs: 3 finished, 1 refused" in first.out
    assert "etude runs group" not in first.out
    paths = [job["path"] for job in jobs if "path" in job]
    assert len(set(paths)) == 3
    assert len(list((root / "tiny").iterdir())) == 3
    for path in paths:
        assert Record.read(root / path).status == "finished"

    second = etude(*command, cwd=tmp_path)
    assert second.code == 1
    jobs = report(root)["jobs"]
    assert [job["status"] for job in jobs] == ["finished", "finished", "refused", "finished"]
    assert "3 reused, 1 refused" in second.out
    assert [job["path"] for job in jobs if "path" in job] == paths

    longer = [*command[:-1], "model.heads=1,2"]  # an extended axis
    third = etude(*longer, cwd=tmp_path)
    assert third.code == 0
    assert "2 reused, 2 finished" in third.out
    assert report(root)["axes"]["model.heads"] == ["1", "3", "2"]
    (table,) = (root / "_sweeps").glob("*/results.csv")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 5
    for row in rows:
        final = Record.read(root / row["path"]).info["final"]
        assert float(row["val/loss"]) == final["val/loss"]
        assert row["model.heads"] in ("1", "3", "2")


def test_a_sweep_of_refused_jobs_alone_was_a_wrong_request(
    etude, corpus: Path, tiny, tmp_path: Path
) -> None:
    overrides = tiny("corpus.txt", "experiments", "model.heads=3,5")
    assert etude("train", "-m", *overrides, cwd=tmp_path).code == 2
    assert not (tmp_path / "experiments" / "tiny").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.layrs=1,2"], ["model.layrs = 1", "model.layrs = 2", "did you mean layers?"]),
        (["model.layrs=1"], ["model.layrs = 1"]),
        (["optimizer.lr=1e-3,fast"], ["optimizer.lr = 'fast': expected a number"]),
        (
            ["task=masked_lm,causal_lm", "+task.rate=0.1,0.2"],
            ["task.rate = 0.1: expected an argument of CausalLM"],
        ),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_before_any_job(
    etude, corpus: Path, tiny, tmp_path: Path, overrides: list[str], said: list[str]
) -> None:
    answer = etude("train", "-m", *tiny("corpus.txt", "experiments", *overrides), cwd=tmp_path)
    assert answer.code == 2
    for text in said:
        assert text in answer.err
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    "content",
    quick_first(
        ['{"jobs": [{}]}', "{", "[]", '{"jobs": 3}', '{"jobs": [3]}', '{"jobs": [{"key": 3}]}'], 2
    ),
)
def test_a_damaged_record_of_a_sweep_is_put_aside(tmp_path: Path, content: str) -> None:
    sweep(tmp_path, "seed=0,1", train=outcome)
    (folder,) = (tmp_path / "_sweeps").iterdir()
    (folder / "sweep.json").write_text(content)
    jobs = sweep(tmp_path, "seed=0,1", train=outcome)
    assert [job.status for job in jobs] == ["finished"] * 2
    assert [job["status"] for job in report(tmp_path)["jobs"]] == ["finished"] * 2


def test_a_damaged_record_of_a_sweep_is_told(etude, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "_sweeps" / "abc"
    folder.mkdir(parents=True)
    for content in ("{", "[]", '{"jobs": [{"path": 3}]}', '{"jobs": []}'):
        (folder / "sweep.json").write_text(content)
        answer = etude("runs", "group", "experiments/_sweeps/abc", cwd=tmp_path)
        assert answer.code == 2, content
        assert "Traceback" not in answer.err
        assert "experiments/_sweeps/abc" in answer.err


def test_a_setting_that_hydra_does_not_have(etude, tmp_path: Path) -> None:
    words = ["train", "-m", "experiment=debug", "seed=0,1", "hydra.launcher.njobs=2"]
    answer = etude(*words, cwd=tmp_path)
    assert answer.code == 2
    assert "hydra.launcher.njobs = '2': expected a key of Hydra's config" in answer.err
    assert "data.launcher" not in answer.err
    assert list(tmp_path.iterdir()) == []


def sweep(root: Path, *overrides: str, train: Any) -> list[Any]:
    """In this process, with Hydra's own launcher."""
    words = ["experiment=debug", f"run.root={root}", "hydra/launcher=basic", *overrides]
    return multirun(words, train).jobs


def outcome(config: Any, checked: Any = None) -> Outcome:
    return Outcome("finished", Record(Path("somewhere") / str(config.seed)))


def test_jobs_run_in_the_order_of_the_axes_with_their_own_config(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def train(config: Any, checked: Any = None) -> Outcome:
        seen.append((config.model.position._target_.rpartition(".")[2], config.seed))
        return outcome(config)

    jobs = sweep(tmp_path, "model/position=rotary,alibi", "seed=3,5", train=train)
    assert seen == [("Rotary", 3), ("Rotary", 5), ("ALiBi", 3), ("ALiBi", 5)]
    assert [job.path for job in jobs] == [f"somewhere/{seed}" for _, seed in seen]
    assert jobs[3].label == "position=alibi seed=5"


def test_a_job_that_breaks_does_not_break_the_others(tmp_path: Path) -> None:
    def train(config: Any, checked: Any = None) -> Outcome:
        if config.seed == 1:
            raise ZeroDivisionError("by zero")
        return outcome(config)

    jobs = sweep(tmp_path, "seed=0,1,2", train=train)
    assert [job.status for job in jobs] == ["finished", "failed", "finished"]
    assert jobs[1].message == "ZeroDivisionError: by zero"


def test_a_signal_ends_the_whole_sweep(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(config: Any, checked: Any = None) -> Outcome:
        seen.append(config.seed)
        if config.seed == 1:
            raise Interrupted(15)
        return outcome(config)

    with pytest.raises(Interrupted) as stopped:
        sweep(tmp_path, "seed=0,1,2", train=train)
    assert stopped.value.signum == 15
    assert seen == [0, 1]


def test_a_sweep_has_one_record_however_far_its_axes_reach(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=0,1", train=outcome)
    sweep(tmp_path, "seed=1,2", train=outcome)
    assert [job["path"] for job in report(tmp_path)["jobs"]] == ["somewhere/1", "somewhere/2"]
    sweep(tmp_path, "seed=0,1", "model.dim=16", train=outcome)
    assert len(list((tmp_path / "_sweeps").iterdir())) == 2


def test_the_config_of_a_job_is_that_of_the_same_run_alone(tmp_path: Path) -> None:
    """A swept run and a single run have the same signature."""
    from etude.config.checks import check
    from etude.config.compose import compose
    from etude.records.signature import signature

    found: list[str] = []

    def train(config: Any, checked: Any = None) -> Outcome:
        found.append(signature(check(config).identity))
        return outcome(config)

    sweep(tmp_path, "model.bias=true,false", "optimizer.lr=1e-3,0.01", train=train)
    alone = [
        signature(
            check(compose(["experiment=debug", f"model.bias={b}", f"optimizer.lr={lr}"])).identity
        )
        for b in ("true", "false")
        for lr in ("1e-3", "0.01")
    ]
    assert found == alone


def test_a_key_that_is_added_in_vain_is_named(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    root = tmp_path / "experiments"
    answer = etude("train", "-m", *tiny(corpus, root, "seed=0,1", "+optimizer.lr=1e-3"))
    assert answer.code == 2
    assert "optimizer.lr = '1e-3': expected an override that matches the config" in answer.err
    assert not root.exists()


def test_groups_over_seeds_are_suggested_if_seeds_differ() -> None:
    def jobs(*seeds: int, status: Status = Status.FINISHED) -> list[Job]:
        return [Job("", status, overrides=["model.dim=8", f"seed={seed}"]) for seed in seeds]

    assert has_several_seeds(jobs(1, 2))
    assert not has_several_seeds(jobs(1, 1))
    assert not has_several_seeds([*jobs(1), *jobs(2, status=Status.FAILED)])
    assert not has_several_seeds([])
