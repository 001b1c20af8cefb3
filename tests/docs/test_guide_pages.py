"""Every code block of the pages on configuration, data, tasks and muP runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import etude as etude_package

DOCS = Path(__file__).resolve().parents[2] / "docs"

TINY = [
    "trainer.max_steps=2",
    "trainer.max_epochs=null",
    "trainer.val_check_interval=2",
    "schedule.warmup_steps=0",
    "run.samples=0",
]

SHORT_TEXT = ["data=sotu_recent", "data/tokenizer=char", "data.sequence_length=32"]


def is_training(words: list[str]) -> bool:
    """Returns whether the command trains a model and is expected to succeed."""
    return words[0] == "train" and "--cfg" not in words


@pytest.mark.slow
def test_mup(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    check = etude_package.coordinate_check
    small = {"steps": 1, "seeds": (0,)}
    monkeypatch.setattr(
        etude_package,
        "coordinate_check",
        lambda config, widths, **options: check(config, widths[:2], **options | small),
    )

    def shorten(words: list[str]) -> list[str]:
        if not is_training(words):
            return words
        kept = {"model.dim": 2, "optimizer.lr": 2}
        words = [
            f"{key}={','.join(value.split(',')[: kept.get(key, 9)])}" if equals else key
            for key, equals, value in (word.partition("=") for word in words)
        ]
        words = [word for word in words if not word.startswith("data/tokenizer")]
        return [*words, *TINY, *SHORT_TEXT, "model.layers=1", "data.batch.examples=4"]

    run(DOCS / "mup.md", shorten=shorten)
    assert Path("mup.png").is_file()


@pytest.mark.slow
def test_configuration(run: Callable) -> None:
    def shorten(words: list[str]) -> list[str]:
        if "experiment=nano" in words or "experiment=mine" in words:
            return [*words, *TINY, *SHORT_TEXT, "model.dim=16", "model.heads=2"]
        debug = is_training(words) and "experiment=debug" in words
        return [*words, "run.sample_tokens=5"] if debug else words

    run(DOCS / "configuration.md", shorten=shorten)
