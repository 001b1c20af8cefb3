"""The encoder-decoder, compared with torch's, and with a cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.models.test_encoder import LAYER, renamed
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.models.encoder_decoder import EncoderDecoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import ParallelBlock, PostNormBlock, PreNormBlock
from etude.nn.feedforward import ReLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned, NoPosition, RelativeBias, Rotary, Sinusoidal

V, D, H, L = 23, 16, 4, 2
DECODER_LAYER = {
    **{a: b for a, b in LAYER.items() if not a.startswith("feedforward_norm")},
    "cross.qkv.weight": "multihead_attn.in_proj_weight",
    "cross.qkv.bias": "multihead_attn.in_proj_bias",
    "cross.out": "multihead_attn.out_proj",
    "cross_norm": "norm2",
    "feedforward_norm": "norm3",
}


def make(**changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "vocab_size": V, "layers": L, "heads": H, "dim": D, "max_length": 12,
        "attention": MultiHeadAttention, "position": Sinusoidal, "norm": LayerNorm,
        "feedforward": ReLU, "mask": Causal, "block": PostNormBlock,
    }  # fmt: skip
    model = EncoderDecoder(**(arguments | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Returns a source, a target, and the source's padding mask."""
    g = torch.Generator().manual_seed(5)
    keep = torch.ones(3, 7, dtype=torch.bool)
    keep[1, 4:] = False
    return torch.randint(V, (3, 7), generator=g), torch.randint(V, (3, 9), generator=g), keep


@pytest.mark.parametrize("first", [False, True])
def test_it_is_torchs_transformer(first: bool) -> None:
    mine = make(
        position=NoPosition, scale_embeddings=True, decoder_layers=3,
        block=PreNormBlock if first else PostNormBlock,
    )  # fmt: skip
    theirs = nn.Transformer(D, H, L, 3, 4 * D, batch_first=True, norm_first=first).double().eval()
    standard = {"weight": "weight", "bias": "bias"}
    for side, names in (("encoder", LAYER), ("decoder", DECODER_LAYER)):
        stack: Any = getattr(theirs, side)
        stack.enable_nested_tensor = False
        state = getattr(mine, side).state_dict()
        for i, layer in enumerate(stack.layers):
            layer.load_state_dict(renamed(state, f"blocks.{i}.", names))
        if first:
            stack.norm.load_state_dict(renamed(state, "norm.", standard))
        else:
            stack.norm = None
    source, target, keep = inputs()
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    vectors = theirs(
        4 * mine.embedding(source), 4 * mine.embedding(target), tgt_mask=later,
        src_key_padding_mask=~keep, memory_key_padding_mask=~keep,
    )  # fmt: skip
    expected = vectors @ mine.embedding.weight.T
    found = mine(source, target, source_keep=keep)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("position", [Sinusoidal, Learned, Rotary, RelativeBias])
@pytest.mark.parametrize("block", [PreNormBlock, PostNormBlock, ParallelBlock])
def test_with_a_cache_the_logits_are_the_same(position: Any, block: Any) -> None:
    """Also for two targets per source, for padded sources, and after a step of beam search."""
    model = make(position=position, block=block, attention=partial(MultiHeadAttention, kv_heads=2))
    source, target, keep = inputs()
    twice = torch.cat((target, target.flip(0))).view(2, 3, 9).transpose(0, 1).flatten(0, 1)
    expected = model(
        source.repeat_interleave(2, 0), twice, source_keep=keep.repeat_interleave(2, 0)
    )
    reading = model.reading(source, keep)
    cache = reading.new_cache(6, 9)
    pieces = [reading(piece, cache) for piece in twice.split((4, 1, 3, 1), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-11)

    cache = reading.new_cache(6, 9)
    reading(twice[:, :5], cache)
    rows = torch.tensor([1, 1, 2, 3, 5, 4])  # each one of the same source
    cache.select(rows)
    after = reading(twice[rows, 5:], cache)
    torch.testing.assert_close(after, expected[rows, 5:], rtol=0, atol=1e-11)


def test_a_source_of_padding_alone_gives_numbers_and_leaves_the_others() -> None:
    model, (source, target, keep) = make(), inputs()
    expected = model(source, target, source_keep=keep)
    keep[2] = False
    found = model(source, target, source_keep=keep)
    assert found.isfinite().all()
    assert torch.equal(found[:2], expected[:2])


def test_padding_changes_nothing() -> None:
    model = make()
    source, target, keep = inputs()
    expected = model(source[1:2, :4], target[1:2])
    changed = source.masked_fill(~keep, 3)
    for each in (source, changed):
        found = model(each, target, source_keep=keep)
        torch.testing.assert_close(found[1:2], expected, rtol=0, atol=1e-11)
    padded = torch.ones(3, 9, dtype=torch.bool)
    padded[0, 6:] = False
    found = model(source, target.masked_fill(~padded, 1), target_keep=padded)
    torch.testing.assert_close(found[0, :6], model(source, target)[0, :6], rtol=0, atol=1e-11)


def test_what_is_done_to_the_logits() -> None:
    source, target, _ = inputs()
    standard = make()(source, target)
    scaled = make(logit_scale=0.25, logit_bias=True)
    shift = scaled.logit_bias.detach()
    torch.testing.assert_close(
        scaled(source, target), 0.25 * make_like(scaled)(source, target) + shift
    )
    assert make(tie_embeddings=False)(source, target).shape == standard.shape


def make_like(model: EncoderDecoder) -> EncoderDecoder:
    """Returns a model with the same weights, without scale and bias."""
    standard = make()
    standard.load_state_dict({k: v for k, v in model.state_dict().items() if k != "logit_bias"})
    return standard


def test_bad_arguments_are_named_together() -> None:
    with pytest.raises(InvalidArguments) as caught:
        make(decoder_layers=0, logit_scale=0.0, start_token=-1)
    found = {problem.where for problem in caught.value.problems}
    assert found == {"decoder_layers", "logit_scale", "start_token"}
