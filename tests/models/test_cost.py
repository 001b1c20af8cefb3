"""Cost of a model, compared with the formula, torch's counter, and the memory of a real step."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from etude.models.cost import Cost, Uncountable, cost
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import ParallelBlock, PreNormBlock
from etude.nn.feedforward import GELU, SwiGLU
from etude.nn.mask import Causal, SlidingWindow
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import ALiBi, Learned, RelativeBias, Rotary
from etude.optim.adamw import AdamW


def decoder(**changes: Any) -> Decoder:
    arguments: dict[str, Any] = {
        "vocab_size": 97,
        "layers": 3,
        "heads": 4,
        "dim": 64,
        "max_length": 48,
        "attention": MultiHeadAttention,
        "position": Learned,
        "norm": LayerNorm,
        "feedforward": GELU,
        "mask": Causal,
        "block": PreNormBlock,
        "bias": False,
    }
    return Decoder(**arguments | changes)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"position": Rotary, "norm": RMSNorm, "feedforward": SwiGLU},
    {"position": ALiBi},
    {"dropout": 0.1},
    {"attention": ReferenceAttention, "bias": True},
    {"attention": partial(MultiHeadAttention, kv_heads=2)},
    {"tie_embeddings": False},
    {"attention": partial(MultiHeadAttention, softcap=5.0), "logit_softcap": 9.0},
    {"attention": partial(MultiHeadAttention, qk_norm=True), "block": ParallelBlock},
    {"position": RelativeBias, "mask": partial(SlidingWindow, window=7)},
    {"position": partial(Rotary, fraction=0.5), "scale_embeddings": True, "embedding_norm": True},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_operations_are_six_n_and_twelve_l_d_t_a_token(changes: dict[str, Any]) -> None:
    """Kaplan et al. 2020, section 2.1, forward and backward; PaLM, appendix B, with the heads."""
    model, T = decoder(**changes), 48
    multiplied = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    if model.head is None:
        multiplied += model.embedding.weight.numel()
    expected = T * (6 * multiplied + 12 * 3 * 64 * T)
    found = cost(partial(decoder, **changes), length=T)
    assert found.training_flops == expected
    assert found.forward_flops * 3 == expected


def test_all_parameters_but_the_positions_are_near_enough_in_a_large_model() -> None:
    large = partial(decoder, vocab_size=50257, layers=12, dim=768, heads=12, max_length=1024)
    found = cost(large, length=1024)
    N = found.parameters - 1024 * 768
    assert found.training_flops / 1024 == pytest.approx(6 * N + 12 * 12 * 768 * 1024, rel=0.05)


@pytest.mark.parametrize("changes", [*VARIANTS, {"recompute": True, "dropout": 0.1}])
def test_equals_the_counter_of_torch_on_a_real_step(changes: dict[str, Any]) -> None:
    model = decoder(**changes)
    tokens = torch.randint(97, (5, 40))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        forward = counter.get_total_flops()
        loss.backward()
    found = cost(partial(decoder, **changes), length=40, batch=5)
    assert (found.forward_flops, found.training_flops) == (forward, counter.get_total_flops())


def test_recomputation_costs_a_forward_pass_of_the_blocks_and_saves_memory() -> None:
    baseline = cost(partial(decoder, layers=6), length=48, batch=8)
    found = cost(partial(decoder, layers=6, recompute=True), length=48, batch=8)
    # The backward pass recomputes neither the logits nor the output of each block's last product.
    not_again = 2 * 48 * 8 * (97 * 64 + 6 * 64 * 256)
    assert found.forward_flops == baseline.forward_flops
    assert found.training_flops - baseline.training_flops == baseline.forward_flops - not_again
    assert found.activation_bytes < baseline.activation_bytes / 2


def test_weights_gradients_and_optimizer_state_are_those_of_a_real_step() -> None:
    model = decoder()
    optimizer = AdamW(lr=1e-3)(model)
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    found = cost(decoder, length=4, optimizer=AdamW(lr=1e-3))
    assert found.parameters == model.num_parameters()
    assert found.weight_bytes == found.gradient_bytes == 4 * model.num_parameters()
    state = [t for values in optimizer.state.values() for t in values.values()]
    assert found.optimizer_bytes == sum(t.numel() * t.element_size() for t in state)
    half = cost(decoder, length=4, dtype=torch.bfloat16, optimizer=AdamW(lr=1e-3))
    assert half.weight_bytes * 2 == found.weight_bytes
    assert half.training_flops == found.training_flops


def test_what_is_frozen_costs_no_gradient() -> None:
    def frozen() -> nn.Module:
        model = decoder()
        model.requires_grad_(False)
        model.blocks[-1].requires_grad_(True)
        return model

    found, whole = cost(frozen, length=8), cost(decoder, length=8)
    assert found.parameters == whole.parameters
    assert found.gradient_bytes == 4 * sum(p.numel() for p in decoder().blocks[-1].parameters())
    assert found.forward_flops == whole.forward_flops
    assert found.training_flops < whole.training_flops


# Peak memory of a process during a step, in excess of the memory before.
MEASURE = """
import ctypes, torch, torch.nn.functional as F
from tests.models.test_cost import {builder}
torch.set_num_threads(1)
model = {builder}()
def step(B, T):
    tokens = torch.randint(97, (B, T))
    with torch.autocast("cpu", torch.bfloat16, enabled={autocast}):
        logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    del logits
    loss.backward()
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
step(1, 8)  # creates gradients, as the first micro-batch of a step does
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
before = status("VmRSS")
step({batch}, 128)
print(status("VmHWM") - before)
"""


def wide() -> Decoder:
    return decoder(dim=256, layers=4, max_length=128)


def heavy() -> Decoder:
    return decoder(dim=1024, layers=3, max_length=128, norm=RMSNorm, position=Rotary)


def plain_attention() -> Decoder:
    return decoder(dim=256, layers=4, max_length=128, attention=ReferenceAttention, dropout=0.1)


def many_words() -> Decoder:
    return decoder(vocab_size=20_000, dim=128, layers=1, max_length=128)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's counters")
@pytest.mark.parametrize(
    ("build", "batch", "autocast"),
    [
        (heavy, 8, False),
        (wide, 32, True),
        pytest.param(wide, 32, False, marks=pytest.mark.slow),
        pytest.param(plain_attention, 32, False, marks=pytest.mark.slow),
        pytest.param(many_words, 32, False, marks=pytest.mark.slow),
    ],
)
def test_memory_is_that_of_a_real_step(
    build: Callable[[], Decoder], batch: int, autocast: bool
) -> None:
    script = MEASURE.format(builder=build.__name__, batch=batch, autocast=autocast)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = int(done.stdout)
    found = cost(build, length=128, batch=batch, autocast=torch.bfloat16 if autocast else None)
    assert found.activation_bytes > 100e6  # large compared with other memory
    assert found.activation_bytes == pytest.approx(measured, rel=0.12)


def test_a_giant_is_counted_without_memory() -> None:
    giant = partial(decoder, dim=65_536, heads=512, layers=2, vocab_size=10**6, max_length=4096)
    found = cost(giant, length=4096, optimizer=AdamW(lr=1e-3))
    assert found.weight_bytes > 600e9
    assert found.step_bytes > 4 * found.weight_bytes


class Foreign(nn.Module):
    """Custom model: a recurrent network with a shared table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(97, 32)
        self.cell = nn.Linear(64, 32)
        self.register_buffer("decay", torch.full((32,), 0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        state, states = torch.zeros_like(x[:, 0]), []
        for t in range(tokens.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, t], state * self.decay], -1)))
            states.append(state)
        return torch.stack(states, 1) @ self.table.weight.T


def test_any_module_from_tokens_to_logits_can_be_counted() -> None:
    found = cost(Foreign, length=7, batch=2)
    forward = 2 * 2 * 7 * (64 * 32 + 32 * 97)
    assert found == Cost(
        parameters=97 * 32 + 64 * 32 + 32,
        forward_flops=forward,
        training_flops=3 * forward,
        weight_bytes=4 * (97 * 32 + 64 * 32 + 32 + 32),
        gradient_bytes=4 * (97 * 32 + 64 * 32 + 32),
        activation_bytes=found.activation_bytes,
        optimizer_bytes=0,
        positions=14,
    )


class Looks(Foreign):
    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)
        return logits if logits.sum() > 0 else -logits


def test_what_depends_on_values_is_said_to_be_uncountable() -> None:
    with pytest.raises(Uncountable, match="cannot count the model"):
        cost(Looks, length=7)
