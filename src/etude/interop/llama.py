"""Conversion of Llama and SmolLM2 checkpoints to and from Étude.

See Touvron et al. 2023 (arXiv:2302.13971) and Allal et al. 2025 (arXiv:2502.02737).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from etude.interop.family import Family
from etude.interop.hf_config import GATED, HFConfig, activation_name
from etude.interop.rope import rope_fields, rotary
from etude.interop.rules import Rule, Same, Stacked
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.mask import Causal
from etude.nn.norm import RMSNorm

LAYER = "model.layers.{i}."
NAMES: dict[str, Rule] = {
    "embedding": Same("model.embed_tokens"),
    "blocks.{i}.attention_norm": Same(LAYER + "input_layernorm"),
    "blocks.{i}.attention.qkv": Stacked(
        *(f"{LAYER}self_attn.{each}_proj" for each in ("q", "k", "v"))
    ),
    "blocks.{i}.attention.out": Same(LAYER + "self_attn.o_proj"),
    "blocks.{i}.feedforward_norm": Same(LAYER + "post_attention_layernorm"),
    "blocks.{i}.feedforward.gate": Same(LAYER + "mlp.gate_proj"),
    "blocks.{i}.feedforward.up": Same(LAYER + "mlp.up_proj"),
    "blocks.{i}.feedforward.down": Same(LAYER + "mlp.down_proj"),
    "norm": Same("model.norm"),
    "head": Same("lm_head"),
}


class LlamaFamily(Family):
    """Conversion of the Llama family: decoders with rotary positions, pre-RMSNorm, SwiGLU and
    grouped queries.
    """

    model_type = "llama"
    kind = Decoder
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM", "LlamaModel")
    bodies = ("LlamaModel",)
    prefix = "model."
    embedding = "model.embed_tokens.weight"
    output = "lm_head.weight"
    names: ClassVar = NAMES
    unused: ClassVar[tuple[str, ...]] = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
    ignored_fields: ClassVar[tuple[str, ...]] = ("attention_dropout",)

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        biased = config.flag("attention_bias", False)
        eps = config.number("rms_norm_eps", 1e-6)
        return {
            "vocab_size": config.size("vocab_size", 32000),
            "layers": config.size("num_hidden_layers", 32),
            "heads": config.size("num_attention_heads", 32),
            "dim": config.size("hidden_size", 4096),
            "head_dim": config.size("head_dim", None),
            "max_length": config.size("max_position_embeddings", 2048),
            "attention": partial(
                MultiHeadAttention,
                kv_heads=config.size("num_key_value_heads", None),
                qkv_bias=biased,
                out_bias=biased,
            ),
            "position": rotary(config),
            "norm": partial(RMSNorm, eps=eps),
            "feedforward": config.activation(
                "hidden_act", "silu", GATED, config.size("intermediate_size", 11008)
            ),
            "mask": Causal,
            "block": PreNormBlock,
            "dropout": config.number("attention_dropout", 0.0),
            "bias": config.flag("mlp_bias", False),
            "tie_embeddings": config.flag("tie_word_embeddings", False),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block = module.blocks[0]
        vocabulary, dim = module.embedding.weight.shape
        return {
            "architectures": [self.architectures[0]],
            "model_type": self.model_type,
            "vocab_size": vocabulary,
            "num_hidden_layers": len(module.blocks),
            "num_attention_heads": block.attention.heads,
            "num_key_value_heads": block.attention.kv_heads,
            "head_dim": block.attention.head_dim,
            "hidden_size": dim,
            "intermediate_size": block.feedforward.up.out_features,
            "hidden_act": activation_name(block.feedforward, GATED),
            "max_position_embeddings": module.max_length,
            "rms_norm_eps": block.attention_norm.eps,
            "attention_bias": block.attention.qkv.bias is not None,
            "mlp_bias": block.feedforward.up.bias is not None,
            **rope_fields(module.position),
            "attention_dropout": module.dropout.p,
            "tie_word_embeddings": module.head is None,
        }
