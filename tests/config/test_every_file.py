"""Every file under conf/ composes, is checked, and builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.config.checks import check
from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.errors import RequestError
from etude.training.build import build_parts

CONF = conf_dir()
NOT_FOR_TRAINING = ("paper", "sweep")  # read by `reproduce`, and presets of overrides
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in NOT_FOR_TRAINING
)
TEXT = "data=text_files"


def needed(choice: str, corpus: Path) -> list[str]:
    """What has no default, a text to read; and an experiment that says nothing of tokenizers."""
    if choice == "data/tokenizer=pretrained":  # read when the data is prepared
        return ["experiment=debug", "data.tokenizer.path=tokenizer.json"]
    if choice.startswith("data/tokenizer"):
        return ["experiment=debug"]
    if choice == "data=hub_text":  # with a commit nothing is asked of the hub
        return ["data.name=owner/name", f"data.revision={'0' * 40}"]
    reads_files = choice == TEXT or "shakespeare" in choice
    return [f"data.path={corpus}"] if reads_files else []


def test_the_groups_are_those_that_were_meant() -> None:
    groups = {choice.partition("=")[0] for choice in CHOICES}
    assert {"model", "model/attention", "data", "data/tokenizer", "experiment"} <= groups
    assert len(CHOICES) >= 35


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_checks_and_builds(choice: str, corpus: Path) -> None:
    checked = check(compose([choice, *needed(choice, corpus)]))
    if choice == "model/mask=bidirectional":  # builds, but not for predicting the next token
        with torch.device("meta"):
            assert not checked.nodes["model"].build(vocab_size=5).mask.causal
        return
    parts = build_parts(checked)
    for step in (0, 7, 99):
        assert 0.0 < parts.schedule(step, 100) <= 1.0
    with torch.device("meta"):
        assert parts.optimizer(torch.nn.Linear(2, 2)).param_groups[0]["lr"] > 0.0
    assert parts.trainer.total_steps(steps_per_epoch=10.0) >= 1
    assert parts.data.sequence_length >= 1
    assert callable(parts.task)


def test_a_mask_that_shows_the_targets_is_refused() -> None:
    with pytest.raises(RequestError, match=r"model\.mask = 'Bidirectional': expected a mask that"):
        build_parts(check(compose(["experiment=debug", "model/mask=bidirectional"])))


def test_a_corpus_that_must_be_given_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"data\.path: expected a value: it must be given"):
        check(compose([TEXT]))
