"""The regressor, compared with a step-by-step computation, and its features shared with
decoders.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from etude.errors import InvalidArguments, RequestError
from etude.interop.export import source_from_run
from etude.models.cost import cost
from etude.models.mup import fold_mup
from etude.models.regressor import NumberModel, Regressor
from etude.models.wrappers import wrap_trained
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.init import T5, Normal, Xavier
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned

PARTS: dict[str, Any] = {
    "inputs": 3, "layers": 2, "heads": 2, "dim": 8, "max_length": 9, "position": Learned,
    "norm": LayerNorm, "feedforward": GELU, "mask": Causal, "block": PreNormBlock,
    "attention": MultiHeadAttention,
}  # fmt: skip


def regressor(**changes: Any) -> Regressor:
    torch.manual_seed(0)
    return Regressor(**PARTS | changes)


def randomised(model: Regressor) -> Regressor:
    """Randomises gains and biases too, so that each matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def numbers(T: int = 9) -> torch.Tensor:
    return torch.randn(4, T, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_hand(model: Regressor, x: torch.Tensor) -> torch.Tensor:
    """Computes a pre-norm Transformer explicitly."""
    p = dict(model.named_parameters())
    B, T, _ = x.shape
    H, D = 2, 8
    h = x @ p["embedding.weight"].T + p["embedding.bias"] + p["position.weight"][:T]
    for i in range(2):
        at = f"blocks.{i}."

        def norm(name: str, h: torch.Tensor, at: str = at) -> torch.Tensor:
            return F.layer_norm(h, (D,), p[f"{at}{name}.weight"], p[f"{at}{name}.bias"])

        def linear(name: str, h: torch.Tensor, at: str = at) -> torch.Tensor:
            return h @ p[f"{at}{name}.weight"].T + p[f"{at}{name}.bias"]

        q, k, v = linear("attention.qkv", norm("attention_norm", h)).split(D, dim=-1)
        q, k, v = (t.view(B, T, H, D // H).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(D // H)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, D)
        h = h + linear("attention.out", mixed)
        wide = F.gelu(linear("feedforward.up", norm("feedforward_norm", h)))
        h = h + linear("feedforward.down", wide)
    h = F.layer_norm(h, (D,), p["norm.weight"], p["norm.bias"])
    return (h @ p["head.weight"].T + p["head.bias"])[..., 0]


def test_it_computes_what_is_written_out() -> None:
    model, x = randomised(regressor()), numbers()
    assert model(x).shape == (4, 9)
    torch.testing.assert_close(model(x), by_hand(model, x), rtol=1e-10, atol=1e-10)


def test_nothing_that_follows_is_seen() -> None:
    model, x = randomised(regressor()), numbers()
    changed = x.clone()
    changed[:, 5] += 1
    torch.testing.assert_close(model(x)[:, :5], model(changed)[:, :5], rtol=0, atol=1e-12)
    assert (model(x)[:, 5:] != model(changed)[:, 5:]).all()
    torch.testing.assert_close(model(x[:, :5]), model(x)[:, :5], rtol=0, atol=1e-12)


def test_names_in_the_state_are_stable() -> None:
    outer = [name for name in regressor().state_dict() if not name.startswith("blocks.")]
    assert outer == [
        "embedding.weight", "embedding.bias", "position.weight", "norm.weight", "norm.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip
    assert not any("bias" in name for name in regressor(bias=False).state_dict())


def test_the_dtype_of_the_weights_is_the_models_own() -> None:
    assert regressor().bfloat16()(numbers()).dtype == torch.bfloat16


def test_in_a_notebook() -> None:
    model = wrap_trained(randomised(regressor()).float(), None)
    assert isinstance(model, NumberModel)
    one = model([[0.3, -1.2, 0.5], [0.9, 0.0, 0.0], [1.1, 0.2, -0.4]])
    assert one.shape == (3,)
    assert torch.equal(model(numbers().float())[0], model.module(numbers().float())[0])


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"inputs": 0}, "inputs"), ({"dim": -1}, "dim"), ({"heads": 3}, "heads")],
)
def test_what_cannot_be_is_told(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        regressor(**changes)
    assert [problem.where for problem in refused.value.problems] == [where]


def test_its_cost_is_counted() -> None:
    found = cost(regressor, length=9)
    multiplied = 3 * 8 + 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 8
    # as for any decoder, except the gradient of the inputs, which is not needed
    assert found.training_flops == 9 * (6 * multiplied + 12 * 2 * 8 * 9) - 9 * 2 * 3 * 8
    assert found.parameters == regressor().num_parameters()


class TestMuP:
    def wide(self, **more: Any) -> Regressor:
        return regressor(dim=256, heads=4, mup_base_dim=64, **more)

    def test_what_reads_and_what_says_are_no_hidden_matrices(self) -> None:
        widths = self.wide().widths()
        assert widths is not None
        assert widths.ratio == 4
        assert widths.roles["embedding.weight"] == widths.roles["embedding.bias"] == "vector"
        assert widths.roles["head.weight"] == "readout"
        assert widths.roles["head.bias"] == "fixed"
        assert widths.roles["blocks.0.attention.qkv.weight"] == "hidden"

    @pytest.mark.parametrize(
        ("initialise", "std"),
        [(Normal(std=0.05), 0.05), (Xavier(), math.sqrt(2 / (3 + 64))), (T5(), 3**-0.5)],
    )
    def test_it_begins_to_read_as_at_the_base_width(self, initialise: Any, std: float) -> None:
        weight = self.wide(initialise=initialise).embedding.weight
        assert weight.std().item() == pytest.approx(std, rel=0.1)

    def test_the_answers_are_divided_by_the_width_and_a_folded_copy_says_the_same(self) -> None:
        model = randomised(self.wide())
        standard = randomised(regressor(dim=256, heads=4))
        standard.load_state_dict(model.state_dict())
        for block in standard.blocks:
            block.attention.scale /= 2
        x = numbers()
        bias = model.head.bias
        torch.testing.assert_close(model(x) - bias, (standard(x) - bias) / 4, rtol=1e-9, atol=1e-9)
        copy = fold_mup(model)
        assert copy.mup is None
        torch.testing.assert_close(copy(x), model(x), rtol=1e-9, atol=1e-9)

    def test_at_the_base_width_it_is_the_standard_one(self) -> None:
        for name in (None, Xavier(), T5()):
            same = regressor(mup_base_dim=8, initialise=name)
            standard = regressor(initialise=name)
            for (key, a), b in zip(same.named_parameters(), standard.parameters(), strict=True):
                assert torch.equal(a, b), key


def test_no_released_family_is_like_it() -> None:
    with pytest.raises(RequestError, match="Regressor"):
        source_from_run("run", regressor(feedforward=partial(GELU)), None)  # type: ignore[arg-type]
