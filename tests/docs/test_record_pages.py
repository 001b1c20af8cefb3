"""Every code block of the pages on sweeps, records, weights, security and custom code runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"

TINY = [
    "trainer.max_steps=2",
    "trainer.max_epochs=null",
    "trainer.val_check_interval=2",
    "schedule.warmup_steps=0",
    "run.samples=0",
    "data.batch.examples=4",
    "data.sequence_length=16",
]


@pytest.mark.slow
def test_sweeps(run: Callable) -> None:
    """`tests/test_docs_sweeps.py` runs the same commands in full."""
    small = {
        "model/position=learned,rotary,alibi,none": "model/position=rotary,none",
        "seed=0,1,2": "seed=0,1",
        "hydra.sweeper.n_trials=8": "hydra.sweeper.n_trials=2",
    }

    def shorten(words: list[str]) -> list[str]:
        words = [small.get(word, word) for word in words]
        if words[0] in ("train", "plan"):
            words = [word for word in words if not word.startswith("trainer.")]
            return [*words, *TINY, "model.dim=16"]
        return words

    run(DOCS / "sweeps.md", shorten=shorten)
    assert Path("heat.png").is_file()


@pytest.mark.slow
def test_records(run: Callable) -> None:
    run(DOCS / "records.md")


@pytest.mark.slow
def test_weights(run: Callable) -> None:
    run(DOCS / "weights.md")
    assert Path("my_model/tokenizer.json").is_file()
    assert Path("my_adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_own_papers(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    try:
        run(DOCS / "own_papers.md")
    finally:
        sys.modules.pop("widths", None)
    assert len(list(Path("experiments/widths").iterdir())) == 4


@pytest.mark.slow
def test_security(run: Callable, etude: Callable) -> None:
    """`received/7f91c2` is a copy of a run."""
    assert etude("train", "experiment=debug", *TINY).code == 0
    (record,) = Path("experiments/debug").iterdir()
    shutil.copytree(record, "received/7f91c2")
    run(DOCS / "security.md")


@pytest.mark.slow
def test_contracts(run: Callable) -> None:
    run(DOCS / "contracts" / "README.md")
