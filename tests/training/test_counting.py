"""A model's cost by its layers is that of the whole model, built."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from etude.config.compose import composed, searching
from etude.config.nodes import check_node
from etude.config.paths import conf_dir
from etude.models.cost import cost
from etude.training.build import sized
from etude.training.counting import cost_of, parameters_of
from quick_first import quick_first

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def node_of(model: str, *more: str) -> Any:
    words = ["~experiment", f"model={model}", "name=x", "data.sequence_length=16", *more]
    with searching(None):
        plain: Any = OmegaConf.to_container(composed(words), resolve=True)
    node, problems = check_node("model", plain["model"], [])
    assert not problems
    return node


def build(node: Any) -> Any:
    return sized(node, 300)


@pytest.mark.parametrize("model", quick_first(["gpt2", "bert_base", "t5_small"]))
def test_parameters(model: str) -> None:
    same_parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model(model: str) -> None:
    """Parameters, operations and each kind of memory; the activations' peak included."""
    same_parameters(model)
    node = node_of(model)
    found = cost_of(node, build, length=16, batch=2, optimizer=torch_adam)
    whole = cost(lambda: build(node), length=16, batch=2, optimizer=torch_adam)
    for name in (
        "parameters", "forward_flops", "training_flops", "weight_bytes", "gradient_bytes",
        "optimizer_bytes", "activation_bytes", "positions",
    ):  # fmt: skip
        assert getattr(found, name) == getattr(whole, name), name


def torch_adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters())


def same_parameters(model: str) -> None:
    node = node_of(model)
    with torch.device("meta"):
        whole = build(node)
    found = parameters_of(node, build)
    assert found.total == found.trained == sum(p.numel() for p in whole.parameters())


def test_a_billion_layers_are_counted_at_once() -> None:
    began = time.process_time()
    found = parameters_of(node_of("nano", "model.layers=1000000000"), build)
    few = parameters_of(node_of("nano", "model.layers=4"), build)
    assert found.total == few.total + (10**9 - 4) * few.a_layer
    # nano: 4 D^2 of attention, 8 D^2 of feed-forward, and two norms of D without bias
    assert few.a_layer == 12 * 128**2 + 2 * 128
    assert time.process_time() - began < 5
