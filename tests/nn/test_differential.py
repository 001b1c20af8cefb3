"""An attention variant from outside the package has the features of all parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from differential import DifferentialAttention
from torch import Tensor

from etude.generation.generate import generate
from etude.models.decoder import Decoder
from etude.nn.block import PreNormBlock
from etude.nn.documents import Documents
from etude.nn.feedforward import GELUTanh
from etude.nn.init import GPT2, Xavier
from etude.nn.lora import LoRA, adapt, adapted, merge
from etude.nn.mask import Causal, SlidingWindow
from etude.nn.norm import LayerNorm
from etude.nn.position import ALiBi, NoPosition, Rotary

D, H, K, V = 24, 3, 4, 17
PARTS: dict[str, Any] = {
    "vocab_size": V, "layers": 3, "heads": H, "dim": D, "max_length": 20, "head_dim": K,
    "attention": DifferentialAttention, "position": Rotary, "norm": LayerNorm,
    "feedforward": GELUTanh, "mask": Causal, "block": PreNormBlock,
}  # fmt: skip


def make(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(**PARTS | changes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(B: int = 2, T: int = 9) -> Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_the_paper(module: DifferentialAttention, x: Tensor, layer: int) -> Tensor:
    """Computes equations 1 to 3, and the heads of section 2.1, one head at a time; layers from
    1.
    """
    T = x.shape[1]
    w_q, w_k, w_v = module.qkv.weight.chunk(3)
    lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    q1, k1, q2, k2 = module.lambdas
    factor = math.exp(float(q1 @ k1)) - math.exp(float(q2 @ k2)) + lambda_init
    heads = []
    for h in range(H):
        rows = slice(2 * h * K, 2 * (h + 1) * K)
        q, k, v = x @ w_q[rows].T, x @ w_k[rows].T, x @ w_v[rows].T
        maps = []
        for half in (slice(0, K), slice(K, 2 * K)):
            scores = q[..., half] @ k[..., half].mT / math.sqrt(K)
            scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
            maps.append(torch.softmax(scores, dim=-1))
        head = (maps[0] - factor * maps[1]) @ v
        rms = (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        heads.append((1 - lambda_init) * module.head_norm.weight * head / rms)
    return torch.cat(heads, dim=-1) @ module.out.weight.T


def test_the_formula() -> None:
    model = make(position=NoPosition, bias=False)
    x = torch.randn(2, 7, D, dtype=torch.float64)
    for i, block in enumerate(model.blocks):
        module: Any = block.attention
        found = module(x, position=model.position, causal=True)
        torch.testing.assert_close(found, by_the_paper(module, x, i + 1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("position", [Rotary, ALiBi, NoPosition])
@pytest.mark.parametrize("mask", [Causal, partial(SlidingWindow, window=3)])
def test_with_a_cache(position: Any, mask: Any) -> None:
    model, read = make(position=position, mask=mask).eval(), tokens()
    cache = model.new_cache(2, 9)
    steps = [model(part, cache) for part in (read[:, :4], *read[:, 4:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(read), rtol=1e-10, atol=1e-10)
    assert cache.layers[0]._keys.shape == (2, 2 * H, 9, K)
    assert cache.layers[0]._values.shape == (2, H, 9, 2 * K)


def test_packed_documents() -> None:
    model, read = make().eval(), tokens(2, 20)
    documents = Documents(torch.arange(20).remainder(10).eq(0).expand(2, 20))
    packed = model(read, documents=documents)
    alone = torch.cat([model(read[:, :10]), model(read[:, 10:])], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"greedy": True}, {"beams": 3}])
def test_generation_with_a_cache_is_that_without(options: dict[str, Any]) -> None:
    model = make().eval()
    found = [
        generate(model, tokens(2, 4), max_new_tokens=6, use_cache=use, **options)
        for use in (True, False)
    ]
    assert found[0].shape == (2, 10)
    assert torch.equal(*found)


def test_low_rank_changes() -> None:
    model, read = make(), tokens()
    unchanged = model(read)
    names = adapt(model, LoRA(rank=2, targets=("q", "v", "out")))
    assert names[:2] == ["blocks.0.attention.qkv", "blocks.0.attention.out"]
    for layer in adapted(model).values():
        for change in layer.changes.values():
            torch.nn.init.normal_(change.b)
    changed = model(read)
    assert (changed - unchanged).abs().max() > 1e-3
    torch.testing.assert_close(merge(model)(read), changed)


@pytest.mark.parametrize("initialise", [GPT2(), Xavier()])
def test_initialisation_and_mup(initialise: Any) -> None:
    torch.manual_seed(0)
    changes = {"dim": 96, "heads": 3, "head_dim": 16, "initialise": initialise}
    model = Decoder(**PARTS | changes)
    block: Any = model.blocks[1]
    std = block.attention.out.weight.std().item()
    expected = 0.02 / math.sqrt(6) if isinstance(initialise, GPT2) else math.sqrt(2 / 192)
    assert std == pytest.approx(expected, rel=0.05)
    wide = Decoder(**PARTS | changes | {"mup_base_dim": 32})
    widths = wide.widths()
    assert widths is not None
    assert widths.roles["blocks.0.attention.qkv.weight"] == "hidden"
    assert widths.roles["blocks.0.attention.out.weight"] == "hidden"
    assert widths.roles["blocks.0.attention.head_norm.weight"] in ("vector", "fixed")


def test_trained_and_generated_from(
    tmp_path: Path, corpus: Path, tiny: Callable[..., list[str]], etude: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One class and one file: `--config-dir my_conf extensions=[differential]`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    group = tmp_path / "my_conf" / "model" / "attention"
    group.mkdir(parents=True)
    (group / "differential.yaml").write_text(
        "_target_: differential.DifferentialAttention\n_partial_: true\n"
    )
    overrides = tiny(
        corpus, tmp_path / "runs", "model/attention=differential", "model/position=rotary",
        "model.heads=2", "model.dim=16", "model.layers=2", "+model.head_dim=4",
    )  # fmt: skip
    answer = etude(
        "train", f"--config-dir={tmp_path / 'my_conf'}", "extensions=[differential]", *overrides
    )
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    answer = etude(
        "generate", folder, "--trust", "differential", "--prompt", "th", "--max-new-tokens", "5"
    )
    assert answer.code == 0, answer.err
    assert answer.out.strip()
