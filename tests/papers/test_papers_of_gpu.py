"""Papers that need a GPU or released weights: the tests that need neither.

Their smoke tests are in `test_papers_of_runs.py`.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import InvalidArguments, RequestError
from etude.papers import claims, reproduction, runs, toy_data
from etude.papers.readings import Mean, Metrics, value_of
from etude.tasks.translation import Translation
from etude.training.build import build_parts
from etude.training.model import build_model_from_config
from etude_papers.released import Released

PAPERS = {name: claims.load(name) for name in claims.paper_names()}
FAR = [name for name, paper in PAPERS.items() if paper.tier != "cpu"]
TRAINED = [name for name in FAR if PAPERS[name].runs]
SCORED = [name for name in FAR if not PAPERS[name].runs]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_there_are_some_of_each_kind() -> None:
    assert {PAPERS[name].tier for name in TRAINED} == {"gpu", "weights"}
    assert {PAPERS[name].tier for name in SCORED} == {"weights"}


def test_the_list_shows_them_as_not_run(
    tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduction.print_papers(tmp_path)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in FAR:
        assert rows[name].split(f"({PAPERS[name].tier})")[1].strip() == "not run"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_each_run_in_its_whole_form_is_a_config_that_builds(
    name: str, tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the runs to initialise from, and with a fixed commit for branches of the hub."""
    monkeypatch.setattr("etude.data.hub.commit_of", lambda name, revision: "0" * 40)
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    text = {file: tmp_path / "text" for file in PAPERS[name].files}
    monkeypatch.setattr(runs, "find_files", lambda *arguments: text)
    firsts = {arm.name: arm for arm in reversed(runs.paper_runs(name, PAPERS[name], tmp_path))}
    for arm in firsts.values():  # one value of each sweep
        own = [one for one in arm.stated if not one.startswith(("init_from", "model.dropout"))]
        checked = check(compose(own))
        with torch.device("meta"):
            build_model_from_config(checked, 30_000)
        parts = build_parts(checked)
        assert parts.schedule(1, 10**6) > 0.0


@pytest.mark.parametrize("name", TRAINED)
def test_each_cell_is_read_from_runs_that_there_are(name: str) -> None:
    paper = PAPERS[name]
    measurement = claims.measurement_node(name, paper).build()
    assert isinstance(measurement, Metrics)
    assert set(measurement.values) == {cell.key for cell in paper.cells}
    begun = {arm for arm in paper.runs if f"{{{arm}}}" in str(paper.runs)}
    assert measurement.arms | begun == set(paper.runs)


@pytest.mark.parametrize("name", SCORED)
def test_each_cell_is_a_model_a_text_and_a_metric(name: str) -> None:
    measurement = claims.measurement_node(name, PAPERS[name]).build()
    assert isinstance(measurement, Released)
    found = [cell.key.split("/") for cell in PAPERS[name].cells]
    assert {model for model, _, _ in found} == set(measurement.models)
    assert {text for _, text, _ in found} == set(measurement.texts)
    assert {metric for _, _, metric in found} <= {"loss", "perplexity", "accuracy"}


@pytest.mark.parametrize("name", SCORED)
def test_without_a_hub_it_says_so_and_leaves_nothing(
    name: str, tmp_path: Path, etude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    answer = etude("reproduce", name, "--root", tmp_path / "runs")
    assert answer.code == 2
    first = next(iter(PAPERS[name].measure["models"].values()))
    assert (
        f"source = '{first}': expected a local path, or access to the Hugging Face Hub"
        in answer.err
    )
    assert "Traceback" not in answer.err
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_a_file_that_is_missing_is_asked_for(tmp_path: Path, etude: Any) -> None:
    answer = etude("reproduce", "enwik8", "--root", tmp_path / "runs", "--files", tmp_path)
    assert answer.code == 2
    assert "mattmahoney.net" in answer.err
    assert not (tmp_path / "runs").exists()


class TestShortForms:
    def paper(self, **more: Any) -> claims.Paper:
        shipped = PAPERS["shakespeare_gpu"]
        return claims.Paper(**{**vars(shipped), **more})

    def stated(self, paper: claims.Paper, folder: Path) -> list[list[str]]:
        arms = runs.paper_runs("short", paper, folder, smoke=True)
        return [[one for one in arm.stated if "run." not in one] for arm in arms]

    def test_what_it_states_replaces_what_a_run_does(self, tmp_path: Path) -> None:
        paper = self.paper(
            files={}, seeds=[4, 5], smoke=["data.path=x", "optimizer.lr=1", "~data.pair"],
            runs={
                "swept": ["experiment=e", "optimizer.lr=1,2", "data.pair=p", "data.path.name=a/b"],
                "other": ["experiment=e", "data.pathology=3", "task.x=1"],
            },
            smoke_runs={"other": ["task.x=2"]},
        )  # fmt: skip
        short = ["data.path=x", "optimizer.lr=1", "~data.pair=null"]  # as formatted by Hydra
        assert self.stated(paper, tmp_path) == [
            ["experiment=e", *short, "seed=4", "name=short"],
            ["experiment=e", "data.pathology=3", *short, "task.x=2", "seed=4", "name=short"],
        ]

    def test_files_are_made_for_it(self, tmp_path: Path) -> None:
        paper = self.paper(smoke=["data.path={toy-pairs.jsonl}"], runs={"one": ["experiment=e"]})
        ((_, path, *_),) = self.stated(paper, tmp_path)
        file = tmp_path / "_toys" / "toy-pairs.jsonl"
        assert path == f"data.path='{file}'"
        row = json.loads(file.read_text().splitlines()[0])
        assert row["target"].split() == row["source"].split()[::-1]
        before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
        assert set(before) == set(toy_data.NAMES)
        toy_data.write_files(file.parent)
        assert before == {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def test_runs_that_are_the_same_are_trained_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tiny = ["experiment=sort", "model.dim=12", "trainer.max_steps=2"]
        paper = self.paper(
            files={}, smoke=["trainer.val_check_interval=1"], smoke_runs={},
            runs={"one": [*tiny, "optimizer.lr=1e-3"], "two": [*tiny, "optimizer.lr=0.001"]},
        )  # fmt: skip
        arms = runs.paper_runs("short", paper, tmp_path, smoke=True)
        runs.train_missing(arms, tmp_path / "logs", 1)
        assert len([*(tmp_path / "short").iterdir()]) == 1
        found = runs.finished_runs(arms)
        assert found["one"][0].path == found["two"][0].path


def run(seed: int, lr: float, dim: int, value: float) -> Any:
    config = OmegaConf.create({"optimizer": {"lr": lr}, "model": {"dim": dim}})
    frame = pd.DataFrame({"step": [1, 2], "x": [value - 1, value]})
    return SimpleNamespace(config=config, metrics=frame, summary={"seed": seed}, status="finished")


class TestValues:
    def test_a_sweep_becomes_one_number_a_seed(self) -> None:
        several = [
            run(7, 1.0, 8, 0.3), run(7, 2.0, 8, 0.9), run(7, 1.0, 16, 0.8), run(7, 2.0, 16, 0.4),
            run(9, 1.0, 8, 0.1), run(9, 2.0, 8, 0.2), run(9, 1.0, 16, 0.7), run(9, 2.0, 16, 0.6),
        ]  # fmt: skip
        stated = {"run": "a", "metric": "x", "swept": {"optimizer.lr": "max", "model.dim": "min"}}
        assert value_of(stated).read({"a": several}) == [0.8, 0.2]
        other = {**stated, "swept": {"model.dim": "min", "optimizer.lr": "max"}}
        assert value_of(other).read({"a": several}) == [0.4, 0.2]
        assert value_of(stated).read({}) == []

    def test_a_mean_is_of_the_same_seed(self) -> None:
        arms = {"a": [run(0, 1, 1, 0.25), run(1, 1, 1, 0.5)], "b": [run(0, 1, 1, 0.75)]}
        stated = {"mean": [{"run": "a", "metric": "x"}, {"run": "b", "metric": "x"}]}
        found = value_of(stated)
        assert isinstance(found, Mean)
        assert found.arms == {"a", "b"}
        assert found.read(arms) == [0.5]
        assert found.read({"a": arms["a"]}) == []

    def test_a_split_is_scored(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked = []

        def scored(run: Any, split: str, **how: Any) -> Any:
            asked.append((split, how))
            return {"metrics": {"bleu": 12.5}}

        monkeypatch.setattr("etude.analysis.scoring.evaluate_run", scored)
        chosen = SimpleNamespace(name="best")
        record = SimpleNamespace(
            chosen=lambda which: SimpleNamespace(name=f"step-{which}", folders=[])
        )
        nodes = {"task": SimpleNamespace(constructor=Translation)}
        one = SimpleNamespace(
            path=tmp_path,
            record=record,
            checkpoint=chosen,
            summary={"seed": 0},
            data=lambda: None,
            checked=SimpleNamespace(nodes=nodes),
        )
        runs = {"a": [one]}
        value = value_of({"run": "a", "metric": "bleu", "split": "test", "how": {"beams": 5}})
        assert value.read(runs) == [12.5]
        with pytest.raises(RequestError, match=r"metric of the run a = 'chrf'.*choose from: bleu"):
            value_of({"run": "a", "metric": "chrf", "split": "test"}).read(runs)
        (tmp_path / "evaluations").mkdir()
        kept = tmp_path / "evaluations" / "test-step-last-beams5-penalty1.json"
        kept.write_text('{"metrics": {"bleu": 31.0}, "by": null}')
        how = {"beams": 5, "which": "last"}
        other = value_of({"run": "a", "metric": "bleu", "split": "test", "how": how})
        assert other.read(runs) == [31.0]
        assert asked == [("test", {"beams": 5}), ("test", {})]

    def test_what_cannot_be(self) -> None:
        for more in ({"swept": {"seed": "mean"}}, {"how": {"beams": 2}}):
            with pytest.raises(InvalidArguments):
                value_of({"run": "arm", "metric": "x", **more})
        with pytest.raises(InvalidArguments, match="of"):
            value_of({"run": "arm", "metric": "x", "of": "max", "split": "test"})

    def test_a_swept_key_is_one_of_the_config(self) -> None:
        stated = {"run": "a", "metric": "x", "swept": {"optimizer.lrr": "min"}}
        with pytest.raises(
            RequestError, match=r"a key of `swept` for the run a = 'optimizer\.lrr'"
        ):
            value_of(stated).read({"a": [run(0, 1.0, 8, 0.3)]})


def test_a_paper_names_no_file_of_a_hub_as_its_own(tmp_path: Path) -> None:
    """Otherwise, listing the papers would query the hub for the commit of a branch."""
    for name in FAR:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("etude.data.hub.commit_of", lambda name, revision: pytest.fail(name))
            claims.measurement_node(name, PAPERS[name]).build()
    with pytest.raises(RequestError):
        reproduction.reproduce("no_such_paper", tmp_path)
