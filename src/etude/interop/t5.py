"""Conversion of T5 and T5 1.1 checkpoints to and from Étude.

See Raffel et al. 2019 (arXiv:1910.10683) and Shazeer 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from etude.interop.family import Family
from etude.interop.hf_config import HFConfig, activation_name
from etude.interop.rules import Rule, Same, Stacked
from etude.models.encoder_decoder import EncoderDecoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU, GEGLUTanh, GELUTanh, ReLU, SiLU, SwiGLU
from etude.nn.mask import Causal
from etude.nn.norm import RMSNorm
from etude.nn.position import RelativeBias

FEEDFORWARDS: dict[str, type[nn.Module]] = {
    "relu": ReLU,
    "gated-gelu": GEGLUTanh,  # despite the name, the tanh approximation
    "gated-silu": SwiGLU,
    "gelu": GELU,
    "gelu_new": GELUTanh,
    "silu": SiLU,
}


def _stack(stack: str, feedforward: int) -> dict[str, Rule]:
    """Returns the rules (`etude.interop.rules`) that convert tensors of a T5 checkpoint to
    parameters of Étude, and back, as a dict from the names of Étude's modules.

    The rules cover the encoder or the decoder, except for the embedding, cross-attention, and the
    first linear layers of the feed-forward branches, whose rules `_middle` returns.

    Args:
        stack: `encoder` or `decoder`.
        feedforward: the index of the feed-forward branch in a block of the checkpoint.
    """
    ours, block = f"{stack}.blocks.{{i}}.", f"{stack}.block.{{i}}.layer."
    last = f"{block}{feedforward}."
    attention = block + "0.SelfAttention."
    return {
        f"{stack}.position": Same(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"),
        f"{ours}attention_norm": Same(block + "0.layer_norm"),
        f"{ours}attention.qkv": Stacked(*(attention + each for each in "qkv")),
        f"{ours}attention.out": Same(attention + "o"),
        f"{ours}feedforward_norm": Same(last + "layer_norm"),
        f"{ours}feedforward.down": Same(last + "DenseReluDense.wo"),
        f"{stack}.norm": Same(f"{stack}.final_layer_norm"),
    }


def _middle(gated: bool) -> dict[str, Rule]:
    """Returns the conversion rules (`etude.interop.rules`) of the first linear layers of the
    feed-forward branches, in the encoder and the decoder, as a dict from the names of Étude's
    modules.

    Args:
        gated: whether the branches have a gate, whose projection is a separate tensor.
    """
    names: dict[str, Rule] = {}
    for stack, last in (("encoder", 1), ("decoder", 2)):
        ours = f"{stack}.blocks.{{i}}.feedforward."
        theirs = f"{stack}.block.{{i}}.layer.{last}.DenseReluDense."
        names[ours + "up"] = Same(theirs + ("wi_1" if gated else "wi"))
        if gated:
            names[ours + "gate"] = Same(theirs + "wi_0")
    return names


ACROSS = "decoder.block.{i}.layer.1.EncDecAttention."


class T5Family(Family):
    """Conversion of the T5 family: encoder-decoders with relative position biases and pre-RMSNorm.

    Attention scores are not scaled, and linear layers have no bias.
    """

    model_type = "t5"
    kind = EncoderDecoder
    architectures: ClassVar[tuple[str, ...]] = ("T5ForConditionalGeneration",)
    embedding = "shared.weight"
    output = "lm_head.weight"
    names: ClassVar = {
        "encoder.embedding": Same("shared"),
        **_stack("encoder", 1),
        **_stack("decoder", 2),
        "decoder.blocks.{i}.cross_norm": Same("decoder.block.{i}.layer.1.layer_norm"),
        "decoder.blocks.{i}.cross.qkv": Stacked(*(ACROSS + each for each in "qkv")),
        "decoder.blocks.{i}.cross.out": Same(ACROSS + "o"),
        "head": Same("lm_head"),
    }
    unused: ClassVar[tuple[str, ...]] = (
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    )
    copies: ClassVar[Mapping[str, str]] = {r"(en|de)coder\.embed_tokens\.weight": embedding}
    ignored_fields: ClassVar[tuple[str, ...]] = ("dropout_rate",)
    synonyms: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    def rules(self, module: Any, architecture: str) -> Mapping[str, Rule]:
        return {**self.names, **_middle(hasattr(module.encoder.blocks[0].feedforward, "gate"))}

    def adjust_config(self, config: HFConfig, same: bool | None) -> None:
        # Version 1.1 has a separate, unscaled output projection, but transformers 5 writes
        # tie_word_embeddings=true for it.
        tied = config.flag("tie_word_embeddings", True)
        config.values.setdefault("scale_decoder_outputs", tied)
        config.values["tie_word_embeddings"] = same is None or (tied and same)

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        dim, layers = config.size("d_model", 512), config.size("num_layers", 6)
        tied = config.flag("tie_word_embeddings", True)
        scaled = config.flag("scale_decoder_outputs", tied)
        padding = config.get("pad_token_id", 0)
        feedforward = config.activation(
            "feed_forward_proj", "relu", FEEDFORWARDS, config.size("d_ff", 2048)
        )
        # `transformers` derives these fields from feed_forward_proj; a config can override them.
        stated = str(config.get("feed_forward_proj", "relu"))
        middle = {"gated-gelu": "gelu_new"}.get(stated, stated.removeprefix("gated-"))
        config.only("dense_act_fn", middle)
        config.only("is_gated_act", stated.startswith("gated-"))
        config.only("is_encoder_decoder", True)
        return {
            "vocab_size": config.size("vocab_size", 32128),
            "layers": layers,
            "decoder_layers": config.size("num_decoder_layers", layers),
            "heads": config.size("num_heads", 8),
            "dim": dim,
            "head_dim": config.size("d_kv", 64),
            "max_length": config.size("n_positions", 512),
            "attention": partial(MultiHeadAttention, scale="one"),
            "position": partial(
                RelativeBias,
                buckets=config.size("relative_attention_num_buckets", 32),
                max_distance=config.size("relative_attention_max_distance", 128),
            ),
            "norm": partial(RMSNorm, eps=config.number("layer_norm_epsilon", 1e-6)),
            "feedforward": feedforward,
            "mask": Causal,
            "block": PreNormBlock,
            "dropout": config.number("dropout_rate", 0.1),
            "bias": False,
            "tie_embeddings": tied,
            "logit_scale": dim**-0.5 if scaled else 1.0,
            "start_token": config.token("decoder_start_token_id", padding),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block, position = module.encoder.blocks[0], module.encoder.position
        vocabulary, dim = module.embedding.weight.shape
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "vocab_size": vocabulary,
            "num_layers": len(module.encoder.blocks),
            "num_decoder_layers": len(module.decoder.blocks),
            "num_heads": block.attention.heads,
            "d_kv": block.attention.head_dim,
            "d_model": dim,
            "d_ff": block.feedforward.up.out_features,
            "n_positions": module.max_length,
            "feed_forward_proj": activation_name(block.feedforward, FEEDFORWARDS),
            "relative_attention_num_buckets": getattr(position, "buckets", 32),
            "relative_attention_max_distance": getattr(position, "max_distance", 128),
            "layer_norm_epsilon": block.attention_norm.eps,
            "dropout_rate": module.encoder.dropout.p,
            "decoder_start_token_id": module.start_token,
            "scale_decoder_outputs": module.logit_scale != 1,
            "tie_word_embeddings": module.head is None,
        }
