"""Conversion of GPT-2 checkpoints (Radford et al. 2019) to and from Étude."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from etude.interop.family import Family
from etude.interop.hf_config import ACTIVATIONS, HFConfig, activation_name
from etude.interop.rules import Same, Transposed
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned


class GPT2Family(Family):
    """Conversion of the GPT-2 family: decoders with learned positions and layer norm before each
    branch.

    Checkpoints store the matrices transposed, as (input, output).
    """

    model_type = "gpt2"
    kind = Decoder
    architectures: ClassVar[tuple[str, ...]] = ("GPT2LMHeadModel", "GPT2Model")
    bodies = ("GPT2Model",)
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    output = "lm_head.weight"
    names: ClassVar = {
        "embedding": Same("transformer.wte"),
        "position": Same("transformer.wpe"),
        "blocks.{i}.attention_norm": Same("transformer.h.{i}.ln_1"),
        "blocks.{i}.attention.qkv": Transposed("transformer.h.{i}.attn.c_attn"),
        "blocks.{i}.attention.out": Transposed("transformer.h.{i}.attn.c_proj"),
        "blocks.{i}.feedforward_norm": Same("transformer.h.{i}.ln_2"),
        "blocks.{i}.feedforward.up": Transposed("transformer.h.{i}.mlp.c_fc"),
        "blocks.{i}.feedforward.down": Transposed("transformer.h.{i}.mlp.c_proj"),
        "norm": Same("transformer.ln_f"),
        "head": Same("lm_head"),
    }
    unused: ClassVar[tuple[str, ...]] = (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)
    ignored_fields: ClassVar[tuple[str, ...]] = (
        "attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "n_special", "predict_special_tokens",
        "reorder_and_upcast_attn",
    )  # fmt: skip
    synonyms: ClassVar = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        config.only("scale_attn_by_inverse_layer_idx", False)
        scaled = config.flag("scale_attn_weights", True)
        attention = partial(MultiHeadAttention, scale="inverse_sqrt" if scaled else "one")
        return {
            "vocab_size": config.size("vocab_size", 50257),
            "layers": config.size("n_layer", 12),
            "heads": config.size("n_head", 12),
            "dim": config.size("n_embd", 768),
            "max_length": config.size("n_positions", 1024),
            "attention": attention,
            "position": Learned,
            "norm": partial(LayerNorm, eps=config.number("layer_norm_epsilon", 1e-5)),
            "feedforward": config.activation(
                "activation_function", "gelu_new", ACTIVATIONS, config.size("n_inner", None)
            ),
            "mask": Causal,
            "block": PreNormBlock,
            "dropout": config.number("resid_pdrop", 0.1),
            "tie_embeddings": config.flag("tie_word_embeddings", True),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block = module.blocks[0]
        vocabulary, dim = module.embedding.weight.shape
        rate = module.dropout.p
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": vocabulary,
            "n_layer": len(module.blocks),
            "n_head": block.attention.heads,
            "n_embd": dim,
            "n_positions": module.max_length,
            "n_inner": block.feedforward.up.out_features,
            "activation_function": activation_name(block.feedforward, ACTIVATIONS),
            "layer_norm_epsilon": block.attention_norm.eps,
            "scale_attn_weights": block.attention.scale != 1 or block.attention.head_dim == 1,
            "attn_pdrop": rate,
            "embd_pdrop": rate,
            "resid_pdrop": rate,
            "tie_word_embeddings": module.head is None,
        }
