"""Conversion of GPT-NeoX and Pythia checkpoints to and from Étude.

See Black et al. 2022 (arXiv:2204.06745) and Biderman et al. 2023 (arXiv:2304.01373).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from etude.interop.family import Family
from etude.interop.hf_config import ACTIVATIONS, HFConfig, activation_name
from etude.interop.rope import rope_fields, rotary
from etude.interop.rules import Interleaved, Same
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import ParallelBlock, PreNormBlock
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm

LAYER = "gpt_neox.layers.{i}."


class GPTNeoXFamily(Family):
    """Conversion of the GPT-NeoX family: decoders with partial rotary positions and parallel
    branches.

    The attention branch and the feed-forward branch of a block have the same input.
    """

    model_type = "gpt_neox"
    kind = Decoder
    architectures: ClassVar[tuple[str, ...]] = ("GPTNeoXForCausalLM", "GPTNeoXModel")
    bodies = ("GPTNeoXModel",)
    prefix = "gpt_neox."
    embedding = "gpt_neox.embed_in.weight"
    output = "embed_out.weight"
    names: ClassVar = {
        "embedding": Same("gpt_neox.embed_in"),
        "blocks.{i}.attention_norm": Same(LAYER + "input_layernorm"),
        "blocks.{i}.attention.qkv": Interleaved(LAYER + "attention.query_key_value"),
        "blocks.{i}.attention.out": Same(LAYER + "attention.dense"),
        "blocks.{i}.feedforward_norm": Same(LAYER + "post_attention_layernorm"),
        "blocks.{i}.feedforward.up": Same(LAYER + "mlp.dense_h_to_4h"),
        "blocks.{i}.feedforward.down": Same(LAYER + "mlp.dense_4h_to_h"),
        "norm": Same("gpt_neox.final_layer_norm"),
        "head": Same("embed_out"),
    }
    renamed: ClassVar = {r"lm_head\.weight": "embed_out.weight"}
    unused: ClassVar[tuple[str, ...]] = (
        r"gpt_neox\.layers\.\d+\.attention\.(masked_)?bias",
        r"gpt_neox\.layers\.\d+\.attention\.rotary_emb\.inv_freq",
    )
    ignored_fields: ClassVar[tuple[str, ...]] = ("attention_dropout", "hidden_dropout")
    synonyms: ClassVar = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        biased = config.flag("attention_bias", True)
        parallel = config.flag("use_parallel_residual", True)
        return {
            "vocab_size": config.size("vocab_size", 50432),
            "layers": config.size("num_hidden_layers", 44),
            "heads": config.size("num_attention_heads", 64),
            "dim": config.size("hidden_size", 6144),
            "max_length": config.size("max_position_embeddings", 2048),
            "attention": partial(MultiHeadAttention, qkv_bias=biased, out_bias=biased),
            "position": rotary(config, base="rotary_emb_base", fraction="rotary_pct", part=0.25),
            "norm": partial(LayerNorm, eps=config.number("layer_norm_eps", 1e-5)),
            "feedforward": config.activation(
                "hidden_act", "gelu", ACTIVATIONS, config.size("intermediate_size", 24576)
            ),
            "mask": Causal,
            "block": ParallelBlock if parallel else PreNormBlock,
            "dropout": config.number("hidden_dropout", 0.0),
            "tie_embeddings": config.flag("tie_word_embeddings", False),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block, position = module.blocks[0], module.position
        vocabulary, dim = module.embedding.weight.shape
        width = block.attention.head_dim
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "vocab_size": vocabulary,
            "num_hidden_layers": len(module.blocks),
            "num_attention_heads": block.attention.heads,
            "hidden_size": dim,
            "intermediate_size": block.feedforward.up.out_features,
            "hidden_act": activation_name(block.feedforward, ACTIVATIONS),
            "max_position_embeddings": module.max_length,
            "layer_norm_eps": block.attention_norm.eps,
            "attention_bias": block.attention.qkv.bias is not None,
            "use_parallel_residual": type(block) is ParallelBlock,
            "rotary_pct": getattr(position, "width", width) / width,
            **rope_fields(position, base="rotary_emb_base"),
            "attention_dropout": module.dropout.p,
            "hidden_dropout": module.dropout.p,
            "tie_word_embeddings": module.head is None,
        }
