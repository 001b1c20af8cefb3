"""Names of other tools are hints, and values in Chinese need no quotes."""

from __future__ import annotations

import pytest

from etude.config.compose import compose, quote_unicode
from etude.config.equivalents import _OURS, equivalent_of, plugin_of, suggest_sweep


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("trainer.batch_size", "use data.batch.examples"),
        ("--learning-rate=1", "use optimizer.lr"),
        ("n_embd", "use model.dim"),
        ("optimizer.lr", None),
        ("model.attention", "use model/attention=NAME"),
        ("nothing_like_it", None),
    ],
)
def test_hints(typed: str, hint: str | None) -> None:
    assert equivalent_of(typed) == hint


def test_a_hint_names_the_typed_file() -> None:
    assert equivalent_of("scheduler", "cosine") == "use schedule=cosine"


def test_keys_in_hints_exist() -> None:
    """Each key that a hint names is a key or a group of the config."""
    config = compose(["experiment=debug"])
    for ours in set(_OURS.values()):
        for word in ours.replace(",", " ").split():
            key = word.partition("=")[0]
            if "." in key and not key.startswith(("init_from", "data.path")) and "..." not in key:
                assert key.split(".")[0] in config, ours


def test_plugins_and_lists() -> None:
    assert plugin_of("hydra/launcher", "submitit_slurm") == "pip install hydra-submitit-launcher"
    assert plugin_of("hydra/launcher", "processes") is None
    assert suggest_sweep("seed", [0, 1]) == "to sweep over several values, use seed=0,1 -m"
    assert suggest_sweep("seed", "a") is None


@pytest.mark.parametrize("text", ["第一次", "你好，世界", "naïve (draft"])
def test_texts_without_quotes(text: str) -> None:
    if "(" in text:
        assert quote_unicode(f"run.notes={text}") == f"run.notes={text}"
        return
    assert compose(["experiment=debug", f"run.notes={text}"]).run.notes == text


def test_what_hydra_reads_is_left_alone() -> None:
    for typed in ("run.notes='第一次'", "run.tags=[一,二]", "seed=0,1", "model.dim=64"):
        assert quote_unicode(typed) == typed
