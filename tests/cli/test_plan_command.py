"""`etude plan`: its report, its table and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from etude.sweeps.plan_table import rough_duration, short_count


@pytest.fixture
def words(corpus: Path, tiny: Callable[..., list[str]]) -> list[str]:
    return tiny("corpus.txt", "experiments", "run.samples=0")  # type: ignore[arg-type]


def facts(out: str) -> dict[str, str]:
    """Returns the lines of the report of one run, by the first word of each line."""
    return {line[:14].strip(): line[14:] for line in out.splitlines()[1:]}


def written(folder: Path) -> list[Path]:
    """All files but the index of constructors, which any command may write."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts
    )


def test_one_run_and_what_is_said_of_it(
    etude: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    before = written(tmp_path)
    answer = etude("plan", *words, "seed=3", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert written(tmp_path) == before
    told = facts(answer.out)
    signature = told["signature"][:12]
    assert answer.out.splitlines()[0].startswith("tiny  ")
    assert told["state"] == "new"
    assert told["run folder"] == f"experiments/tiny/{signature}"
    assert told["tokens"] == "320, 10 steps of 32 tokens"
    assert told["memory"].count("kB") >= 4
    assert told["speed"].startswith("measured now")

    assert etude("train", *words, "seed=3", cwd=tmp_path).code == 0
    answer = etude("plan", *words, "seed=3", cwd=tmp_path)
    assert facts(answer.out)["state"] == "done"
    assert (tmp_path / "experiments" / "tiny" / signature / "run.json").exists()


def test_a_sweep_is_a_table_with_totals(etude: Any, words: list[str], tmp_path: Path) -> None:
    sweep = [*words, "model.heads=1,3", "seed=0,0", "--no-measure", "-m"]
    answer = etude("plan", *sweep, cwd=tmp_path)
    head, *lines = answer.out.splitlines()
    assert answer.code == 2  # three heads do not divide a width of eight
    columns = ["label", "signature", "state", "parameters", "tokens", "FLOPs", "memory"]
    assert head.split() == [*columns, "time", "left"]
    states = [line[head.index("state") :] for line in lines[:4]]
    assert states[0].startswith("new ")
    assert states[1].startswith("same as job 1 ")
    assert states[2].startswith("refused: model.heads = 3: expected a divisor of dim = 8")
    assert "4 jobs: 1 new, 1 refused, 2 duplicate" in lines
    assert any(line.startswith("remaining: ") and " FLOPs, about 1 s" in line for line in lines)
    assert any(line.startswith("speed: assumed: 40% of this machine's ") for line in lines)


def test_json_holds_all_of_it(etude: Any, words: list[str], tmp_path: Path) -> None:
    answer = etude("plan", *words, "--json", "--no-measure", cwd=tmp_path)
    found = json.loads(answer.out)
    assert (found["state"], found["steps"], found["tokens"]) == ("new", 10, 320)
    assert found["memory"]["all"] == sum(
        found["memory"][part] for part in ("weights", "gradients", "optimizer", "activations")
    )
    assert found["seconds_left"] > 0
    answer = etude("plan", *words, "--json", "--no-measure", "-m", "seed=1,2", cwd=tmp_path)
    assert [job["label"][-6:] for job in json.loads(answer.out)] == ["seed=1", "seed=2"]


def test_signature_shows_what_entered(etude: Any, words: list[str], tmp_path: Path) -> None:
    answer = etude("plan", *words, "--signature", cwd=tmp_path)
    entered = yaml.safe_load(answer.out)
    assert entered["trainer"]["max_steps"] == 10
    assert "run" not in entered
    found = json.loads(etude("plan", *words, "--signature", "--json", cwd=tmp_path).out)
    assert answer.out.startswith(f"# signature {found['signature']}\n# group {found['group']} ")
    assert found["identity"]["model"] == entered["model"]
    sweep = etude("plan", *words, "--signature", "-m", "seed=1,2", cwd=tmp_path)
    assert [config["seed"] for config in yaml.safe_load_all(sweep.out)] == [1, 2]


def test_what_this_machine_has_no_memory_for_is_a_note(
    etude: Any, words: list[str], tmp_path: Path
) -> None:
    answer = etude("plan", *words, "model.layers=1000000000", "--no-measure", cwd=tmp_path)
    assert answer.code == 0
    assert facts(answer.out)["state"] == "new"
    said = "`etude train` would refuse this run on this machine: "
    said += "model.layers = 1000000000: expected a model"
    assert said in answer.out
    assert "would refuse" not in etude("plan", *words, "--no-measure", cwd=tmp_path).out


def test_in_a_sweep_such_a_note_names_its_job(etude: Any, words: list[str], tmp_path: Path) -> None:
    layers = "model.layers=1,1000000000"
    answer = etude("plan", *words, layers, "--no-measure", "-m", cwd=tmp_path)
    notes = [
        line for line in answer.out.splitlines() if "would refuse this run on this machine" in line
    ]
    assert len(notes) == 1
    assert notes[0].startswith("job 2: ")


def test_a_refused_run_has_its_name(etude: Any, words: list[str], tmp_path: Path) -> None:
    answer = etude("plan", *words, "model.heads=3", "name=mine", cwd=tmp_path)
    assert answer.out.startswith("mine  ")
    assert "refused" in facts(answer.out)["state"]


def test_all_mistakes_of_one_run(etude: Any, words: list[str], tmp_path: Path) -> None:
    answer = etude("plan", *words, "model.heads=3", "schedule.warmup_steps=-1", cwd=tmp_path)
    assert answer.code == 2
    assert facts(answer.out)["state"] == "refused, 2 errors:"
    assert "model.heads = 3" in answer.out
    assert "schedule.warmup_steps = -1" in answer.out
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["modle=nano"], "did you mean model?"),
        (["-m", "model/position=none,rotry"], "did you mean rotary?"),
        (["--jsn"], "did you mean --json?"),
        (["--cfg", "job"], "to use this option, run `etude train --cfg`"),
    ],
)
def test_wrong_words_are_refused(etude: Any, tmp_path: Path, typed: list[str], said: str) -> None:
    answer = etude("plan", *typed, cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert os.listdir(tmp_path) == []


def test_help_comes_at_once() -> None:
    script = (
        "import sys; from etude.cli import run; assert run(['plan', '--help']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "--no-measure" in done.stdout


def test_the_shell_completes_as_after_train(etude: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "etude plan experiment=de")
    assert etude("-sc", "query=bash").out.split() == ["experiment=debug"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (768, "768"), (1_920_000, "1.92 M"), (12.94e12, "12.9 T"), (3.14e23, "3.14e+23")],
)
def test_numbers_for_people(value: float, said: str) -> None:
    assert short_count(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (160, "2:40 min"),
        (5 * 3600, "5.0 h"),
        (86400 * 12, "12.0 days"),
        (86400 * 365.25 * 340, "340 years"),
    ],
)
def test_times_for_people(seconds: float, said: str) -> None:
    assert rough_duration(seconds) == said
