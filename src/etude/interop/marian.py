"""Conversion of Marian translation models, such as OPUS-MT, to and from Étude.

See Junczys-Dowmunt et al. 2018, arXiv:1804.00344.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from etude.interop.family import Family
from etude.interop.hf_config import ACTIVATIONS, HFConfig, activation_name
from etude.interop.rules import RowVector, Rule, Same, Stacked
from etude.models.encoder_decoder import EncoderDecoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Sinusoidal


def _attention(ours: str, theirs: str) -> dict[str, Rule]:
    """Returns the conversion rules (`etude.interop.rules`) of an attention module and the norm
    after it, as a dict from the names of Étude's modules.

    Args:
        ours: the module's name in Étude.
        theirs: the module's name in the checkpoint.
    """
    return {
        f"{ours}.qkv": Stacked(*(f"{theirs}.{each}_proj" for each in ("q", "k", "v"))),
        f"{ours}.out": Same(f"{theirs}.out_proj"),
        f"{ours}_norm": Same(f"{theirs}_layer_norm"),
    }


def _stack(stack: str) -> dict[str, Rule]:
    """Returns the conversion rules (`etude.interop.rules`) of the encoder's or decoder's blocks,
    without cross-attention, as a dict from the names of Étude's modules.

    Args:
        stack: `encoder` or `decoder`.
    """
    ours, theirs = f"{stack}.blocks.{{i}}.", f"model.{stack}.layers.{{i}}."
    return {
        **_attention(ours + "attention", theirs + "self_attn"),
        ours + "feedforward.up": Same(theirs + "fc1"),
        ours + "feedforward.down": Same(theirs + "fc2"),
        ours + "feedforward_norm": Same(theirs + "final_layer_norm"),
    }


class MarianFamily(Family):
    """Conversion of the Marian family: the original Transformer with an additional bias of the
    logits.

    Sinusoidal positions are computed and not read from the checkpoint.
    """

    model_type = "marian"
    kind = EncoderDecoder
    architectures: ClassVar[tuple[str, ...]] = ("MarianMTModel",)
    embedding = "model.shared.weight"
    output = "lm_head.weight"
    names: ClassVar = {
        "encoder.embedding": Same("model.shared"),
        **_stack("encoder"),
        **_stack("decoder"),
        **_attention("decoder.blocks.{i}.cross", "model.decoder.layers.{i}.encoder_attn"),
        "logit_bias": RowVector("final_logits_bias"),
        "head": Same("lm_head"),
    }
    unused: ClassVar[tuple[str, ...]] = (r"model\.(en|de)coder\.embed_positions\.weight",)
    copies: ClassVar = {r"model\.(en|de)coder\.embed_tokens\.weight": embedding}
    ignored_fields: ClassVar[tuple[str, ...]] = (
        "activation_dropout", "add_bias_logits", "attention_dropout", "classif_dropout",
        "decoder_layerdrop", "dropout", "encoder_layerdrop",
    )  # fmt: skip

    synonyms: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        layers = config.size("encoder_layers", 12)
        vocabulary = config.size("vocab_size", 58101)
        heads, hidden = (
            config.size("encoder_attention_heads", 16),
            config.size("encoder_ffn_dim", 4096),
        )
        for field, default, value in (
            ("decoder_attention_heads", 16, heads),
            ("decoder_ffn_dim", 4096, hidden),
            ("decoder_vocab_size", vocabulary, vocabulary),
        ):
            if config.size(field, default) != value:
                config.refuse(
                    field, f"{value}, the value of the encoder", config.get(field, default)
                )
        config.only("share_encoder_decoder_embeddings", True)
        config.only("static_position_embeddings", True)
        config.only("is_encoder_decoder", True)
        for field in ("normalize_before", "normalize_embedding", "add_final_layer_norm"):
            config.only(field, False)
        config.only("extra_pos_embeddings", 0, config.get("pad_token_id", 58100) + 1)
        return {
            "vocab_size": vocabulary,
            "layers": layers,
            "decoder_layers": config.size("decoder_layers", 12),
            "heads": heads,
            "dim": config.size("d_model", 1024),
            "max_length": config.size("max_position_embeddings", 1024),
            "attention": MultiHeadAttention,
            "position": partial(Sinusoidal, halves=True),
            "norm": LayerNorm,
            "feedforward": config.activation("activation_function", "gelu", ACTIVATIONS, hidden),
            "mask": Causal,
            "block": PostNormBlock,
            "dropout": config.number("dropout", 0.1),
            "scale_embeddings": config.flag("scale_embedding", False),
            "tie_embeddings": config.flag("tie_word_embeddings", True),
            "logit_bias": True,
            "start_token": config.token("decoder_start_token_id", 58100),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block = module.encoder.blocks[0]
        vocabulary, dim = module.embedding.weight.shape
        heads, hidden = block.attention.heads, block.feedforward.up.out_features
        return {
            "architectures": ["MarianMTModel"],
            "model_type": "marian",
            "is_encoder_decoder": True,
            "vocab_size": vocabulary,
            "decoder_vocab_size": vocabulary,
            "share_encoder_decoder_embeddings": True,
            "encoder_layers": len(module.encoder.blocks),
            "decoder_layers": len(module.decoder.blocks),
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": hidden,
            "decoder_ffn_dim": hidden,
            "d_model": dim,
            "activation_function": activation_name(block.feedforward, ACTIVATIONS),
            "max_position_embeddings": module.max_length,
            "dropout": module.encoder.dropout.p,
            "attention_dropout": module.encoder.dropout.p,
            "scale_embedding": module.encoder.embedding_scale is not None,
            "decoder_start_token_id": module.start_token,
            "pad_token_id": module.start_token,
            "tie_word_embeddings": module.head is None,
        }
