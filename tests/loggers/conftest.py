"""Fixture: one short run with both loggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from read_views import BOTH


@pytest.fixture(scope="package")
def viewed(
    tmp_path_factory: pytest.TempPathFactory,
    write_corpus: Callable[..., Path],
    tiny: Callable[..., list[str]],
    etude: Callable[..., object],
) -> Path:
    """Record of a run of ten steps with a row each, logged to TensorBoard and W&B."""
    folder = tmp_path_factory.mktemp("viewed")
    corpus = write_corpus(folder / "corpus.txt")
    told = ["trainer.log_every_n_steps=1", "run.tags=[one,two]", "run.notes=a note", BOTH]
    answer = etude("train", *tiny(corpus, folder / "experiments", *told))
    assert answer.code == 0, answer.err  # type: ignore[attr-defined]
    (record,) = (folder / "experiments" / "tiny").iterdir()
    return record
