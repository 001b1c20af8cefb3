"""The decoder, compared with models of `transformers` with the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELUTanh, SwiGLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import Learned, Rotary

ATOL = {torch.float32: 1e-4, torch.float64: 1e-9}
L, H, G, D, V, MAX = 3, 4, 2, 24, 37, 16


def randomised(model: nn.Module) -> nn.Module:
    """Randomises every weight: biases are not 0, norms not 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def compare(mine: nn.Module, theirs: nn.Module, dtype: torch.dtype) -> None:
    """Compares logits, and the gradient of the loss for the embedding."""
    tokens = torch.randint(V, (3, MAX), generator=torch.Generator().manual_seed(1))
    logits, expected = mine(tokens), theirs(tokens).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL[dtype])
    for each in (logits, expected):
        F.cross_entropy(each[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradient = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(mine.embedding.weight.grad, gradient, rtol=0, atol=ATOL[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attention", [MultiHeadAttention, ReferenceAttention])
def test_gpt2(dtype, attention):
    config = GPT2Config(vocab_size=V, n_positions=MAX, n_embd=D, n_layer=L, n_head=H)
    theirs = randomised(GPT2LMHeadModel(config)).to(dtype)
    mine = Decoder(
        vocab_size=V,
        layers=L,
        heads=H,
        dim=D,
        max_length=MAX,
        attention=attention,
        position=Learned,
        norm=LayerNorm,
        feedforward=GELUTanh,
        mask=Causal,
        block=PreNormBlock,
    )
    names = {
        "embedding.weight": "wte.weight",
        "position.weight": "wpe.weight",
        "norm.weight": "ln_f.weight",
        "norm.bias": "ln_f.bias",
    }
    for i in range(L):
        for a, b in {
            "attention_norm": "ln_1",
            "attention.qkv": "attn.c_attn",
            "attention.out": "attn.c_proj",
            "feedforward_norm": "ln_2",
            "feedforward.up": "mlp.c_fc",
            "feedforward.down": "mlp.c_proj",
        }.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{i}.{a}.{kind}"] = f"h.{i}.{b}.{kind}"

    source = theirs.transformer.state_dict()
    assert set(names.values()) == set(source)
    # GPT-2 keeps its matrices as (input, output).
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {a: source[b].T if b.endswith(transposed) else source[b] for a, b in names.items()}
    mine.load_state_dict(state)
    compare(mine.to(dtype).eval(), theirs, dtype)


class ExactRotary(nn.Module):
    """The rotary angles of `transformers` in float64: its own are always computed in float32."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        K = D // H
        frequencies = 10000.0 ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
        angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


class ExactRMSNorm(nn.Module):
    """The norm of `transformers` without its rounding to float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [G, H])
def test_llama(dtype, tied, kv_heads):
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=40,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=kv_heads,
        max_position_embeddings=MAX,
        tie_word_embeddings=tied,
    )
    theirs = randomised(LlamaForCausalLM(config)).to(dtype)
    mine = Decoder(
        vocab_size=V,
        layers=L,
        heads=H,
        dim=D,
        max_length=MAX,
        attention=partial(MultiHeadAttention, kv_heads=kv_heads),
        position=Rotary,
        norm=RMSNorm,
        feedforward=partial(SwiGLU, hidden=40),
        mask=Causal,
        block=PreNormBlock,
        bias=False,
        tie_embeddings=tied,
    )
    source = theirs.state_dict()
    state = {"embedding.weight": source["model.embed_tokens.weight"]}
    state["norm.weight"] = source["model.norm.weight"]
    if not tied:
        state["head.weight"] = source["lm_head.weight"]
    for i in range(L):
        theirs_i, mine_i = f"model.layers.{i}.", f"blocks.{i}."
        state[mine_i + "attention.qkv.weight"] = torch.cat(
            [source[f"{theirs_i}self_attn.{x}_proj.weight"] for x in "qkv"]
        )
        for a, b in {
            "attention_norm": "input_layernorm",
            "attention.out": "self_attn.o_proj",
            "feedforward_norm": "post_attention_layernorm",
            "feedforward.gate": "mlp.gate_proj",
            "feedforward.up": "mlp.up_proj",
            "feedforward.down": "mlp.down_proj",
        }.items():
            state[f"{mine_i}{a}.weight"] = source[f"{theirs_i}{b}.weight"]
    mine.load_state_dict(state)

    if dtype == torch.float64:
        model = theirs.model
        model.rotary_emb = ExactRotary()
        model.norm = ExactRMSNorm(model.norm.weight)
        for layer in model.layers:
            layer.input_layernorm = ExactRMSNorm(layer.input_layernorm.weight)
            layer.post_attention_layernorm = ExactRMSNorm(layer.post_attention_layernorm.weight)
    compare(mine.to(dtype).eval(), theirs, dtype)
