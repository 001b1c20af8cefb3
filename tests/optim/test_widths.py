"""muP's learning rates of each kind of parameter (Yang et al. 2022, table 8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import InvalidArguments
from etude.optim.adafactor import Adafactor
from etude.optim.adamw import AdamW
from etude.optim.lion import Lion
from etude.optim.muon import Muon
from etude.optim.sgd import SGD
from etude.optim.widths import Widths

M = 4.0
ROLES: dict[str, Any] = {
    "embedding.weight": "vector", "blocks.0.weight": "hidden", "blocks.0.bias": "vector",
    "blocks.0.lora.a": "inward", "blocks.0.lora.b": "vector", "head.weight": "readout",
    "head.bias": "fixed",
}  # fmt: skip


class Net(nn.Module):
    """Model with one parameter of each role."""

    def __init__(self, ratio: float = M) -> None:
        super().__init__()
        self.ratio = ratio
        self.embedding = nn.Embedding(7, 8)
        block = nn.Linear(8, 8)
        block.lora = nn.ParameterDict({"a": torch.ones(2, 8), "b": torch.ones(8, 2)})
        self.blocks = nn.ModuleList([block])
        self.head = nn.Linear(8, 3)

    def widths(self) -> Widths:
        return Widths(self.ratio, ROLES)


def rates(recipe: Any, net: Net) -> dict[str, tuple[float, float]]:
    """Returns learning rate and weight decay by name."""
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in recipe(net).param_groups
        for p in group["params"]
    }


ADAM = {"hidden": 1 / M, "inward": 1 / M, "vector": 1, "readout": 1, "fixed": 1}
EXPECTED: list[tuple[Any, dict[str, float]]] = [
    (AdamW(lr=0.1, weight_decay=0.5), ADAM),
    (Lion(lr=0.1, weight_decay=0.5), ADAM),
    (
        SGD(lr=0.1, weight_decay=0.5),
        {"hidden": 1, "inward": 1 / M, "vector": M, "readout": M, "fixed": 1},
    ),
]


@pytest.mark.parametrize(("recipe", "factors"), EXPECTED, ids=lambda x: type(x).__name__)
def test_rates(recipe: Any, factors: dict[str, float]) -> None:
    net = Net()
    found = rates(recipe, net)
    assert found.keys() == ROLES.keys()
    for name, parameter in net.named_parameters():
        factor = factors[ROLES[name]]
        decay = (
            0.5 / factor if parameter.dim() == 2 else 0
        )  # a step subtracts lr * decay of a weight
        assert found[name] == pytest.approx((0.1 * factor, decay)), name


@pytest.mark.parametrize(
    ("scale", "hidden", "inward"),
    [("original", 1, M**-0.5), ("match_rms_adamw", M**-0.5, 1 / M)],
)
def test_rates_of_muon(scale: Any, hidden: float, inward: float) -> None:
    recipe = Muon(lr=0.2, weight_decay=0.5, scale=scale, adamw_lr=0.1, adamw_weight_decay=0.3)
    found = rates(recipe, Net())
    assert found["blocks.0.weight"] == pytest.approx((0.2 * hidden, 0.5 / hidden))
    assert found["blocks.0.lora.a"] == pytest.approx((0.2 * inward, 0.5 / inward))
    assert found["blocks.0.lora.b"] == pytest.approx((0.2, 0.5))
    assert found["embedding.weight"] == found["head.weight"] == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize("factor", [4, 16])
def test_a_step_of_muon_has_the_singular_values_that_features_ask_for(factor: int) -> None:
    """For a square matrix, the singular values don't depend on the width (Yang et al. 2023,
    equation 5).
    """
    ratios = []
    for dim in (32, 32 * factor):
        for scale in ("original", "match_rms_adamw"):
            net = nn.Module()
            net.blocks = nn.ModuleList([nn.Linear(dim, dim, bias=False)])
            net.widths = lambda dim=dim: Widths(dim / 32, {"blocks.0.weight": "hidden"})
            before = net.blocks[0].weight.detach().clone()
            torch.manual_seed(0)
            net.blocks[0].weight.grad = torch.randn(dim, dim)
            Muon(lr=0.1, momentum=0.0, scale=scale)(net).step()
            step = before - net.blocks[0].weight.detach()
            ratios.append(torch.linalg.matrix_norm(step).item() / math.sqrt(dim))
    narrow, wide = ratios[:2], ratios[2:]
    assert wide == pytest.approx(narrow, rel=0.15)


def test_rates_that_fall_from_layer_to_layer_too() -> None:
    found = rates(AdamW(lr=0.1, layer_decay=0.5), Net())
    assert found["embedding.weight"][0] == pytest.approx(0.05)
    assert found["blocks.0.weight"][0] == pytest.approx(0.1 / M)


@pytest.mark.parametrize("recipe", [AdamW(), Lion(), SGD(), Muon()], ids=lambda x: type(x).__name__)
def test_at_the_base_width_groups_are_the_standard_ones(recipe: Any) -> None:
    def groups(net: Net) -> list[Any]:
        return [
            {k: len(v) if k == "params" else v for k, v in group.items()}
            for group in recipe(net).param_groups
        ]

    standard = Net()
    standard.widths = lambda: None  # type: ignore[method-assign,assignment,return-value]
    assert groups(Net(ratio=1)) == groups(standard)


def test_an_optimizer_without_a_rule() -> None:
    Adafactor()(Net(ratio=1))
    with pytest.raises(InvalidArguments, match="muP supports: AdamW, Lion, Muon or SGD"):
        Adafactor()(Net())


def test_told_before_a_run(
    etude: Callable[..., Any], tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    own = ["model.mup_base_dim=4", "optimizer=adafactor", "~optimizer.betas"]
    done = etude("train", *tiny(corpus, tmp_path / "runs", *own))
    assert done.code == 2
    assert "optimizer = 'Adafactor': expected an optimizer that muP supports" in done.err
    assert not (tmp_path / "runs").exists()
