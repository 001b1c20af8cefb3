"""A record whose config describes a larger model than its weights is refused before it is built."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from older_records import with_hashes_that_fit

CHANGES = {"model.layers": 10**7, "model.dim": 10**9, "model.vocab_size": 10**12}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    write_corpus: Callable[..., Path],
    tiny: Callable[..., list[str]],
    etude: Callable[..., Any],
) -> Path:
    folder = tmp_path_factory.mktemp("made")
    words = tiny(write_corpus(folder / "corpus.txt"), folder, "trainer.max_steps=2")
    answer = etude("train", *words, "schedule.warmup_steps=1", "run.samples=0")
    assert answer.code == 0, answer.err
    (record,) = (folder / "tiny").iterdir()
    return record


@pytest.mark.parametrize("key", CHANGES)
def test_refused_before_it_is_built(key: str, made: Path, etude: Callable[..., Any]) -> None:
    file = made / "config.yaml"
    before = file.read_text()
    config = OmegaConf.load(file)
    OmegaConf.update(config, key, CHANGES[key])
    OmegaConf.save(config, file)
    with_hashes_that_fit(made)
    began = time.process_time()
    try:
        answer = etude("generate", made, "--max-new-tokens", "1")
    finally:
        file.write_text(before)
    assert answer.code == 2
    assert "  model: expected " in answer.err or "  model = " in answer.err
    assert time.process_time() - began < 20  # ten million layers would take minutes
