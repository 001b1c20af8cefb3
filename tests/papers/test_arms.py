"""The runs of a paper: swept values, user files, and runs that initialise from other runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from etude.errors import RequestError
from etude.papers import claims, reproduction, runs
from etude.papers.claims import Paper
from etude.papers.runs import finished_runs, paper_runs, train_missing

SHORT = ["experiment=sort", "model.dim=12", "trainer.max_steps=2", "trainer.val_check_interval=1"]
TEXT = "To be, or not to be, that is the question.\n" * 50


def paper(**changes: Any) -> Paper:
    stated: dict[str, Any] = {
        "title": "x", "claim": "x", "citation": "x", "link": "x", "tier": "cpu", "cost": "x",
        "seeds": [0, 1],
        "measure": {"_target_": "etude.papers.readings.Metrics"},
        "cells": [
            {"key": "a", "says": "x", "published": None, "read": "x", "tolerance": {"below": 1},
             "because": "x", "control": "x"}
        ],
    }  # fmt: skip
    return TypeAdapter(Paper).validate_python({**stated, **changes})


def test_commas_sweep_and_the_label_says_what(tmp_path: Path) -> None:
    found = paper_runs("toy", paper(runs={"a": [*SHORT, "optimizer.lr=1e-3,2e-3"]}), tmp_path)
    assert [arm.label for arm in found] == [
        "a optimizer.lr=0.001 seed=0",
        "a optimizer.lr=0.002 seed=0",
        "a optimizer.lr=0.001 seed=1",
        "a optimizer.lr=0.002 seed=1",
    ]
    assert len({arm.number for arm in found}) == 4
    single = paper_runs("toy", paper(runs={"a": [*SHORT, "optimizer.lr=1e-2"]}), tmp_path)
    assert [arm.label for arm in single] == ["a seed=0", "a seed=1"]


def test_swept_runs_are_read_as_one_arm(tmp_path: Path) -> None:
    toy = paper(seeds=[3], runs={"a": [*SHORT, "optimizer.lr=1e-3,2e-3"]})
    arms = paper_runs("toy", toy, tmp_path)
    train_missing(arms, tmp_path / "logs", 1)
    found = finished_runs(arms)
    assert [run.config.optimizer.lr for run in found["a"]] == [0.001, 0.002]
    assert {run.summary["seed"] for run in found["a"]} == {3}


@pytest.mark.slow
def test_a_seed_that_lacks_a_run_of_a_sweep_is_left_out(tmp_path: Path) -> None:
    toy = paper(seeds=[3, 4], runs={"a": [*SHORT, "optimizer.lr=1e-3,2e-3"]})
    arms = paper_runs("toy", toy, tmp_path)
    train_missing(arms[:3], tmp_path / "logs", 1)
    assert [run.summary["seed"] for run in finished_runs(arms)["a"]] == [3, 3]


@pytest.mark.parametrize("name", ["a b", "it's", "${oc.env:HOME}", "${x", "a\\b", "a,b=c{d}"])
def test_a_root_is_taken_to_the_letter(tmp_path: Path, name: str) -> None:
    (arm,) = paper_runs("toy", paper(seeds=[0], runs={"a": SHORT}), tmp_path / name)
    folder = arm.folder()
    assert folder is not None
    assert folder.parent == tmp_path / name / "toy"


def test_what_does_not_fit_is_told_by_its_run(tmp_path: Path) -> None:
    (arm,) = paper_runs("toy", paper(seeds=[0], runs={"a": [*SHORT, "model.dimm=3"]}), tmp_path)
    with pytest.raises(RequestError, match=r"run a seed=0: model.dimm"):
        arm.folder()


def test_a_run_states_no_seed() -> None:
    with pytest.raises(ValidationError, match="expected no seed override"):
        paper(runs={"a": [*SHORT, "seed=5"]})


def test_more_jobs_than_gpus_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "visible_gpus", lambda: ["4", "6"])
    given: list[list[str]] = []

    def seen(missing: Any, logs: Any, job_slots: Any) -> None:
        given.append([slot.environment["CUDA_VISIBLE_DEVICES"] for slot in job_slots])

    monkeypatch.setattr(runs, "_train", seen)
    arms = paper_runs("toy", paper(runs={"a": SHORT}), tmp_path)
    for jobs in ("auto", 1, 3):
        train_missing(arms, tmp_path / "logs", jobs)
    assert given == [["4", "6"], ["4"], ["4", "6", "4"]]


@pytest.mark.slow
def test_a_run_begins_from_another_of_its_seed(tmp_path: Path) -> None:
    second = ["experiment=sort", "init_from.source={first}", *SHORT[2:], "optimizer.lr=1e-3,2e-3"]
    toy = paper(runs={"first": SHORT, "second": second})
    arms = paper_runs("toy", toy, tmp_path)
    assert [arm.overrides() is None for arm in arms] == [False, False, True, True, True, True]
    train_missing(arms, tmp_path / "logs", 1)
    found = finished_runs(arms)
    firsts = {run.summary["seed"]: run for run in found["first"]}
    assert len(found["second"]) == 4
    for run in found["second"]:
        parent = firsts[run.summary["seed"]]
        assert run.config.init_from.source.endswith(parent.path.name)


def test_what_begins_from_a_run_that_fails_is_not_run(tmp_path: Path) -> None:
    second = ["experiment=sort", "init_from.source={first}", *SHORT[2:]]
    toy = paper(seeds=[0], runs={"first": [*SHORT, "model.heads=5"], "second": second})
    arms = paper_runs("toy", toy, tmp_path)
    train_missing(arms, tmp_path / "logs", 1)  # returns instead of waiting forever
    assert arms[1].overrides() is None


def test_a_run_begins_from_one_before_it() -> None:
    with pytest.raises(ValidationError, match="only names under `runs` above a"):
        paper(runs={"a": ["init_from.source={b}"], "b": SHORT})


def with_file(text: str) -> Paper:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return paper(
        files={"it's a text.txt": {"says": "Hamlet", "sha256": sha256}},
        runs={"a": ["experiment=debug", "data=text_files", "data.path={it's a text.txt}"]},
        smoke=["data=sotu_recent", "data/tokenizer=char"],
        smoke_runs={"a": ["model.layers=1"]},
    )


def test_a_file_of_the_users_is_named_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "some files"
    folder.mkdir()
    (folder / "it's a text.txt").write_text(TEXT)
    arms = paper_runs("toy", with_file(TEXT), tmp_path, files=folder)
    from etude.config.compose import compose

    overrides = arms[0].overrides()
    assert overrides is not None
    assert compose(overrides).data.path == str(folder / "it's a text.txt")
    assert arms[0].finished() is None


def test_a_file_that_is_missing_or_another_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as missing:
        paper_runs("toy", with_file(TEXT), tmp_path, files=tmp_path)
    told = str(missing.value)
    assert "Hamlet" in told
    assert "--files" in told
    (tmp_path / "it's a text.txt").write_text("Something else")
    with pytest.raises(RequestError, match="sha256"):
        paper_runs("toy", with_file(TEXT), tmp_path, files=tmp_path)


def test_the_short_form_does_without_the_users_files(tmp_path: Path) -> None:
    (arm,) = paper_runs("toy", with_file(TEXT), tmp_path, smoke=True)
    assert not any("data.path" in one for one in arm.stated)
    assert {"data=sotu_recent", "model.layers=1"} <= set(arm.stated)


def test_short_forms_of_runs_that_are_none() -> None:
    with pytest.raises(ValidationError, match="smoke_runs"):
        paper(runs={"a": SHORT}, smoke_runs={"b": []})


def test_a_missing_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etude: Any
) -> None:
    root = tmp_path / "runs"
    answer = etude("reproduce", "shakespeare_char", "--root", root, "--files", tmp_path)
    assert answer.code == 2
    assert "tinyshakespeare.txt" in answer.err
    assert "Traceback" not in answer.err
    assert not root.exists()
    assert "shakespeare_char" in claims.paper_names()
    assert reproduction.folder_of("shakespeare_char", root).parent.parent == root
