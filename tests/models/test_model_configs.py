"""Every file under conf/model composes, and builds what its name says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from etude.models.decoder import Decoder

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
PARTS = sorted(f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml"))
SLOTS = ["attention", "position", "norm", "feedforward", "mask", "block"]


def compose(model: str, *overrides: str) -> Any:
    sizes = {"nano": ["vocab_size=65", "+data.sequence_length=64"]}.get(model, [])
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(model, [*sizes, *overrides])
    resolved = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in resolved.items() if key != "data"}


def build(config: Any) -> Decoder:
    with torch.device("meta"):
        return instantiate(config)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_lists_every_slot_and_nothing_unknown(model):
    config = compose(model)
    accepted = inspect.signature(get_class(config["_target_"])).parameters
    assert set(config) - {"_target_"} <= set(accepted)
    needed = {name for name, p in accepted.items() if p.default is p.empty}
    assert needed <= set(config)
    assert set(SLOTS) <= needed


@pytest.mark.parametrize(("model", "millions"), [("nano", 0.804096), ("gpt2", 124.439808)])
def test_shipped_sizes(model, millions):
    assert build(compose(model)).num_parameters() == round(millions * 1e6)


@pytest.mark.parametrize("model", ["nano", "gpt2"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_fits_every_model(model, part):
    slot, name = part.split("/")
    built = build(compose(model, f"{slot}={name}", "layers=1"))
    logits = built(torch.zeros(2, 5, dtype=torch.long, device="meta"))
    assert logits.shape == (2, 5, built.embedding.num_embeddings)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_file_says_what_it_is_and_states_only_what_a_config_may(part):
    text = (CONF / f"{part}.yaml").read_text()
    assert text.startswith("# ")
    config = OmegaConf.create(text)
    assert config._partial_ is True
    target = get_class(config._target_)
    assert target.__module__ == f"etude.nn.{part.split('/')[0]}"
    given_by_config = {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert set(config) - {"_target_", "_partial_"} <= set(given_by_config)


def test_no_two_part_files_say_the_same():
    contents = [OmegaConf.to_yaml(OmegaConf.load(CONF / f"{part}.yaml")) for part in PARTS]
    assert len(set(contents)) == len(contents)


def test_every_slot_has_files_and_every_folder_is_a_slot():
    assert {part.split("/")[0] for part in PARTS} == set(SLOTS)
