"""GPT-2 twice: in our modules and in those of `transformers`, with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned

_OUTER = {"embedding": "wte", "position": "wpe", "norm": "ln_f"}
_INNER = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feedforward_norm": "ln_2",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
}


def twins(
    *, layers: int, heads: int, dim: int, vocab_size: int, max_length: int
) -> tuple[Decoder, Any]:
    """(ours, theirs), both evaluating."""
    torch.manual_seed(0)
    ours = Decoder(
        vocab_size=vocab_size,
        layers=layers,
        heads=heads,
        dim=dim,
        max_length=max_length,
        attention=MultiHeadAttention,
        position=Learned,
        norm=LayerNorm,
        feedforward=GELU,
        mask=Causal,
        block=PreNormBlock,
    )
    theirs = gpt2(layers=layers, heads=heads, dim=dim, vocab_size=vocab_size, max_length=max_length)
    theirs.transformer.load_state_dict(weights_of(ours, theirs))
    return ours.eval(), theirs.eval()


def gpt2(
    *,
    layers: int,
    heads: int,
    dim: int,
    vocab_size: int,
    max_length: int,
    activation_function: str = "gelu",
) -> Any:
    """`GPT2LMHeadModel` without dropout, at the fastest settings we know of."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_length,
        n_embd=dim,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        activation_function=activation_function,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


def weights_of(ours: nn.Module, theirs: Any) -> dict[str, Tensor]:
    """Our weights under GPT-2's names, which keeps its matrices as (input, output)."""
    names = dict(_OUTER)
    for i in range(len(theirs.transformer.h)):
        names |= {f"blocks.{i}.{a}": f"h.{i}.{b}" for a, b in _INNER.items()}
    found = {}
    for name, value in ours.state_dict().items():
        module, _, kind = name.rpartition(".")
        other = names[module]
        transposed = value.ndim == 2 and ".c_" in other
        found[f"{other}.{kind}"] = value.T if transposed else value
    return found
