"""A custom attention that declares its matrices is treated like the shipped one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.models.mup import fold_mup
from etude.nn.attention import MultiHeadAttention, reference_attention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.init import GPT2, T5, Small, Xavier, ZeroOutput
from etude.nn.lora import LoRA, adapt, adapted, merge
from etude.nn.mask import Causal
from etude.nn.matrices import Matrix, declared, whole
from etude.nn.norm import LayerNorm
from etude.nn.position import NoPosition

D, H = 64, 4
K = D // H
TOKENS = torch.arange(22).view(2, 11) % 13


class Apart(nn.Module):
    """Custom attention with a separate layer for each of queries, keys and values."""

    def __init__(
        self, *, dim: int, heads: int, bias: bool, dropout: float, base_head_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=bias) for _ in range(4))
        self.base = self.width if base_head_dim is None else base_head_dim
        self.scale = self.base**-0.5 * self.base / self.width

    def matrices(self) -> dict[str, Matrix]:
        rows = (0, self.wq.out_features)
        return {
            "wq": Matrix({"q": rows}, head_dim=self.base),
            "wk": whole("k", self.wk),
            "wv": whole("v", self.wv),
            "wo": whole("out", self.wo, writes=True),
        }

    @torch.no_grad()
    def fold_scale(self) -> None:
        for parameter in self.wq.parameters():
            parameter.mul_(self.scale * self.width**0.5)
        self.scale = self.width**-0.5

    def forward(self, x: Tensor, *, causal: bool, bias: Tensor | None, **_: Any) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.wq, self.wk, self.wv)
        )
        y = reference_attention(q, k, v, causal=causal, bias=bias, scale=self.scale)
        return self.wo(y.transpose(1, 2).flatten(2))


class Wrong(Apart):
    def matrices(self) -> dict[str, Matrix]:
        return {"wq": Matrix({"q": (0, 5)}), "nothing": Matrix({})}


class Silent(Apart):
    matrices = None  # type: ignore[assignment]


def make(attention: Any = Apart, dim: int = D, **more: Any) -> Any:
    torch.manual_seed(0)
    return Decoder(
        vocab_size=13, layers=3, heads=H, dim=dim, max_length=20, attention=attention,
        position=NoPosition, norm=LayerNorm, feedforward=GELU, mask=Causal, block=PreNormBlock,
        **more,
    )  # fmt: skip


STDS = {
    "gpt2": (GPT2(), 0.02, 0.02, 0.02 / math.sqrt(6)),
    "xavier": (Xavier(), math.sqrt(1 / D), math.sqrt(1 / D), math.sqrt(1 / D)),
    "small": (Small(), math.sqrt(2 / 5 / D), math.sqrt(2 / 5 / D), 2 / (3 * math.sqrt(D))),
    "t5": (T5(), (D * K) ** -0.5, D**-0.5, D**-0.5),
    "zero": (ZeroOutput(), D**-0.5, D**-0.5, 0.0),
}


@pytest.mark.parametrize("name", STDS)
def test_initialisation(name: str) -> None:
    initialise, q, v, out = STDS[name]
    attention = make(initialise=initialise).blocks[1].attention
    for layer, expected in ((attention.wq, q), (attention.wv, v), (attention.wo, out)):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("initialise", [Xavier(), T5()])
def test_pieces_of_one_layer_are_filled_as_layers_of_their_own(initialise: Any) -> None:
    ours = make(MultiHeadAttention, initialise=initialise).blocks[0].attention
    theirs = make(initialise=initialise).blocks[0].attention
    apart = torch.cat([layer.weight for layer in (theirs.wq, theirs.wk, theirs.wv)])
    for mine, other in zip(ours.qkv.weight.chunk(3), apart.chunk(3), strict=True):
        assert mine.std().item() == pytest.approx(other.std().item(), rel=0.05)


def test_low_rank_changes() -> None:
    model = make().double()
    before = model(TOKENS)
    names = adapt(model, LoRA(rank=2, targets=("q", "v", "out", "down")))
    assert names[:4] == [
        "blocks.0.attention.wq", "blocks.0.attention.wv", "blocks.0.attention.wo",
        "blocks.0.feedforward.down",
    ]  # fmt: skip
    assert torch.equal(model(TOKENS), before)
    for layer in adapted(model).values():
        for change in layer.changes.values():
            nn.init.normal_(change.b)
    changed = model(TOKENS)
    assert (changed - before).abs().max() > 1e-3
    torch.testing.assert_close(merge(model)(TOKENS), changed)
    with pytest.raises(InvalidArguments, match="qkv"):
        adapt(make(), LoRA(targets=("qkv",)))


def test_mup() -> None:
    model = make(dim=4 * D, mup_base_dim=D).double()
    roles = model.widths().roles
    assert {roles[f"blocks.0.attention.{name}.weight"] for name in ("wq", "wo")} == {"hidden"}
    expected = 0.02 / math.sqrt(6) / 2
    assert model.blocks[0].attention.wo.weight.std().item() == pytest.approx(expected, rel=0.05)
    torch.testing.assert_close(fold_mup(model)(TOKENS), model(TOKENS))


def test_a_declaration_must_fit() -> None:
    with pytest.raises(InvalidArguments) as refused:
        make(Wrong)
    messages = [str(problem) for problem in refused.value.problems]
    assert len(messages) == 6
    assert messages[0].startswith("blocks.0.attention.wq")
    assert "row ranges that cover the layer's 64 rows" in messages[0]
    assert "blocks.0.attention.nothing" in messages[1]


def test_without_a_declaration_names_count() -> None:
    class Named(GELU):
        matrices = None  # type: ignore[assignment]

    found = declared(Named(dim=8, bias=True, dropout=0.0))
    assert {name: matrix.writes for name, matrix in found.items()} == {"up": False, "down": True}
    assert declared(Silent(dim=8, heads=2, bias=True, dropout=0.0)) == {}
