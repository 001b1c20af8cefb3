"""AdamW: weight decay by parameter, and each step by the paper's formula."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.optim.adamw import AdamW, parameter_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight  # tied
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.embedding(ids)))


def test_matrices_decay_and_vectors_do_not_each_once() -> None:
    net = Net()
    matrices, vectors = parameter_groups(net, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    expected = [net.norm.weight, net.norm.bias, net.head.bias]
    assert [id(p) for p in matrices["params"]] == [id(net.embedding.weight)]  # type: ignore[attr-defined]
    assert {id(p) for p in vectors["params"]} == {id(p) for p in expected}  # type: ignore[attr-defined]


def test_a_group_without_parameters_is_left_out() -> None:
    (only,) = parameter_groups(nn.Linear(2, 2, bias=False), 0.1)
    assert only["weight_decay"] == 0.1


def test_two_steps_by_the_formula() -> None:
    """Loshchilov and Hutter, algorithm 2, in float64, with decay on the matrix only."""
    lr, b1, b2, eps, decay = 0.01, 0.8, 0.9, 1e-6, 0.3
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    state = {n: (p.detach().clone(), 0.0, 0.0) for n, p in layer.named_parameters()}
    optimizer = AdamW(lr, (b1, b2), eps, decay)(layer)
    for step in (1, 2):
        layer.zero_grad()
        layer(torch.randn(4, 3, dtype=torch.double)).pow(2).sum().backward()
        for name, parameter in layer.named_parameters():
            theta, m, v = state[name]
            gradient = parameter.grad
            assert gradient is not None
            m = b1 * m + (1 - b1) * gradient
            v = b2 * v + (1 - b2) * gradient**2
            shrunk = theta * (1 - lr * decay) if theta.dim() == 2 else theta
            update = (m / (1 - b1**step)) / ((v / (1 - b2**step)) ** 0.5 + eps)
            state[name] = (shrunk - lr * update, m, v)
        optimizer.step()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter, state[name][0], rtol=1e-12, atol=1e-14)


def test_equals_the_optimizer_of_torch_step_by_step() -> None:
    torch.manual_seed(1)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    first = AdamW(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)(ours)
    second = torch.optim.AdamW(
        [
            {"params": [theirs.embedding.weight], "weight_decay": 0.1},
            {"params": [theirs.norm.weight, theirs.norm.bias, theirs.head.bias], "weight_decay": 0},
        ],
        lr=3e-3,
        betas=(0.9, 0.95),
        foreach=False,
    )
    for _ in range(10):
        ids, targets = torch.randint(5, (2, 8))
        for net, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(ids), targets).backward()
            optimizer.step()
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=1e-5, atol=1e-7)
    assert not torch.equal(ours.embedding.weight, Net().embedding.weight)


def test_defaults_are_those_of_adam_without_decay() -> None:
    """Defaults must not change: a key equal to its default is not part of a run's signature."""
    found = {name: p.default for name, p in inspect.signature(AdamW).parameters.items()}
    assert found == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "layer_decay": 1.0,
    }


def test_bad_arguments_are_named_together() -> None:
    with pytest.raises(InvalidArguments) as refused:
        AdamW(lr=0.0, betas=(0.9, 1.0), eps=-1.0, weight_decay=-0.1)
    named = {problem.where for problem in refused.value.problems}
    assert named == {"lr", "betas", "eps", "weight_decay"}


@pytest.mark.parametrize("lr", [math.nan, -1.0, 0.0])
def test_a_rate_that_is_no_rate(lr: float) -> None:
    with pytest.raises(InvalidArguments, match="lr"):
        AdamW(lr=lr)
