from __future__ import annotations

import pytest
import torch

from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELUTanh, SwiGLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned


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
