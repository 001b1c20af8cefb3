"""Values of a chosen file that an experiment's file replaces are reported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from etude.config.compose import compose_in_search, search_configs
from etude.config.flattening import flatten
from etude.config.paths import conf_dir
from etude.config.replacements import find_replaced
from etude.errors import RequestError


def found(*typed: str, config_dir: Path | None = None) -> list[str]:
    with search_configs(config_dir):
        return [str(each) for each in find_replaced(typed)]


def test_values_and_parts_of_a_model() -> None:
    (line,) = found("experiment=debug", "model=gpt2")
    assert line == (
        "experiment/debug.yaml replaces values of model=gpt2: model.layers=2 instead of 12, "
        "model.heads=2 instead of 12, model.dim=32 instead of 768 "
        "(to drop the experiment, use '~experiment' model=gpt2 name=...)"
    )
    (line,) = found("experiment=mup", "model=gpt2")
    assert "model/initialise=t5 instead of default" in line
    assert "model.tie_embeddings=false instead of true" in line
    assert "model.mup_base_dim=64 instead of the default" in line
    (line,) = found("model=gpt2")  # the default experiment's
    assert line.startswith("experiment/nano.yaml replaces values of model=gpt2: model/position=rot")


@pytest.mark.parametrize(
    ("choice", "change"),
    [
        ("data=sotu", "data.sequence_length=32 instead of 64"),
        ("optimizer=lion", "optimizer.lr=0.01 instead of 0.0002"),
        ("trainer=gpu", "trainer.max_steps=40 instead of 2000"),  # a value of a file it names
        ("schedule=cosine", "schedule.warmup_steps=5 instead of 100"),
    ],
)
def test_every_group(choice: str, change: str) -> None:
    (line,) = found("experiment=debug", choice)
    assert change in line
    assert choice in line


def test_what_is_typed_is_not_reported() -> None:
    (line,) = found("experiment=debug", "model=gpt2", "model.layers=3", "++model.heads=2")
    assert "model.dim" in line
    assert "layers" not in line
    assert "heads" not in line
    (line,) = found("experiment=nano", "model=gpt2", "model/norm=layernorm")
    assert "norm" not in line
    assert not found(
        "experiment=debug", "data=sotu", "data.batch={tokens: 64}", "data.sequence_length=8"
    )


def test_the_way_out() -> None:
    assert not found("~experiment", "model=gpt2", "name=x")


def test_a_part_that_is_chosen_and_then_changed(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\nmodel:\n  position: {base: 5.0}\n"
    )
    (line,) = found("experiment=mine", "model/position=rotary", config_dir=tmp_path)
    assert "experiment/mine.yaml replaces values of model/position=rotary" in line
    assert "model.position.base=5.0 instead of" in line


def test_files_of_one_group_beside_each_other() -> None:
    assert not found("experiment=debug", "logger=[wandb,tensorboard]")


EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


def test_no_experiment_alone_is_reported() -> None:
    assert EXPERIMENTS
    with search_configs(None):
        for experiment in EXPERIMENTS:
            assert not find_replaced([f"experiment={experiment}", "seed=1", "model.dropout=0.5"])


def values_of_the_model(words: list[str]) -> dict[str, object]:
    return dict(flatten(OmegaConf.to_container(compose_in_search(words).model, resolve=False)))


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, object]]:
    """The values of each model's file."""
    names = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    with search_configs(None):
        return {
            name: values_of_the_model(["~experiment", f"model={name}", "name=x"]) for name in names
        }


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_is_reported_is_what_composing_changes(
    experiment: str, models: dict[str, dict[str, object]]
) -> None:
    """Every model beside the experiment, against the composed config: a key is reported if and
    only if leaving the experiment out would give the model another value."""
    checked = 0
    with search_configs(None):
        for model, alone in models.items():
            words = [f"experiment={experiment}", f"model={model}"]
            try:
                both = values_of_the_model(words)
            except RequestError:  # a part that this model lacks
                continue
            reported = "; ".join(each.partition(" (")[0] for each in map(str, find_replaced(words)))
            for key in both.keys() | alone.keys():
                slot = key.partition(".")[0]
                same = both.get(key, "absent") == alone.get(key, "absent")
                assert same or f"model.{key}=" in reported or f"model/{slot}=" in reported, words
                assert not same or f"model.{key}=" not in reported, (words, key)
                checked += 1
    assert checked > 20


def test_cfg_job_stays_yaml(etude: Callable[..., Any]) -> None:
    answer = etude("train", "--cfg", "job", "experiment=debug", "model=gpt2")
    assert answer.code == 0
    assert yaml.safe_load(answer.out)["model"]["layers"] == 2
    assert answer.err.count("experiment/debug.yaml replaces values of model=gpt2") == 1
    assert not etude("train", "--cfg", "job", "experiment=debug").err


def test_each_choice_of_a_sweep(caplog: pytest.LogCaptureFixture) -> None:
    from etude.sweeps.expand import expand

    logging.getLogger("etude").propagate = True
    with search_configs(None) as hydra:
        expand(["experiment=debug", "model=gpt2,nano", "seed=0,1", "model.heads=1,2"], hydra)
    first, second = caplog.messages
    for line, model in ((first, "gpt2"), (second, "nano")):
        assert f"experiment/debug.yaml replaces values of model={model}: model.layers=2" in line
        assert "heads" not in line  # it is swept


def test_in_a_notebook(caplog: pytest.LogCaptureFixture) -> None:
    import etude

    logging.getLogger("etude").propagate = True
    etude.compose("experiment=debug", "model=gpt2")
    (message,) = caplog.messages
    assert "model.layers=2 instead of 12" in message


def test_a_vocabulary_of_which_most_is_never_trained(
    etude: Callable[..., Any], tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    words = [*tiny(corpus, tmp_path / "runs"), "trainer.max_steps=1", "run.samples=0"]
    answer = etude("train", *words, "model.vocab_size=5000")
    assert answer.code == 0
    assert "model.vocab_size=5000: the tokenizer has 31 tokens, so 4,969 rows" in answer.err
    answer = etude("plan", *words, "model.vocab_size=5001", "--no-measure")
    assert "so 4,970 rows of the embedding are unused" in answer.out
    assert "rows" not in etude("plan", *words, "model.vocab_size=40", "--no-measure").out
