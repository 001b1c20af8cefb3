"""Loss of language models, its gradient over micro-batches, and its metrics."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measuring import measured
from torch import Tensor, nn

from etude.optim.schedules import Constant
from etude.tasks.base import Setup
from etude.tasks.causal_lm import CausalLM, language_model_metrics, next_token_loss

V, T = 7, 5


class Bigram(nn.Module):
    """Bigram model: tokens (B, T) to logits (B, T, V), in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, 6, dtype=torch.double)
        self.head = nn.Linear(6, V, dtype=torch.double)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


def batch(examples: int, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (examples, T + 1), generator=generator)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}


def nats_by_hand(model: nn.Module, micro: dict[str, Tensor]) -> float:
    """Returns the sum over positions of log(sum_v exp z_v) - z_target, one position at a time."""
    logits = model(micro["tokens"]).tolist()
    total = 0.0
    for rows, targets in zip(logits, micro["targets"].tolist(), strict=True):
        for row, target in zip(rows, targets, strict=True):
            total += math.log(math.fsum(map(math.exp, row))) - row[target]
    return total


def test_the_loss_is_the_sum_of_negative_log_likelihoods() -> None:
    model, micro = Bigram(), batch(4)
    assert next_token_loss(model, micro).item() == pytest.approx(
        nats_by_hand(model, micro), rel=1e-12
    )


class Seen:
    """Optimizer whose step runs the closure and stores the gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.param_groups: list[dict[str, float]] = [{"lr": 1.0, "base_lr": 1.0}]

    def zero_grad(self) -> None:
        self.model.zero_grad()

    def step(self, closure: Any) -> None:
        closure()


def train_step(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], world: int = 1
) -> tuple[float, list[Tensor]]:
    """Returns the loss and the gradients of one step over `batch(8)` in micro-batches of
    `sizes`.
    """
    setup = Setup(
        model=Bigram(),
        optimizer=lambda module: torch.optim.SGD(module.parameters(), lr=1.0),
        schedule=Constant(),
        total_steps=10,
        seed=0,
    )
    task = CausalLM(setup)
    trainer = SimpleNamespace(global_step=3, world_size=world)
    monkeypatch.setattr(CausalLM, "trainer", trainer)
    monkeypatch.setattr(CausalLM, "global_rank", 0)
    monkeypatch.setattr(task, "optimizers", lambda: Seen(task.model))
    monkeypatch.setattr(task, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(task, "_no_sync_before", lambda last: torch.enable_grad())
    whole = batch(8)
    parts = [whole[key].split(sizes) for key in ("tokens", "targets")]
    micros = [
        {"tokens": tokens, "targets": targets, "step_targets": 8 * T}
        for tokens, targets in zip(*parts, strict=True)
    ]
    outputs = task.training_step(micros, 0)
    gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
    return outputs["loss"].item(), gradients


@pytest.mark.parametrize("sizes", [[8], [4, 4], [3, 3, 2], [7, 1], [1] * 8])
def test_the_gradient_does_not_depend_on_the_split(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Also with a smaller last micro-batch, where a mean of means would differ."""
    model, whole = Bigram(), batch(8)
    logits = model(whole["tokens"]).flatten(0, 1)
    mean = nn.functional.cross_entropy(logits, whole["targets"].flatten())
    expected = torch.autograd.grad(mean, list(model.parameters()))
    loss, gradients = train_step(monkeypatch, sizes)
    assert loss == pytest.approx(nats_by_hand(model, whole) / (8 * T), rel=1e-12)
    for found, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)


def test_the_mean_over_ranks_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy averages gradients over two ranks, so each rank must return twice its own.

    Real training on two ranks is tested in `tests/training/test_ddp.py`.
    """
    monkeypatch.setattr(CausalLM, "sum_over_ranks", lambda self, value: value)
    loss, alone = train_step(monkeypatch, [8])
    same_loss, of_two = train_step(monkeypatch, [8], world=2)
    assert same_loss == loss
    for one, two in zip(alone, of_two, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-12, atol=0)


def test_metrics_by_hand() -> None:
    """Eight tokens of one bit each that spell four bytes have two bits per byte."""
    found = language_model_metrics(8 * math.log(2), targets=8, text_bytes=4)
    assert found == pytest.approx({"loss": math.log(2), "perplexity": 2.0, "bits_per_byte": 2.0})


def test_a_perplexity_beyond_any_float_is_infinite() -> None:
    assert language_model_metrics(8000.0, 10, 10)["perplexity"] == math.inf


class Uniform(nn.Module):
    """Model with equal probabilities for all tokens in evaluation mode, but not in training
    mode.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.full((*tokens.shape, V), math.nan if self.training else 0.0)


def test_score_is_over_all_batches_whatever_their_sizes_and_leaves_the_mode() -> None:
    model = Uniform().train()
    found = measured(CausalLM, model, [batch(4), batch(4, seed=2), batch(1)], text_bytes=90)
    assert found["loss"] == pytest.approx(math.log(V), rel=1e-6)
    assert found["perplexity"] == pytest.approx(V, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(9 * T * math.log2(V) / 90, rel=1e-6)
    assert model.training


def test_score_weighs_tokens_not_batches() -> None:
    model, parts = Bigram(), [batch(6), batch(1, seed=2)]
    expected = sum(nats_by_hand(model, part) for part in parts) / (7 * T)
    assert measured(CausalLM, model, parts, text_bytes=1)["loss"] == pytest.approx(
        expected, rel=1e-12
    )
