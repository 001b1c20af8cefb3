"""The other optimizers, compared with their formulas and torch's, and resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.config.compose import compose
from etude.errors import InvalidArguments
from etude.optim.adafactor import Adafactor
from etude.optim.adamw import AdamW
from etude.optim.groups import parameter_groups
from etude.optim.lion import Lion
from etude.optim.muon import Muon
from etude.optim.orthogonal import Orthogonal
from etude.optim.schedule_free import ScheduleFree, ScheduleFreeOptimizer
from etude.optim.several import Several
from etude.optim.sgd import SGD
from etude.training.run import train


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 4)])
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(self.norm(x))


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(7, (5,), generator=generator)
        optimizer.zero_grad()
        net(ids).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_lion_by_the_formula() -> None:
    lr, b1, b2, decay = 0.01, 0.8, 0.9, 0.3
    net = Net().double()
    optimizer = Lion(lr, (b1, b2), decay)(net)
    known = {name: (p.detach().clone(), torch.zeros_like(p)) for name, p in net.named_parameters()}
    for _ in range(3):
        net.zero_grad()
        net(torch.arange(7)).square().sum().backward()
        for name, p in net.named_parameters():
            theta, m = known[name]
            assert p.grad is not None
            c = b1 * m + (1 - b1) * p.grad
            shrunk = theta * (1 - lr * decay) if theta.dim() == 2 else theta
            known[name] = (shrunk - lr * c.sign(), b2 * m + (1 - b2) * p.grad)
        optimizer.step()
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), known[name][0], rtol=1e-12, atol=1e-14)


def test_schedule_free_by_the_formula() -> None:
    """x, y and z of algorithm 1 in float64, with a warm-up and then a decaying learning rate."""
    lr, (b1, b2), eps, decay = 0.02, (0.8, 0.9), 1e-6, 0.3
    net = Net().double()
    optimizer = ScheduleFree(lr, (b1, b2), eps, decay)(net)
    assert isinstance(optimizer, ScheduleFreeOptimizer)
    assert optimizer.averaged() == {}
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    x, z, v = dict(start), dict(start), {name: torch.zeros_like(p) for name, p in start.items()}
    largest = total = 0.0
    for step, part in enumerate([0.25, 0.5, 1.0, 1.0, 0.5, 0.1], start=1):
        rate = lr * part
        for group in optimizer.param_groups:
            group["lr"] = rate
        net.zero_grad()
        net(torch.arange(7)).square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
        optimizer.step()
        largest = max(largest, rate)
        total += largest**2
        c = largest**2 / total
        averaged = optimizer.averaged()
        for name, p in net.named_parameters():
            y = (1 - b1) * z[name] + b1 * x[name]
            v[name] = b2 * v[name] + (1 - b2) * gradients[name] ** 2
            direction = gradients[name] / ((v[name] / (1 - b2**step)).sqrt() + eps)
            z[name] = z[name] - rate * direction - (rate * decay * y if y.dim() == 2 else 0)
            x[name] = (1 - c) * x[name] + c * z[name]
            expected = (1 - b1) * z[name] + b1 * x[name]
            torch.testing.assert_close(p.detach(), expected, rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(averaged[p], x[name], rtol=1e-11, atol=1e-13)
    assert (x["head.weight"] - z["head.weight"]).abs().max() > 1e-3


def test_sgd_and_adafactor_are_torchs() -> None:
    ours, theirs = Net(), Net()
    matrices = [p for p in theirs.parameters() if p.dim() >= 2]
    vectors = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    expected = steps(theirs, torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True))
    for a, b in zip(steps(ours, SGD(0.05, 0.9, True, 0.1)(ours)), expected, strict=True):
        assert torch.equal(a, b)
    ours, theirs = Net(), Net()
    expected = steps(theirs, torch.optim.Adafactor(theirs.parameters(), lr=0.05))
    for a, b in zip(steps(ours, Adafactor(0.05)(ours)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_muon_on_matrices_of_blocks_and_adamw_on_the_rest() -> None:
    ours, theirs = Net(), Net()
    optimizer = Muon(lr=0.02, adamw_lr=0.003, weight_decay=0.1)(ours)
    assert isinstance(optimizer, Several)
    muon = Orthogonal(
        [block.weight for block in theirs.blocks], lr=0.02, weight_decay=0.1, momentum=0.95,
        adjust_lr_fn="original",
    )  # fmt: skip
    inside = {id(block.weight) for block in theirs.blocks}
    rest = [p for p in theirs.parameters() if id(p) not in inside]
    adamw = torch.optim.AdamW(rest, lr=0.003, betas=(0.9, 0.95), weight_decay=0.0)

    class Both:
        def zero_grad(self) -> None:
            theirs.zero_grad()

        def step(self) -> None:
            muon.step()
            adamw.step()

    expected = steps(theirs, Both())  # type: ignore[arg-type]
    for a, b in zip(steps(ours, optimizer), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_muon_is_torchs_but_for_the_precision_of_its_products() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(2, 24, 16)
    moved = []
    for optimizer in (Orthogonal, torch.optim.Muon):
        p = nn.Parameter(start.clone())
        p.grad = gradient.clone()
        optimizer([p], lr=1.0, weight_decay=0.1, adjust_lr_fn="original").step()
        moved.append(p.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.02 * moved[1].norm()


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_by_its_formula_in_float64(scale: str, nesterov: bool) -> None:
    """Matrices of two shapes, one of them twice: tall and wide, together and alone."""
    torch.manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4)]
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    expected = [p.detach().clone() for p in ours]
    momenta = [torch.zeros_like(p) for p in expected]
    optimizer = Orthogonal(
        ours, lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=nesterov, ns_steps=5,
        adjust_lr_fn=scale,
    )  # fmt: skip
    for _ in range(3):
        for p, x, m in zip(ours, expected, momenta, strict=True):
            g = torch.randn_like(x)
            p.grad = g
            m.copy_(0.9 * m + 0.1 * g)
            u, s, v = torch.linalg.svd(0.9 * m + 0.1 * g if nesterov else m, full_matrices=False)
            s = s / s.norm()
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            rows, columns = x.shape
            factor = max(1, rows / columns) ** 0.5
            if scale == "match_rms_adamw":
                factor = 0.2 * max(rows, columns) ** 0.5
            x.mul_(1 - 0.1 * 0.01).sub_(0.1 * factor * (u * s) @ v)
        optimizer.step()
        for p, x in zip(ours, expected, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [0, -1, 100, 10**30])
def test_muon_refuses_iterations_that_torch_refuses(steps: int) -> None:
    """Otherwise neither a step nor the count of its operations would end."""
    with pytest.raises(InvalidArguments, match="iterations from 1 to 99"):
        Muon(steps=steps)


def test_an_update_of_muon_is_nearly_orthogonal() -> None:
    net = nn.ModuleDict({"blocks": nn.Linear(16, 16, bias=False)})
    before = net["blocks"].weight.detach().clone()
    optimizer = Muon(lr=1.0, momentum=0.0)(net)
    net["blocks"](torch.randn(64, 16)).square().sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals(before - net["blocks"].weight.detach())
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_several_share_groups_and_state() -> None:
    net = Net()
    optimizer = Muon()(net)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in net.parameters()]
    for a, b in zip(before, steps(net, optimizer), strict=True):
        assert torch.equal(a, b)
    saved = deepcopy(optimizer.state_dict())
    other = Net()
    again = Muon()(other)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(saved)
    for group, same in zip(optimizer.param_groups, again.param_groups, strict=True):
        group["lr"] = same["lr"] = 0.01
    for a, b in zip(steps(net, optimizer), steps(other, again), strict=True):
        assert torch.equal(a, b)


def test_layers_have_rates_of_their_own() -> None:
    """0.5 of the learning rate from block to block downwards; each parameter once."""
    net = Net()
    groups = parameter_groups(net, 0.1, lr=1.0, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {
        "embedding.weight": 0.25,
        "blocks.0.weight": 0.5,
        "blocks.0.bias": 0.5,
        "blocks.1.weight": 1.0,
        "blocks.1.bias": 1.0,
        "norm.weight": 1.0,
        "norm.bias": 1.0,
        "head.weight": 1.0,
        "head.bias": 1.0,
    }
    assert {name: rate[id(p)] for name, p in net.named_parameters()} == expected
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert all(decays[id(p)] == (0.1 if p.dim() == 2 else 0.0) for p in net.parameters())
    optimizer = AdamW(lr=2.0, layer_decay=0.5)(net)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.5, 1.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "lion", "muon", "schedule_free"])
def test_learns_and_continues_to_the_bit(name: str, toy: Callable, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    more = [f"optimizer={name}", "trainer.max_steps=30", "model.dropout=0.1"]
    if name == "adamw":
        more += ["optimizer.layer_decay=0.8", "optimizer.lr=1e-2"]
    whole = train(compose(toy("tagging", tmp_path / "whole", *more))).record
    rows = [row for row in whole.rows() if "val/loss" in row]
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]
    for cut in (11, 12):
        train(compose(toy("tagging", tmp_path / "cut", *more, f"run.stop_at_step={cut}")))
    again = train(compose(toy("tagging", tmp_path / "cut", *more))).record
    one, other = (load_file(r.checkpoint("last") / "model.safetensors") for r in (whole, again))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("recipe", "bad"),
    [
        (SGD, {"nesterov": True}),
        (SGD, {"momentum": 1.0}),
        (Adafactor, {"beta2_decay": 0.5}),
        (Lion, {"betas": (1.0, 0.9)}),
        (Muon, {"steps": 0}),
        (Muon, {"adamw_weight_decay": -1.0}),
        (AdamW, {"layer_decay": 0.0}),
        (AdamW, {"layer_decay": 1.5}),
        (Lion, {"lr": 0.0}),
        (ScheduleFree, {"betas": (0.0, 0.9)}),
        (ScheduleFree, {"eps": 0.0}),
    ],
)
def test_what_cannot_be_is_refused(recipe: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        recipe(**bad)
