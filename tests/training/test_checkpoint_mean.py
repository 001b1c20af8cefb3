"""The mean of several checkpoints, wherever one can be selected, and which are retained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.api import Run
from etude.config.compose import compose
from etude.errors import RequestError
from etude.records.record import Record
from etude.training.build import check_all
from etude.training.init_from import InitFromSource
from etude.training.model import build_model
from etude.training.run import train

Small = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def kept(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("kept"), "run.keep_last=4")).record


def mean(folders: list[Path]) -> dict[str, np.ndarray]:
    """Returns the mean of the files in double precision, rounded once."""
    files = [load_file(folder / "model.safetensors") for folder in folders]
    return {
        name: (sum(f[name].numpy().astype(np.float64) for f in files) / len(files)).astype(
            np.float32
        )
        for name in files[0]
    }


@pytest.mark.parametrize(("which", "count"), [("average:3", 3), ("average:1", 1), ("average", 0)])
def test_by_hand(kept: Record, which: str, count: int) -> None:
    folders = [folder for _, folder in kept.checkpoints()][-count:]
    assert len(folders) > 3 if which == "average" else len(folders) == count
    expected = mean(folders)
    module = Run(kept).model(which).module
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=0, atol=1e-7)
    last = load_file(kept.checkpoint("last") / "model.safetensors")
    same = all(torch.equal(p, last[name]) for name, p in module.named_parameters())
    assert same == (count == 1)


@pytest.mark.parametrize("stops", [(), (12, 33, 38)])
def test_which_are_kept_depends_on_no_stop(
    small: Small, kept: Record, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Checkpoints are saved at multiples of 5 and at improved validations (7, 14, ...); stops save
    additional ones."""
    for stop in stops:
        train(small(tmp_path, "run.keep_last=4", f"run.stop_at_step={stop}"))
    record = train(small(tmp_path, "run.keep_last=4")).record
    better = [row["step"] for row in record.rows() if "val/loss" in row]
    losses = [row["val/loss"] for row in record.rows() if "val/loss" in row]
    better = [step for n, step in enumerate(better) if losses[n] < min(losses[:n], default=9e9)]
    saves = sorted({*range(5, 41, 5), *better})
    assert [step for step, _ in record.checkpoints()] == sorted({*saves[-4:], better[-1]})
    assert_same(record, kept)
    one, other = (Run(r).model("average:4").module.state_dict() for r in (record, kept))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fewer_than_asked_for(kept: Record, small: Small, tmp_path: Path) -> None:
    there = len(kept.checkpoints())
    with pytest.raises(RequestError) as caught:
        Run(kept).model(f"average:{there + 1}")
    (problem,) = caught.value.problems
    assert f"at most {there} checkpoints" in problem.expected
    assert f"run.keep_last={there + 1}" in (problem.hint or "")
    assert "30, 35, 40" in (problem.hint or "")
    for bad in ("average:0", "average:", "average:-1", "average:2.5", "mean"):
        with pytest.raises(RequestError, match="best, last, the step of a checkpoint, average "):
            Run(kept).model(bad)
    with pytest.raises(RequestError, match=r"run\.keep_last = 0"):
        train(small(tmp_path, "run.keep_last=0"))


def test_files_are_named_by_what_was_averaged(tmp_path: Path) -> None:
    """Files of a mean of many checkpoints are named by a hash of their steps."""

    def name(steps: list[int]) -> str:
        run = tmp_path / "-".join(map(str, steps))
        for step in steps:
            folder = run / "checkpoints" / f"step-{step:08d}"
            folder.mkdir(parents=True)
            (folder / "MANIFEST.json").write_text("{}")
        return Record(run).chosen("average").name

    assert name([5, 10, 40]) == "average-5-10-40"
    many = [name([1, *range(3, 13), 20]), name([1, *range(4, 14), 20])]
    assert all(each.startswith("average-12-1-20-") and len(each) < 40 for each in many)
    assert many[0] != many[1]


def test_damage_is_named(kept: Record, tmp_path: Path) -> None:
    copy = Record.read(shutil.copytree(kept.path, tmp_path / "copy"))
    file = copy.checkpoints()[-2][1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RequestError) as caught:
        Run(copy).model("average:2")
    assert str(file) in str(caught.value)
    Run(copy).model("average:1")


def test_on_the_command_line(kept: Record, etude: Callable, tmp_path: Path) -> None:
    run = Record.read(shutil.copytree(kept.path, tmp_path / "copy"))
    answer = etude("evaluate", run.path, "--checkpoint", "average:2")
    assert answer.code == 0, answer.err
    assert (run.path / "evaluations" / "val-average-35-40.json").exists()
    scores = {which: Run(run).scores(which=which) for which in ("average:2", "last")}
    assert scores["average:2"] != scores["last"]
    assert (run.path / "predictions" / "val-average-35-40.json").exists()
    words = ["--max-new-tokens", "5", "--greedy"]
    answer = etude("generate", run.path, "--checkpoint", "average", *words)
    assert answer.code == 0, answer.err
    answer = etude("generate", run.path, "--checkpoint", "average:99", *words)
    assert answer.code == 2
    assert "run.keep_last=99" in answer.err


def test_to_begin_with(kept: Record, words: Callable, tmp_path: Path) -> None:
    """The signature contains the steps and hashes of the source's checkpoints."""
    start = [f"init_from={kept.path}", "init_from.checkpoint=average:2"]
    checked = check_all(compose(words(tmp_path, *start)))
    found = checked.identity["init_from"]
    assert found["average"] == [35, 40]
    assert len(set(found["sha256"])) == 2
    module = build_model(checked, Run(kept).tokenizer().vocab_size)
    InitFromSource.fill(module, checked.config.init_from, tmp_path)
    expected = mean([folder for _, folder in kept.checkpoints()][-2:])
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=0, atol=1e-7)


def test_low_rank_changes(kept: Record, words: Callable, tmp_path: Path) -> None:
    """Each low-rank matrix is averaged; the other weights are the source's."""
    lora = [f"init_from={kept.path}", "init_from.lora.rank=2", "run.keep_last=3"]
    record = train(compose(words(tmp_path, *lora, "trainer.max_steps=15"))).record
    expected = mean([folder for _, folder in record.checkpoints()][-3:])
    assert all(".lora." in name for name in expected)
    module = Run(record).model("average:3", merged=False).module
    source = load_file(kept.checkpoint("best") / "model.safetensors")
    found = dict(module.named_parameters())
    assert set(expected) | set(source) == set(found)
    for name, parameter in found.items():
        value = expected[name] if name in expected else source[name].numpy()
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=0, atol=1e-7)
