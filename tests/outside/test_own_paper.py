"""A paper of one's own, as `docs/own_papers.md` has it; a shipped one with another tolerance."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.config.paths import conf_dir

PAGE = Path(__file__).parents[2] / "docs" / "own_papers.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files; the working folder is beside them."""
    paper, experiment = blocks("yaml")
    (module,) = blocks("python")
    folder = tmp_path / "my_conf"
    for group, text in (("paper", paper), ("experiment", experiment)):
        (folder / group).mkdir(parents=True)
        (folder / group / "widths.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "widths.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder  # type: ignore[misc]
    sys.modules.pop("widths", None)


def test_from_the_files_to_the_report(conf: Path, tmp_path: Path, etude: Any) -> None:
    own = ["--config-dir", "my_conf", "--root", "runs"]
    listed = etude("reproduce", *own)
    assert listed.code == 0, listed.err
    assert "A wider model has a lower loss" in listed.out
    assert "grokking" in listed.out
    assert etude("reproduce", "widths", *own, "--smoke").code == 0
    missing = etude("reproduce", "widths", *own, "--check")
    assert f"run `etude reproduce widths --config-dir {tmp_path}/my_conf` to train" in missing.out
    answer = etude("reproduce", "widths", *own)
    assert answer.code == 0, answer.err + answer.out
    assert "match" in answer.out
    result = json.loads((tmp_path / "runs/_papers/widths/result.json").read_text())
    assert len(list((tmp_path / "runs" / "widths").iterdir())) == 4
    assert "widths" in result["experiments"]
    again = etude("reproduce", "widths", *own)
    assert "4 runs already finished, nothing to train" in again.out
    experiment = conf / "experiment" / "widths.yaml"
    experiment.write_text(experiment.read_text().replace("layers: 1", "layers: 2"))
    assert "settings changed" in etude("reproduce", *own).out


def test_another_tolerance_of_a_shipped_paper(conf: Path, tmp_path: Path, etude: Any) -> None:
    shipped = (conf_dir() / "paper" / "attention_scale.yaml").read_text()
    assert etude("reproduce", "attention_scale", "--root", "runs").code == 0
    stricter = re.sub(r"\{relative: [\d.]+\}", "{relative: 0.0}", shipped)
    assert stricter != shipped
    (conf / "paper" / "attention_scale.yaml").write_text(stricter)
    own = ["--config-dir", "my_conf", "--root", "runs"]
    assert etude("reproduce", "attention_scale", *own, "--check").code == 1  # none is exact
    assert etude("reproduce", "attention_scale", "--root", "runs", "--check").code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("extensions: [widths]", "extensions: []"),
            "config, set extensions=[widths]; to allow it",
        ),
        (("extensions: [widths]", "extensions: [width]"), "a module that can be imported"),
        (("metric: val/loss", "metrik: val/loss"), "did you mean metric?"),
        (("key: gain", "key: gains"), "did you mean gain?"),
        (("narrow: [", "thin: ["), "only names under `runs`"),
        (("title: Wider", "titel: Wider"), "a supported key"),
        (("control: the", "controll: the"), "did you mean control?"),
        (("experiment=widths, model.dim=8", "experiment=width, model.dim=8"), "width"),
        (("tier: cpu", "config_dir: /tmp\ntier: cpu"), "a supported key"),
    ],
)
def test_a_mistake_names_the_file(
    change: tuple[str, str], said: str, conf: Path, tmp_path: Path, etude: Any
) -> None:
    file = conf / "paper" / "widths.yaml"
    file.write_text(file.read_text().replace(*change))
    answer = etude("reproduce", "widths", "--config-dir", "my_conf", "--root", "runs")
    assert answer.code == 2, answer.out
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs" / "widths").exists()


def test_no_such_folder(conf: Path, etude: Any) -> None:
    answer = etude("reproduce", "--config-dir", "nowhere")
    assert answer.code == 2
    assert "--config-dir" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('{"gain": Reading', '{"gains": Reading'), "did you mean gains?"),
        (("Reading(gains,", "Reading([*gains, 1.0],"), "for each of the 2 seeds"),
        (
            ("Reading(gains, [0.0 for _ in gains])", "3.0"),
            "to return for this key an etude.papers.claims.Reading",
        ),
        (("def read(", "def reed("), "a class with a `read` method"),
        (
            ('cells = {"gain"}', "cells = 5"),
            "to be a set of keys under `cells`",
        ),
        (("return {", "raise SystemExit\n        return {"), "the class raised SystemExit"),
        (
            ('return {"gain": Reading(gains, [0.0 for _ in gains])}', "return gains"),
            "to return a dict from each `key` under `cells` to an etude.papers.claims.Reading",
        ),
    ],
)
def test_readings_that_are_none(
    change: tuple[str, str], said: str, conf: Path, tmp_path: Path, etude: Any
) -> None:
    file = tmp_path / "widths.py"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    answer = etude("reproduce", "widths", "--config-dir", "my_conf", "--root", "runs")
    assert answer.code == 2, answer.out
    assert said in answer.err
    assert not (tmp_path / "runs" / "_papers" / "widths").exists()


@pytest.mark.slow
def test_the_report_states_commands_that_work(conf: Path, tmp_path: Path, etude: Any) -> None:
    assert etude("reproduce", "widths", "--config-dir", "my_conf", "--root", "runs").code == 0
    report = (tmp_path / "runs/_papers/widths/report.md").read_text()
    assert f"etude reproduce widths --config-dir {conf}" in report
    assert f"etude train --config-dir {conf} experiment=widths" in report
