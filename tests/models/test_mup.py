"""muP, compared with its table and with the standard parametrisation at the base width.

Yang et al. 2022 (arXiv:2203.03466), table 8.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.interop.export import export, source_from_run
from etude.interop.pretrained import family_for
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.heads import ClassificationHead, MaskedLanguageHead, MeanClassificationHead
from etude.models.mup import fold_mup
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock, PreNormBlock
from etude.nn.feedforward import GELU, GELUTanh, SwiGLU
from etude.nn.init import GPT2, T5, Normal, Small, Xavier
from etude.nn.lora import LoRA, adapt
from etude.nn.mask import Bidirectional, Causal
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import Learned, RelativeBias, Rotary, Sinusoidal

BASE, DIM, HEADS, LAYERS, V = 64, 256, 4, 3, 500
PARTS: dict[str, Any] = {
    "vocab_size": V, "layers": LAYERS, "heads": HEADS, "max_length": 40, "norm": LayerNorm,
    "attention": MultiHeadAttention, "position": Learned, "feedforward": GELUTanh, "mask": Causal,
    "block": PreNormBlock, "bias": True,
}  # fmt: skip


def decoder(dim: int = DIM, base: int | None = BASE, **more: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(**PARTS | {"dim": dim, "mup_base_dim": base} | more)


def randomised(module: nn.Module) -> Any:
    """Randomises gains and biases too, so that each matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.double().eval()


TOKENS = torch.arange(22).view(2, 11) * 17 % V

# Standard deviations at the base width are those of the papers, with D = 64, K = 16, F = 256 and
# 3 layers; a hidden matrix, whose inputs are four times as many, has half of that.
QKV, OUT, UP, DOWN = "attention.qkv", "attention.out", "feedforward.up", "feedforward.down"
STDS: dict[str, tuple[Any, dict[str, float]]] = {
    "normal": (Normal(std=0.05), {"embedding": 0.05, "head": 0.05, QKV: 0.025, DOWN: 0.025}),
    "gpt2": (GPT2(), {
        "embedding": 0.02, "head": 0.02, "position": 0.02, QKV: 0.01, UP: 0.01,
        OUT: 0.01 / math.sqrt(6), DOWN: 0.01 / math.sqrt(6),
    }),
    "xavier": (Xavier(), {
        "embedding": 1 / 8, "head": math.sqrt(2 / (64 + V)), QKV: math.sqrt(2 / 128) / 2,
        OUT: math.sqrt(2 / 128) / 2, UP: math.sqrt(2 / 320) / 2, DOWN: math.sqrt(2 / 320) / 2,
    }),
    "small": (Small(), {
        "embedding": math.sqrt(1 / 160), "head": math.sqrt(1 / 160), QKV: math.sqrt(1 / 160) / 2,
        UP: math.sqrt(1 / 160) / 2, OUT: 1 / 24, DOWN: 1 / 24,
    }),
    "t5": (T5(), {
        "embedding": 1.0, "head": 1 / 8, OUT: 1 / 16, UP: 1 / 16, DOWN: 1 / 32,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", STDS)
def test_standard_deviations(name: str) -> None:
    initialise, expected = STDS[name]
    model = decoder(initialise=initialise, tie_embeddings=False)
    seen = dict(model.named_parameters())
    for part, std in expected.items():
        block = "blocks.1." if part.startswith(("attention", "feedforward")) else ""
        weight = seen[f"{block}{part}.weight"]
        assert weight.std().item() == pytest.approx(std, rel=0.03), part
    if name == "t5":  # queries replace the scale of the scores: sqrt(16) at the base width
        q, k, v = seen[f"blocks.1.{QKV}.weight"].chunk(3)
        for matrix, std in ((q, 1 / 64), (k, 1 / 16), (v, 1 / 16)):
            assert matrix.std().item() == pytest.approx(std, rel=0.03)


def test_a_relative_bias_begins_as_at_the_base_width() -> None:
    model = decoder(position=partial(RelativeBias, buckets=400, max_distance=500))
    assert model.position.weight.std().item() == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_multipliers_by_hand(tied: bool) -> None:
    """Logits are divided by 4; q . k by 4 sqrt(64 / 4) = 16 instead of sqrt(64) = 8."""
    model = randomised(decoder(tie_embeddings=tied))
    standard = randomised(decoder(base=None, tie_embeddings=tied))
    standard.load_state_dict(model.state_dict())
    for block in standard.blocks:
        assert block.attention.scale == 1 / 8
        block.attention.scale = 1 / 16
    torch.testing.assert_close(model(TOKENS), standard(TOKENS) / 4, rtol=1e-12, atol=1e-12)


def test_wider_by_more_heads() -> None:
    """With a fixed head width, q . k does not grow."""
    attention = decoder(heads=16, head_dim=16).blocks[0].attention
    assert attention.scale == 1 / 4


@pytest.mark.parametrize("initialise", [None, Xavier(), Small(), T5(), Normal()])
@pytest.mark.parametrize("more", [{}, {"scale_embeddings": True, "tie_embeddings": False}])
def test_at_the_base_width_it_is_the_standard_model(initialise: Any, more: dict[str, Any]) -> None:
    one = decoder(BASE, BASE, initialise=initialise, **more)
    other = decoder(BASE, None, initialise=initialise, **more)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(one(TOKENS), other(TOKENS))


def test_scaled_embeddings_have_the_scale_of_the_base_width() -> None:
    model = decoder(scale_embeddings=True, position=Sinusoidal, initialise=Xavier())
    assert model.embedding_scale == 8


def test_with_a_cache() -> None:
    model = randomised(decoder(position=Rotary))
    cache = model.new_cache(2, 11)
    pieces = [
        model(TOKENS[:, :4], cache),
        *(model(TOKENS[:, i : i + 1], cache) for i in range(4, 11)),
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), model(TOKENS), rtol=1e-10, atol=1e-10)


def test_what_grows_with_the_width() -> None:
    model = decoder(tie_embeddings=False, position=RelativeBias)
    widths = model.widths()
    assert widths is not None
    assert widths.ratio == 4
    assert set(widths.roles) == {name for name, _ in model.named_parameters()}
    for name, role in widths.roles.items():
        if name == "head.weight":
            assert role == "readout"
        elif name == "position.weight":
            assert role == "fixed"
        elif name == "embedding.weight" or "norm" in name or name.endswith("bias"):
            assert role == "vector", name
        else:
            assert role == "hidden", name


def test_low_rank_changes() -> None:
    model = decoder(dim=128, base=64)
    adapt(model, LoRA(rank=2, targets=("q", "v", "down")))
    widths = model.widths()
    assert widths is not None
    roles = {name: widths.roles[name] for name, p in model.named_parameters() if p.requires_grad}
    assert len(roles) == LAYERS * 6
    assert all(
        role == ("inward" if name.endswith(".a") else "vector") for name, role in roles.items()
    )


@pytest.mark.parametrize("head", [MaskedLanguageHead, *(
    partial(cls, labels=3) for cls in (ClassificationHead, MeanClassificationHead)
)])  # fmt: skip
def test_heads_of_encoders(head: Any) -> None:
    def build(base: int | None) -> Encoder:
        own = {"mask": Bidirectional, "head": head, "dim": DIM, "mup_base_dim": base}
        return randomised(Encoder(**PARTS | own))

    model, standard = build(BASE), build(None)
    for one in model.blocks:
        assert one.attention.scale == 1 / 16
    for one in standard.blocks:
        one.attention.scale = 1 / 16
    standard.load_state_dict(model.state_dict())
    name = "head.bias" if head is MaskedLanguageHead else "head.classifier.bias"
    bias = dict(model.named_parameters())[name]
    torch.testing.assert_close(4 * (model(TOKENS) - bias), standard(TOKENS) - bias)
    widths = model.widths()
    assert widths is not None
    assert widths.roles[name] == "fixed"
    assert widths.roles.get("head.dense.weight", "hidden") == "hidden"
    assert widths.roles.get("head.classifier.weight", "readout") == "readout"
    torch.testing.assert_close(fold_mup(model)(TOKENS), model(TOKENS), rtol=1e-10, atol=1e-10)


def t5(**more: Any) -> EncoderDecoder:
    own = {
        "dim": DIM, "mup_base_dim": BASE, "norm": RMSNorm, "bias": False,
        "position": RelativeBias, "attention": partial(MultiHeadAttention, scale="one"),
    }  # fmt: skip
    return randomised(EncoderDecoder(**PARTS | own | more))


FOLDED: dict[str, Any] = {
    "tied": decoder,
    "untied, rotary": lambda: decoder(tie_embeddings=False, position=Rotary, norm=RMSNorm),
    "post-norm": lambda: decoder(block=PostNormBlock),
    "query-key norm, grouped, capped": lambda: decoder(
        attention=partial(MultiHeadAttention, qk_norm=True, kv_heads=2, softcap=5.0)
    ),
    "encoder-decoder": t5,
    "encoder-decoder, logit scale": lambda: t5(logit_scale=0.3, tie_embeddings=False),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded_computes_the_same_with_nothing_of_mup_left(name: str) -> None:
    model = randomised(FOLDED[name]())
    inputs = [TOKENS, TOKENS.flip(0)] if isinstance(model, EncoderDecoder) else [TOKENS]
    before = model(*inputs)
    standard = fold_mup(model)
    torch.testing.assert_close(standard(*inputs), before, rtol=1e-10, atol=1e-10)
    assert torch.equal(model(*inputs), before)  # a copy
    assert standard.widths() is None
    assert standard.logit_scale == pytest.approx(0.3 if "logit scale" in name else 1)
    for part in standard.modules():
        if isinstance(part, MultiHeadAttention):
            assert part.scale == part.standard_scale


class Letters:
    """Tokenizer with the attributes that a conversion needs."""

    vocab_size, end_of_text = V, None


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    model = randomised(decoder()).float()
    source = source_from_run("a run", model, Letters())  # type: ignore[arg-type]
    source = type(source)(**vars(source) | {"tokenizer": None})
    (apart,) = export(source, tmp_path / "out").values()
    assert apart.largest < 1e-4
    import transformers

    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    ours: Tensor = model(TOKENS)
    torch.testing.assert_close(theirs(TOKENS).logits, ours, rtol=1e-4, atol=1e-4)


def test_what_has_no_place_in_the_weights_is_refused_by_name() -> None:
    from etude.errors import RequestError

    for model in (decoder(), fold_mup(decoder(scale_embeddings=True))):
        with pytest.raises(RequestError) as refused:
            family_for(model)
        assert "scale" in str(refused.value)


class Silent(MaskedLanguageHead):
    readouts = None


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"base": 0}, "mup_base_dim"),
        ({"base": 30}, "mup_base_dim"),  # no multiple of 4 heads
        ({"base": 24, "heads": 16, "head_dim": 16}, "mup_base_dim"),  # one head and a half
        ({"initialise": lambda module, layers: None}, "initialise"),
    ],
)
def test_refused(more: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        decoder(**more)
    assert [problem.where for problem in refused.value.problems] == [key]


def test_a_head_that_does_not_say_what_gives_its_logits() -> None:
    own = {"dim": DIM, "mask": Bidirectional, "head": Silent, "feedforward": GELU}
    assert Encoder(**PARTS | own).head is not None
    with pytest.raises(InvalidArguments, match="readouts"):
        Encoder(**PARTS | own, mup_base_dim=BASE)


def test_swiglu_too() -> None:
    model = decoder(feedforward=SwiGLU, initialise=Normal(std=0.05))
    assert model.blocks[0].feedforward.gate.weight.std().item() == pytest.approx(0.025, rel=0.03)
