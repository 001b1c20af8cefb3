from __future__ import annotations

import pytest
import torch

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELUTanh, SwiGLU
from etude.nn.init import ZeroOutput
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned, Sinusoidal


@pytest.mark.parametrize("feedforward", [GELUTanh, SwiGLU])
@pytest.mark.parametrize("layers", [2, 8])
def test_gpt2_standard_deviations(feedforward, layers):
    torch.manual_seed(0)
    model = Decoder(
        vocab_size=500,
        layers=layers,
        heads=4,
        dim=192,
        max_length=100,
        attention=MultiHeadAttention,
        position=Learned,
        norm=LayerNorm,
        feedforward=feedforward,
        mask=Causal,
        block=PreNormBlock,
        tie_embeddings=False,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif "norm" in name:
            assert torch.all(parameter == 1), name
        else:
            residual = name.endswith((".out.weight", ".down.weight"))
            expected = 0.02 / (2 * layers) ** 0.5 if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert parameter.mean().item() == pytest.approx(0, abs=expected / 20), name


@pytest.mark.parametrize("initialise", [ZeroOutput(), ZeroOutput(embedding_std=0.1)])
def test_with_zero_outputs_blocks_begin_as_the_identity(initialise: ZeroOutput) -> None:
    torch.manual_seed(0)
    model = Decoder(
        vocab_size=500, layers=3, heads=4, dim=192, max_length=100, attention=MultiHeadAttention,
        position=Sinusoidal, norm=LayerNorm, feedforward=GELUTanh, mask=Causal, block=PreNormBlock,
        tie_embeddings=False, initialise=initialise,
    )  # fmt: skip
    tokens = torch.randint(500, (2, 7))
    stream = model.position.embed(model.embedding(tokens))
    assert torch.equal(model.hidden(tokens), model.norm(stream))
    assert model.embedding.weight.std().item() == pytest.approx(initialise.embedding_std, rel=0.02)
    for block in model.blocks:
        assert block.attention.qkv.weight.std().item() == pytest.approx(192**-0.5, rel=0.02)
        assert block.feedforward.up.weight.std().item() == pytest.approx(192**-0.5, rel=0.02)
    loss = model(tokens).logsumexp(-1).mean()
    loss.backward()
    assert all(block.feedforward.down.weight.grad.norm() > 0 for block in model.blocks)


def test_learned_positions_begin_as_large_as_is_said() -> None:
    torch.manual_seed(0)
    for std in (0.02, 1.0):
        weight = Learned(dim=64, heads=4, max_length=256, std=std).weight
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    with pytest.raises(InvalidArguments, match="std"):
        Learned(dim=64, heads=4, max_length=256, std=0.0)
