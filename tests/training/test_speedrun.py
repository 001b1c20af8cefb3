"""The speed-run follows its own rules: no larger model, and less computation."""

from __future__ import annotations

from pathlib import Path

import etude
from etude.training.build import check_all
from etude.training.model import build_model

CHARACTERS = 67  # tinyshakespeare's 65, and two that stand for what it has not


def test_the_model_is_no_larger_and_computes_at_most_a_sixth(tmp_path: Path) -> None:
    text = tmp_path / "input.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 200)
    tokens, parameters = {}, {}
    for name in ("shakespeare_char", "shakespeare_speedrun"):
        config = etude.compose(f"experiment={name}", f"data.path='{text}'")
        parameters[name] = build_model(check_all(config), CHARACTERS).num_parameters()
        assert config.data.sequence_length == 64
        tokens[name] = config.trainer.max_steps * config.data.batch.examples * 64
    assert parameters["shakespeare_char"] > 800_000  # nanoGPT's, whose count leaves positions out
    assert parameters["shakespeare_speedrun"] <= parameters["shakespeare_char"]
    work = {name: tokens[name] * parameters[name] for name in tokens}
    assert work["shakespeare_speedrun"] * 6 < work["shakespeare_char"]
