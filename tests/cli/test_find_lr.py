"""`etude find-lr`: its table, its files and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_table_and_files(corpus: Path, tiny: Callable, etude: Callable, tmp_path: Path) -> None:
    words = [*tiny(corpus, tmp_path / "runs"), "data.batch.examples=16"]
    answer = etude("find-lr", *words, "--from", "1e-5", "--to=1", "--steps", "30", cwd=tmp_path)
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "runs" / "_lr").iterdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["_lr"]
    told = json.loads((folder / "lr.json").read_text())
    assert told["rates"][0] == pytest.approx(1e-5)
    assert len(told["rates"]) <= 30
    lines = answer.out.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("rate"))
    assert lines[head].split() == ["rate", "loss", "smoothed"]
    rate, loss, smoothed = lines[head + 1].split()[:3]
    assert float(rate) == pytest.approx(told["rates"][0], rel=1e-2)
    assert float(loss) == pytest.approx(told["losses"][0], abs=1e-4)
    assert float(smoothed) == pytest.approx(told["smoothed"][0], abs=1e-4)
    assert any("optimizer.lr=" in line for line in lines)
    for name in ("lr.json", "lr.png"):
        assert str(folder / name) in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked_lm", "translation", "classification", "tagging"])
def test_every_kind_of_data(kind: str, toy: Callable, etude: Callable, tmp_path: Path) -> None:
    """Also for a run on several processes; its range test uses one."""
    words = [*toy(kind, tmp_path / "runs"), "trainer.devices=2", "trainer.strategy=ddp"]
    answer = etude("find-lr", *words, "--steps", "12", cwd=tmp_path)
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "runs" / "_lr").iterdir()
    assert len(json.loads((folder / "lr.json").read_text())["losses"]) == 12


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--from", "0"], "--from = 0.0: expected a positive number"),
        (["--to", "1e-9"], "--to = 1e-09: expected a learning rate above the lowest, 1e-06"),
        (["--steps", "2"], "--steps = 2: expected at least 10 steps"),
        (["--steps", "many"], "etude find-lr"),
        (["-m"], "etude find-lr"),
        (["optimizer.rate=1"], "optimizer.rate"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["data.path=nothing.txt"], "nothing.txt"),
    ],
)
def test_bad_input(
    more: list[str], told: str, corpus: Path, tiny: Callable, etude: Callable, tmp_path: Path
) -> None:
    answer = etude("find-lr", *tiny(corpus, tmp_path / "runs"), *more, cwd=tmp_path)
    assert answer.code == 2
    assert told in answer.err
    assert not (tmp_path / "runs").exists()
