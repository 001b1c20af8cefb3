"""The cost extrapolated from few layers equals that of the whole model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from etude.config.compose import compose_in_search, search_configs
from etude.config.constructors import describe_class
from etude.config.nodes import check_node
from etude.config.paths import conf_dir
from etude.models.cost import cost
from etude.nn.feedforward import FeedForward
from etude.training.counting import count_cost, count_parameters
from etude.training.model import build_with_sizes
from quick_first import quick_first

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def node_of(model: str, *more: str) -> Any:
    words = ["~experiment", f"model={model}", "name=x", "data.sequence_length=16", *more]
    with search_configs(None):
        plain: Any = OmegaConf.to_container(compose_in_search(words), resolve=True)
    node, problems = check_node("model", plain["model"], [])
    assert not problems
    return node


def build(node: Any) -> Any:
    return build_with_sizes(node, 300)


@pytest.mark.parametrize("model", quick_first(["gpt2", "bert_base", "t5_small"]))
def test_parameters(model: str) -> None:
    same_parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model(model: str) -> None:
    """Parameters, operations and each kind of memory; the activations' peak included."""
    same_parameters(model)
    node = node_of(model)
    found = count_cost(node, build, length=16, batch=2, optimizer=torch_adam)
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
    found = count_parameters(node, build)
    assert found.total == found.trained == sum(p.numel() for p in whole.parameters())


def test_a_billion_layers_are_counted_at_once() -> None:
    began = time.process_time()
    found = count_parameters(node_of("nano", "model.layers=1000000000"), build)
    few = count_parameters(node_of("nano", "model.layers=4"), build)
    assert found.total == few.total + (10**9 - 4) * few.per_layer
    # nano: 4 D^2 of attention, 8 D^2 of feed-forward, and two norms of D without bias
    assert few.per_layer == 12 * 128**2 + 2 * 128
    assert time.process_time() - began < 5


PATTERNED = [
    "+model.pattern=[a,b,a,c]",
    "+model/mask@model.kinds.a.mask=sliding_window",
    "+model/attention@model.kinds.b.attention=grouped_query",
    "+model/feedforward@model.kinds.b.feedforward=swiglu",
    "+model/feedforward@model.kinds.c.feedforward=none",
    "+model/position@model.kinds.c.position=relative",
]


@pytest.mark.parametrize("layers", [4, 7, 9, 15])
def test_layers_that_differ(layers: int) -> None:
    node = node_of("nano", f"model.layers={layers}", *PATTERNED)
    whole = cost(lambda: build(node), length=16, batch=2, optimizer=torch_adam)
    found = count_cost(node, build, length=16, batch=2, optimizer=torch_adam)
    assert found == whole
    with torch.device("meta"):
        model = build(node)
    assert count_parameters(node, build).total == model.num_parameters() == found.parameters


def test_a_long_pattern_is_counted_by_its_periods() -> None:
    began = time.process_time()
    many = count_parameters(node_of("nano", "model.layers=400000000", *PATTERNED), build)
    few = count_parameters(node_of("nano", "model.layers=4", *PATTERNED), build)
    eight = count_parameters(node_of("nano", "model.layers=8", *PATTERNED), build)
    assert many.total == few.total + (10**8 - 1) * (eight.total - few.total)
    assert many.per_layer == (eight.total - few.total) // 4
    assert time.process_time() - began < 5


class Growing(FeedForward):
    """Feed-forward that is wider in each layer (Mehta et al. 2024, arXiv:2404.14619)."""

    activation = staticmethod(torch.relu)

    def __init__(self, *, dim: int, bias: bool, dropout: float, layer: int) -> None:
        super().__init__(dim=dim, bias=bias, dropout=dropout, hidden=dim * (1 + layer))


def test_a_part_that_asks_for_its_layer_is_counted_in_each() -> None:
    node = node_of("nano", "model.layers=12")
    part = node.arguments["feedforward"]
    growing = replace(part, description=describe_class(Growing), arguments={})
    node = replace(node, arguments={**node.arguments, "feedforward": growing})
    with torch.device("meta"):
        whole = build(node).num_parameters()
    assert count_parameters(node, build).total == whole
    assert count_cost(node, build, length=16).parameters == whole
