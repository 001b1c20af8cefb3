"""Records that an earlier version made: listed, verified, evaluated, reused and continued."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from safetensors.torch import load_file

from etude.papers import claims

NAMES = [*commands.RUNS, *commands.PARTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The archive's content, where the commands run."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(commands.ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return content


def runs_of(root: Path | str, name: str) -> set[Path]:
    return set(Path(root, name).iterdir())


def command_of(name: str) -> list[str]:
    if name == "adapter":
        (source,) = runs_of(commands.ROOT, "causal_lm")
        return commands.adapter(str(source))
    if name == "interrupted":
        return commands.typed(name, commands.INTERRUPTED)
    return commands.of(name)


def starts(run: Path) -> list[Any]:
    found: list[Any] = json.loads((run / "run.json").read_text())["starts"]
    return found


def test_all_are_listed_as_they_were(etude: Any, expected: dict[str, Any]) -> None:
    answer = etude("runs", "list", "--json")
    assert answer.code == 0, answer
    assert json.loads(answer.out) == expected["list"]


def test_all_are_whole(etude: Any, folder: Path) -> None:
    answer = etude("runs", "verify", "--root", commands.ROOT)
    assert answer.code == 0, answer


def test_each_has_its_score(etude: Any, expected: dict[str, Any]) -> None:
    answer = etude("evaluate", *expected["scores"], "--split", "val", "--json")
    assert answer.code == 0, answer
    found = json.loads(answer.out)
    assert len(found) >= len(NAMES) + 9
    for score, (run, (before,)) in zip(found, expected["scores"].items(), strict=True):
        assert score["run"] == run
        again = {
            name: score["metrics"].get(name) for name in before["metrics"]
        }  # others may be new
        assert again == pytest.approx(before["metrics"], rel=1e-6, nan_ok=True), run


@pytest.mark.parametrize("name", commands.GENERATED)
def test_texts_are_drawn_again(name: str, etude: Any, expected: dict[str, Any]) -> None:
    answer = etude("generate", name, *commands.GENERATE)
    assert answer.code == 0, answer
    assert answer.out == expected["texts"][name]


@pytest.mark.parametrize("name", [*NAMES, "adapter", "interrupted"])
def test_the_command_finds_its_run(name: str, etude: Any, folder: Path) -> None:
    before = runs_of(commands.ROOT, name)
    (run,) = before
    began = starts(run)
    answer = etude("train", *command_of(name), f"run.root={commands.ROOT}")
    assert answer.code == 0, answer
    assert f"already finished: {run}" in answer.out
    assert runs_of(commands.ROOT, name) == before
    assert starts(run) == began


@pytest.mark.parametrize("name", [*NAMES, "interrupted"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str, etude: Any, folder: Path, expected: dict[str, Any]
) -> None:
    before = runs_of(commands.PAUSED, name)
    (run,) = before
    (reference,) = runs_of(commands.ROOT, name)
    assert run.name == reference.name
    answer = etude("train", *command_of(name), f"run.root={commands.PAUSED}")
    assert answer.code == 0, answer
    assert runs_of(commands.PAUSED, name) == before
    assert len(starts(run)) == 2
    last = max(path.name for path in (reference / "checkpoints").iterdir())
    ours, theirs = (
        load_file(each / "checkpoints" / last / "model.safetensors") for each in (run, reference)
    )
    assert ours.keys() == theirs.keys()
    same_machine = commands.processor() == expected["made"]["processor"]
    for key, value in ours.items():
        if same_machine:
            assert torch.equal(value, theirs[key]), key
        else:  # which rounds otherwise
            torch.testing.assert_close(value, theirs[key], atol=1e-3, rtol=1e-3)


def test_a_sweep_has_nothing_left_to_do(etude: Any, folder: Path) -> None:
    before, sweeps = runs_of(commands.ROOT, "sweep"), runs_of(commands.ROOT, "_sweeps")
    began = {run: starts(run) for run in before}
    words = commands.typed("sweep", commands.SWEEP, f"run.root={commands.ROOT}")
    answer = etude("train", *words)
    assert answer.code == 0, answer
    assert answer.out.count("already finished") >= 4
    assert runs_of(commands.ROOT, "sweep") == before
    # data.split=regular had no need to be stated then, so the sweep is another, of the same runs
    assert len(runs_of(commands.ROOT, "_sweeps") - sweeps) == 1
    assert {run: starts(run) for run in before} == began


def test_a_search_has_had_its_trials(etude: Any, folder: Path) -> None:
    before, sweeps = runs_of(commands.ROOT, "search"), runs_of(commands.ROOT, "_sweeps")
    words = commands.typed("search", commands.SEARCH, f"run.root={commands.ROOT}")
    answer = etude("train", *words)
    assert answer.code == 0, answer
    assert len(before) == 3
    assert runs_of(commands.ROOT, "search") == before
    assert len(runs_of(commands.ROOT, "_sweeps") - sweeps) <= 1


def test_a_paper_is_read_from_its_runs(
    etude: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = claims.load
    runs = {"sorted": commands.PAPER_RUN, "untrained": commands.PAPER_UNTRAINED}
    monkeypatch.setattr(claims, "load", lambda name, *_: replace(load(name), runs=runs, seeds=[0]))
    place = Path(commands.ROOT, "_papers", commands.PAPER)
    before = json.loads((place / "result.json").read_text())
    trained = runs_of(commands.ROOT, commands.PAPER)
    shutil.rmtree(place)
    answer = etude("reproduce", commands.PAPER, "--root", commands.ROOT)
    assert answer.code == 1, answer  # a miss: these runs are too short
    assert runs_of(commands.ROOT, commands.PAPER) == trained
    after = json.loads((place / "result.json").read_text())
    del before["measured"], after["measured"]  # when, and by which version
    assert before.pop("verdict") == "miss (1 of 1 cells)"  # the word of older versions
    assert after.pop("verdict") == "miss (1 of 1 values)"
    assert after == before
