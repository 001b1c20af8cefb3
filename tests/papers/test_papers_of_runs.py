"""Papers whose cells are read from runs: runs are trained once, reused, and replaced if missing."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from etude.errors import InvalidArguments, RequestError
from etude.papers import claims, reproduction
from etude.papers.readings import Metrics, Value, value_of
from quick_first import quick_first

TOY = """
title: Toys
claim: More steps sort better
citation: Nobody (2000).
link: https://example.org
tier: cpu
cost: seconds
seeds: [0, 1]
runs:
  long: [experiment=sort, model.dim=12, trainer.max_steps=40, trainer.val_check_interval=10, optimizer.lr=1e-2]
  short: [experiment=sort, model.dim=12, trainer.max_steps=4, trainer.val_check_interval=2]
smoke: [trainer.max_steps=2, trainer.val_check_interval=1]
measure:
  _target_: etude.papers.readings.Metrics
  values:
    loss: {run: long, metric: val/loss}
    ratio: {run: long, metric: val/loss, of: min, over: {run: short, metric: val/loss}}
  controls:
    loss: {run: short, metric: val/loss}
    ratio: {run: short, metric: val/loss, of: max, over: {run: short, metric: val/loss}}
  curves: [val/loss]
cells:
  - {key: loss, says: loss, published: null, read: nowhere, tolerance: {below: 1.0}, because: chance is 1.1, control: few steps}
  - {key: ratio, says: ratio, published: null, read: nowhere, tolerance: {below: 0.95}, because: it learns, control: itself}
"""  # noqa: E501


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = tmp_path / "toy.yaml"
    file.write_text(TOY)
    monkeypatch.setattr(claims, "paper_names", lambda *_: ["toy"])
    monkeypatch.setattr(claims, "load", lambda name, *_: claims.read(file))
    return "toy"


def rows(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    reproduction.print_papers(root)
    return capsys.readouterr().out.splitlines()[-1].split("(cpu)")[1].strip()


def result(root: Path) -> Any:
    return json.loads((root / "_papers" / "toy" / "result.json").read_text())


def test_from_nothing_to_a_verdict_and_back(
    toy: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "etude")
    root = tmp_path / "runs"
    assert rows(root, capsys) == "not run"
    assert not reproduction.reproduce(toy, root, check=True)
    assert not (root / "toy").exists()  # nothing was trained
    assert reproduction.reproduce(toy, root, jobs=2)
    assert rows(root, capsys) == "match (2 seeds)"
    trained = sorted((root / "toy").iterdir())
    assert len(trained) == 4
    times = [path.stat().st_mtime_ns for path in sorted(root.glob("toy/*/run.json"))]
    folder = root / "_papers" / "toy"
    names = {"report.md", "report.html", "result.json", "figures"}
    assert {path.name for path in folder.iterdir()} == names
    text = (folder / "report.md").read_text()
    assert "`etude train experiment=sort model.dim=12 trainer.max_steps=4" in text
    assert all(f"`{path.name}`" in text for path in trained)
    page = (folder / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "<table>" in page
    found = result(root)
    kept = {
        arm: [
            json.loads((root / run["place"] / "metrics.jsonl").read_text().splitlines()[-1])
            for run in several
        ]
        for arm, several in found["runs"].items()
    }
    expected = [row["val/loss"] for row in kept["long"]]
    assert found["readings"]["loss"]["values"] == expected

    assert reproduction.reproduce(toy, root)  # no run is trained twice
    assert [p.stat().st_mtime_ns for p in sorted(root.glob("toy/*/run.json"))] == times
    assert sorted((root / "toy").iterdir()) == trained
    assert "4 runs already finished, nothing to train" in caplog.messages

    (gone,) = (run for run in found["runs"]["short"] if run["seed"] == 1)
    shutil.rmtree(root / gone["place"])
    assert rows(root, capsys) == f"not run (the run {gone['place']} is missing or has changed)"
    assert reproduction.reproduce(toy, root, check=True)  # judges the remaining seeds
    assert (
        "3 of 4 runs are finished; run `etude reproduce toy` to train the others" in caplog.messages
    )
    assert len(result(root)["readings"]["ratio"]["values"]) == 1
    assert reproduction.reproduce(toy, root)  # only the missing run is trained
    again = [p.stat().st_mtime_ns for p in sorted(root.glob("toy/*/run.json"))]
    assert len(set(again) & set(times)) == 3


@pytest.mark.slow
def test_a_changed_metric_changes_the_verdict(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    assert reproduction.reproduce(toy, root)
    place = result(root)["runs"]["long"][0]["place"]
    file = root / place / "metrics.jsonl"
    file.write_text(file.read_text().replace("val/loss", "val/less", 1))
    assert "is missing or has changed" in rows(root, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["failed", "diverging", None])
def test_a_run_that_has_not_ended_changes_the_verdict(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str | None
) -> None:
    root = tmp_path / "runs"
    assert reproduction.reproduce(toy, root)
    file = root / result(root)["runs"]["long"][0]["place"] / "run.json"
    told = json.loads(file.read_text())
    file.write_text("{" if status is None else json.dumps({**told, "status": status}))
    assert "is missing or has changed" in rows(root, capsys)


APART = """
import sys
from pathlib import Path
from etude.papers import claims, reproduction
claims.names = lambda *_: ["toy"]
load, file = claims.read, Path(sys.argv[1])
claims.load = lambda name, *_: load(file)
sys.exit(not reproduction.reproduce("toy", Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_at_a_time_read_the_same_runs(tmp_path: Path) -> None:
    file, root = tmp_path / "toy.yaml", tmp_path / "runs"
    file.write_text(TOY)
    call = [sys.executable, "-c", APART, str(file), str(root)]
    both = [subprocess.Popen(call, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(list((root / "toy").iterdir())) == 4
    assert result(root)["verdict"] == "match (2 seeds)"


def test_a_changed_metric_is_no_evidence(toy: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert reproduction.reproduce(toy, root)
    place = result(root)["runs"]["long"][0]["place"]
    file = root / place / "metrics.jsonl"
    row = json.loads(file.read_text().splitlines()[-1])
    file.write_text(file.read_text().replace(str(row["val/loss"]), "0.0"))
    before = (root / "_papers" / "toy" / "result.json").read_bytes()
    for check in (True, False):
        with pytest.raises(
            RequestError,
            match=r"the files of the run long seed=0, unchanged since training.*runs rm",
        ):
            reproduction.reproduce(toy, root, check=check)
    assert (root / "_papers" / "toy" / "result.json").read_bytes() == before


def test_a_run_in_the_place_of_another_is_no_evidence(toy: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert reproduction.reproduce(toy, root)
    first, second = (root / run["place"] for run in result(root)["runs"]["long"])
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(
        RequestError, match=r"expected signature \w+ and seed 1, those of the run long"
    ):
        reproduction.reproduce(toy, root, check=True)


def test_check_leaves_no_trace_where_nothing_is(
    toy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "etude")
    assert not reproduction.reproduce(toy, tmp_path / "typo" / "deep", check=True)
    assert not (tmp_path / "typo").exists()
    message = "toy: no run is finished; run `etude reproduce toy` to train the paper's runs"
    assert message in caplog.messages


def test_the_short_form_claims_nothing(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    assert reproduction.smoke(toy, root)
    assert rows(root, capsys) == "not run"
    assert not (root / "_papers" / "toy").exists()


def test_a_run_that_fails_is_told_and_its_cells_are_not_run(
    toy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "toy.yaml"
    long = "trainer.max_steps=40"
    file.write_text(TOY.replace(long, f"{long}, model.heads=5"))  # 12 is not a multiple of 5
    root = tmp_path / "runs"
    assert not reproduction.reproduce(toy, root)
    assert re.search(r"refused  long seed=0 .*: model.heads = 5: expected a divisor", caplog.text)
    verdicts = {key: cell["verdict"] for key, cell in result(root)["cells"].items()}
    assert verdicts == {"loss": "not run", "ratio": "not run"}


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_first(claims.paper_names(), 8))
def test_every_paper_in_its_short_form(name: str, tmp_path: Path) -> None:
    assert reproduction.smoke(name, tmp_path)


def test_another_experiment_file_changes_the_verdict(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    assert reproduction.reproduce(toy, root)
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    text = (claims.conf_dir() / "experiment" / "sort.yaml").read_text()
    monkeypatch.setattr(claims, "conf_dir", lambda: conf)
    (conf / "experiment" / "sort.yaml").write_text(f"# a remark\n{text}")
    assert rows(root, capsys) == "match (2 seeds)"
    (conf / "experiment" / "sort.yaml").write_text(text.replace("lr: 5e-4", "lr: 6e-4"))
    assert rows(root, capsys) == "not run (settings changed)"


class TestValues:
    def runs(self) -> dict[str, list[Any]]:
        frame = {"step": [1, 2, 3, 4], "x": [0.1, 0.9, math.nan, 0.5], "y": [0.0, 0.2, 1.0, 1.0]}
        metrics = pd.DataFrame(frame)
        run = SimpleNamespace(metrics=metrics, status="finished", summary={"seed": 0})
        return {"arm": [run]}

    @pytest.mark.parametrize(
        ("stated", "expected"),
        [
            ({"metric": "x"}, 0.5),
            ({"metric": "x", "of": "max"}, 0.9),
            ({"metric": "x", "of": "min"}, 0.1),
            ({"metric": "x", "of": "step", "reaches": 0.4}, 2),
            ({"metric": "x", "of": "step", "reaches": 0.95}, math.inf),
            (
                {
                    "metric": "y",
                    "of": "step",
                    "reaches": 0.9,
                    "over": {"run": "arm", "metric": "x", "of": "step", "reaches": 0.1},
                },
                3,
            ),
        ],
    )
    def test_by_hand(self, stated: dict[str, Any], expected: float) -> None:
        assert value_of({"run": "arm", **stated}).read(self.runs()) == [expected]

    def test_what_diverged_has_no_last_value(self) -> None:
        runs = self.runs()
        runs["arm"][0].status = "diverged"
        assert math.isnan(Value(run="arm", metric="x").read(runs)[0])
        assert Value(run="arm", metric="x", of="step", reaches=0.4).read(runs) == [2]
        assert math.isnan(Value(run="arm", metric="z").read(runs)[0])

    def test_what_is_not_there(self) -> None:
        assert Value(run="other", metric="x").read(self.runs()) == []
        with pytest.raises(
            RequestError, match="metric of the run arm = 'z': expected a metric of this run"
        ):
            Value(run="arm", metric="z").read(self.runs())

    @pytest.mark.parametrize(
        ("stated", "told"),
        [
            ({"of": "step"}, "reaches"),
            ({"reaches": 0.5}, "reaches"),
            ({"reaches": "high", "of": "step"}, "reaches = 'high': expected a valid value"),
            ({"of": "lst"}, "of = 'lst': expected a valid value .*'last', 'max'"),
            ({"runn": "b"}, "runn = 'b': expected a supported key .did you mean run"),
            ({"swept": ["optimizer.lr"]}, "swept"),
            ({"how": {"beamz": 3}, "split": "val"}, "how = 'beamz': .*did you mean beams"),
            ({"over": {"run": "b"}}, "over.metric: expected a value"),
        ],
    )
    def test_what_cannot_be_is_told_by_its_key(self, stated: dict[str, Any], told: str) -> None:
        with pytest.raises(InvalidArguments, match=told):
            value_of({"run": "arm", "metric": "x", **stated})

    def test_a_mean_is_of_something(self) -> None:
        for wrong in (3, []):
            with pytest.raises(InvalidArguments, match="mean"):
                value_of({"mean": wrong})

    def test_a_control_for_each(self) -> None:
        with pytest.raises(InvalidArguments, match="controls"):
            Metrics(values={"a": {"run": "arm", "metric": "x"}}, controls={}, curves=[])
