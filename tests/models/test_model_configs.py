"""Every file under conf/model composes, and builds what its name says."""

from __future__ import annotations

import inspect
import time
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


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("nano", 804_096),
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_shipped_sizes(model, parameters):
    assert build(compose(model)).num_parameters() == parameters


@pytest.mark.parametrize("model", ["gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl"])
def test_sizes_are_those_of_transformers(model):
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = build(compose(model))
    config = compose(model)
    sizes = GPT2Config(n_layer=config["layers"], n_head=config["heads"], n_embd=config["dim"])
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(sizes)
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.max_length == sizes.n_positions
    sizes_of = [sorted(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert sizes_of[0] == sizes_of[1]


def test_gpt3_is_that_of_the_paper():
    """Brown et al. 2020, table 2.1: 96 layers, 96 heads of width 128, width 12288, context 2048."""
    began = time.monotonic()
    model = build(compose("gpt3_175b"))
    assert time.monotonic() - began < 20
    D, V, T, L = 12288, 50257, 2048, 96
    layer = 4 * D * D + 4 * D + 8 * D * D + 5 * D + 4 * D  # attention, feed-forward, two norms
    assert model.num_parameters() == V * D + T * D + L * layer + 2 * D == 174_604_259_328
    assert {block.attention.head_dim for block in model.blocks} == {128}
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("model", ["nano", "gpt2", "gpt2_medium"])
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
