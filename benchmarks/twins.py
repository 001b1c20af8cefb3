"""GPT-2, Llama and T5 twice: our modules and those of `transformers`, with the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU, ReLU, SwiGLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import Learned, RelativeBias, Rotary

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


def llama_twins(
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    dim: int,
    hidden: int,
    vocab_size: int,
    max_length: int,
) -> tuple[Decoder, Any]:
    """(ours, theirs) of a Llama with tied embeddings, both evaluating."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    theirs = LlamaForCausalLM(config)
    ours = Decoder(
        vocab_size=vocab_size,
        layers=layers,
        heads=heads,
        dim=dim,
        max_length=max_length,
        attention=partial(MultiHeadAttention, kv_heads=kv_heads),
        position=Rotary,
        norm=RMSNorm,
        feedforward=partial(SwiGLU, hidden=hidden),
        mask=Causal,
        block=PreNormBlock,
        bias=False,
    )
    copy_llama(ours, theirs)
    return ours.eval(), theirs.eval()


def copy_llama(ours: Decoder, theirs: Any) -> None:
    """Their weights become ours."""
    source = theirs.state_dict()
    state = {
        "embedding.weight": source["model.embed_tokens.weight"],
        "norm.weight": source["model.norm.weight"],
    }
    names = {
        "attention_norm": "input_layernorm",
        "attention.out": "self_attn.o_proj",
        "feedforward_norm": "post_attention_layernorm",
        "feedforward.gate": "mlp.gate_proj",
        "feedforward.up": "mlp.up_proj",
        "feedforward.down": "mlp.down_proj",
    }
    for i in range(len(ours.blocks)):
        layer = f"model.layers.{i}."
        qkv = [source[f"{layer}self_attn.{x}_proj.weight"] for x in "qkv"]
        state[f"blocks.{i}.attention.qkv.weight"] = torch.cat(qkv)
        for a, b in names.items():
            state[f"blocks.{i}.{a}.weight"] = source[f"{layer}{b}.weight"]
    ours.load_state_dict(state)


def t5_twins(
    *, layers: int, heads: int, dim: int, head_dim: int, hidden: int, vocab_size: int
) -> tuple[EncoderDecoder, Any]:
    """(ours, theirs) of a T5 with tied embeddings, both evaluating."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocab_size,
        d_model=dim,
        d_kv=head_dim,
        d_ff=hidden,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    theirs = T5ForConditionalGeneration(config)
    ours = EncoderDecoder(
        vocab_size=vocab_size,
        layers=layers,
        heads=heads,
        dim=dim,
        head_dim=head_dim,
        max_length=512,
        attention=partial(MultiHeadAttention, scale="one"),
        position=RelativeBias,
        norm=RMSNorm,
        feedforward=partial(ReLU, hidden=hidden),
        mask=Causal,
        block=PreNormBlock,
        bias=False,
        logit_scale=dim**-0.5,
    )
    copy_t5(ours, theirs)
    return ours.eval(), theirs.eval()


def copy_t5(ours: EncoderDecoder, theirs: Any) -> None:
    """Their weights become ours."""
    source = theirs.state_dict()
    state = {"encoder.embedding.weight": source["shared.weight"]}
    state["decoder.embedding.weight"] = source["shared.weight"]
    for side in ("encoder", "decoder"):
        state[f"{side}.norm.weight"] = source[f"{side}.final_layer_norm.weight"]
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[f"{side}.position.weight"] = source[table]
        branches = [("attention", "SelfAttention")]
        branches += [("cross", "EncDecAttention")] if side == "decoder" else []
        for i in range(len(getattr(ours, side).blocks)):
            mine, layer = f"{side}.blocks.{i}.", f"{side}.block.{i}.layer."
            for number, (branch, name) in enumerate(branches):
                theirs_ = f"{layer}{number}."
                state[f"{mine}{branch}_norm.weight"] = source[f"{theirs_}layer_norm.weight"]
                qkv = [source[f"{theirs_}{name}.{x}.weight"] for x in "qkv"]
                state[f"{mine}{branch}.qkv.weight"] = torch.cat(qkv)
                state[f"{mine}{branch}.out.weight"] = source[f"{theirs_}{name}.o.weight"]
            last = f"{layer}{len(branches)}."
            state[f"{mine}feedforward_norm.weight"] = source[f"{last}layer_norm.weight"]
            for a, b in (("up", "wi"), ("down", "wo")):
                state[f"{mine}feedforward.{a}.weight"] = source[f"{last}DenseReluDense.{b}.weight"]
    ours.load_state_dict(state)
