"""Small models of each kind, with weights that are large enough to matter."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.heads import ClassificationHead, MaskedLanguageHead, TaggingHead
from etude.models.kinds import LayerKind
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import ParallelBlock, PostNormBlock, PreNormBlock, SandwichBlock
from etude.nn.feedforward import GELU, NoFeedForward, SwiGLU
from etude.nn.mask import Bidirectional, Causal, SlidingWindow
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import ALiBi, Learned, RelativeBias, Rotary

V, T, H, L, D = 13, 9, 4, 3, 16
PARTS: dict[str, Any] = {
    "vocab_size": V, "layers": L, "heads": H, "dim": D, "max_length": 20,
    "attention": MultiHeadAttention, "position": Learned, "norm": LayerNorm, "feedforward": GELU,
    "mask": Causal, "block": PreNormBlock,
}  # fmt: skip
GROUPED = partial(MultiHeadAttention, kv_heads=2)
KINDS = {
    "local": LayerKind(mask=partial(SlidingWindow, window=3)),
    "other": LayerKind(attention=GROUPED, position=RelativeBias, block=ParallelBlock),
}
MODELS: dict[str, Any] = {
    "decoder": partial(Decoder, **PARTS),
    "llama": partial(Decoder, **PARTS | {
        "attention": GROUPED, "position": Rotary, "norm": RMSNorm, "feedforward": SwiGLU,
    }),
    "sandwich, soft cap": partial(Decoder, **PARTS | {
        "attention": partial(MultiHeadAttention, softcap=5.0), "block": SandwichBlock,
    }),
    "alibi, post-norm": partial(Decoder, **PARTS | {"position": ALiBi, "block": PostNormBlock}),
    "parallel": partial(Decoder, **PARTS | {"block": ParallelBlock}),
    "attention only": partial(Decoder, **PARTS | {"feedforward": NoFeedForward}),
    "pattern": partial(
        Decoder, **PARTS | {"position": Rotary}, pattern=["local", "other"], kinds=KINDS
    ),
    "encoder": partial(Encoder, **PARTS | {"mask": Bidirectional}),
    "masked": partial(Encoder, **PARTS | {"mask": Bidirectional}, head=MaskedLanguageHead),
    "classifier": partial(
        Encoder, **PARTS | {"mask": Bidirectional}, head=partial(ClassificationHead, labels=3)
    ),
    "tagger": partial(
        Encoder, **PARTS | {"mask": Bidirectional}, head=partial(TaggingHead, labels=3)
    ),
    "encoder-decoder": partial(EncoderDecoder, **PARTS),
    "t5": partial(EncoderDecoder, **PARTS | {
        "position": RelativeBias, "norm": RMSNorm, "block": PreNormBlock,
    }),
    "encoder-decoder, parallel": partial(EncoderDecoder, **PARTS | {"block": ParallelBlock}),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Returns a model of `MODELS` in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[name](**changes).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def ids(B: int = 2, length: int = T, seed: int = 0) -> Tensor:
    """Returns random token ids."""
    return torch.randint(1, V, (B, length), generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module, B: int = 2) -> Tensor:
    """Returns the output of a model for random ids; an encoder-decoder also reads a source."""
    inputs = (ids(B, 6, 1), ids(B)) if isinstance(model, EncoderDecoder) else (ids(B),)
    return model(*inputs)


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    """A model of each kind."""
    return build(request.param)
