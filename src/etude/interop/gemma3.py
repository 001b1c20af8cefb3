"""Conversion of Gemma 3 checkpoints (Gemma Team 2025, arXiv:2503.19786) to and from Étude.

Only the text models are supported.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import nn

from etude.interop.family import Family
from etude.interop.hf_config import GATED, HFConfig, activation_name
from etude.interop.llama import LAYER, NAMES
from etude.interop.rope import rope_fields, rotary
from etude.interop.rules import Same
from etude.models.decoder import Decoder
from etude.models.kinds import LayerKind
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import SandwichBlock
from etude.nn.feedforward import GEGLUTanh
from etude.nn.mask import Causal, SlidingWindow
from etude.nn.norm import OffsetRMSNorm
from etude.nn.position import Rotary

FULL, SLIDING = "full_attention", "sliding_attention"
BASES = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}
"""The field of the rotary base in older configs, and its default, by layer type."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu_pytorch_tanh": GEGLUTanh, **GATED}
"""Feed-forward classes by activation name.

The default name is first and is used in exports: `transformers` rounds `gelu_new` differently.
"""


class Gemma3Family(Family):
    """Conversion of the Gemma 3 family: decoders with sliding-window attention and, at intervals,
    full attention.

    The two layer types have different rotary bases. Norms are before and after each branch, and on
    queries and keys; embeddings are multiplied by the square root of their width.
    """

    model_type = "gemma3_text"
    kind = Decoder
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForCausalLM", "Gemma3TextModel")
    bodies = ("Gemma3TextModel",)
    prefix = "model."
    embedding = "model.embed_tokens.weight"
    output = "lm_head.weight"
    names: ClassVar = {
        **NAMES,
        "blocks.{i}.attention.q_norm": Same(LAYER + "self_attn.q_norm"),
        "blocks.{i}.attention.k_norm": Same(LAYER + "self_attn.k_norm"),
        "blocks.{i}.attention_post_norm": Same(LAYER + "post_attention_layernorm"),
        "blocks.{i}.feedforward_norm": Same(LAYER + "pre_feedforward_layernorm"),
        "blocks.{i}.feedforward_post_norm": Same(LAYER + "post_feedforward_layernorm"),
    }
    ignored_fields: ClassVar[tuple[str, ...]] = ("attention_dropout", "cache_implementation")

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        config.only("use_bidirectional_attention", False)
        biased = config.flag("attention_bias", False)
        eps = config.number("rms_norm_eps", 1e-6)
        layers = config.size("num_hidden_layers", 26)
        types = layer_types(config, layers)
        window = config.size("sliding_window", 4096)
        if SLIDING in types and config.values.get("sliding_window", window) is None:
            expected = "a number of tokens, since layers use sliding-window attention"
            config.refuse("sliding_window", expected, None)
        masks: dict[str, Any] = {FULL: Causal, SLIDING: partial(SlidingWindow, window=window)}
        positions = {each: _rotary(config, each) for each in BASES}
        own = FULL if FULL in types else SLIDING
        kinds: dict[str, LayerKind] = {own: LayerKind()}
        if len(set(types)) > 1:
            kinds[SLIDING] = LayerKind(mask=masks[SLIDING], position=positions[SLIDING])
        scale_dim = config.get("query_pre_attn_scalar", 256)
        if not config.number("query_pre_attn_scalar", 256) > 0:
            config.refuse("query_pre_attn_scalar", "a number above 0", scale_dim)
            scale_dim = 256
        softcap = config.get("final_logit_softcapping")
        if softcap is not None and not config.number("final_logit_softcapping", 0) > 0:
            config.refuse("final_logit_softcapping", "a number above 0, or null", softcap)
            softcap = None
        return {
            "vocab_size": config.size("vocab_size", 262208),
            "layers": layers,
            "heads": config.size("num_attention_heads", 8),
            "dim": config.size("hidden_size", 2304),
            "head_dim": config.size("head_dim", 256),
            "max_length": config.size("max_position_embeddings", 131072),
            "attention": partial(
                MultiHeadAttention,
                kv_heads=config.size("num_key_value_heads", 4),
                qkv_bias=biased,
                out_bias=biased,
                qk_norm=True,
                qk_norm_eps=eps,
                qk_norm_offset=True,
                scale_dim=scale_dim,
            ),
            "position": positions[own],
            "norm": partial(OffsetRMSNorm, eps=eps),
            "feedforward": config.activation(
                "hidden_activation",
                "gelu_pytorch_tanh",
                ACTIVATIONS,
                config.size("intermediate_size", 9216),
            ),
            "mask": masks[own],
            "block": SandwichBlock,
            "dropout": config.number("attention_dropout", 0.0),
            "bias": False,
            "tie_embeddings": config.flag("tie_word_embeddings", True),
            "scale_embeddings": True,
            "round_embedding_scale": True,
            "logit_softcap": softcap,
            **({"pattern": period(types), "kinds": kinds} if len(kinds) > 1 else {}),
        }

    def config(self, module: Any) -> dict[str, Any]:
        block = module.blocks[0]
        vocabulary, dim = module.embedding.weight.shape
        scale_dim = block.attention.standard_scale**-2
        whole = round(scale_dim)
        types: list[str] = []
        fields: dict[str, Any] = {}
        for i in range(len(module.blocks)):
            mask, position = module.at_layer(i)
            types.append(SLIDING if isinstance(mask, SlidingWindow) else FULL)
            if isinstance(mask, SlidingWindow):
                fields["sliding_window"] = mask.window
            base, _ = BASES[types[-1]]
            fields |= rope_fields(position, base=base) if types[-1] == FULL else _base(position)
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
            "hidden_activation": activation_name(block.feedforward, ACTIVATIONS),
            "max_position_embeddings": module.max_length,
            "rms_norm_eps": block.attention_norm.eps,
            "attention_bias": block.attention.qkv.bias is not None,
            "query_pre_attn_scalar": whole if abs(scale_dim - whole) < 1e-6 * whole else scale_dim,
            "layer_types": types,
            **fields,
            "final_logit_softcapping": module.logit_softcap,
            "attention_dropout": module.dropout.p,
            "tie_word_embeddings": module.head is None,
        }


def layer_types(config: HFConfig, layers: int) -> list[str]:
    """Returns the attention type of each layer, as in the field `layer_types`:
    `sliding_attention` or `full_attention`.

    In older configs, the field `sliding_window_pattern` is the interval between layers with full
    attention (6 if it is missing). An invalid `layer_types` adds a problem to the config.

    Args:
        layers: the number of layers.
    """
    every = config.size("sliding_window_pattern", config.size("_sliding_window_pattern", 6))
    types = config.get("layer_types")
    if types is None:
        return [FULL if (i + 1) % every == 0 else SLIDING for i in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not set(types) <= BASES.keys():
        expected = f"a list of {layers} values, each {SLIDING} or {FULL}"
        config.refuse("layer_types", expected, types)
        return [FULL] * layers
    return types


def period(types: list[str]) -> list[str]:
    """Returns the shortest list of layer types that gives `types` if it is repeated.

    The last repetition may be incomplete. If no shorter list does, returns `types`.
    """
    for length in range(1, len(types)):
        if all(each == types[i % length] for i, each in enumerate(types)):
            return types[:length]
    return types


def _rotary(config: HFConfig, kind: str) -> Any:
    """Returns the rotary position class, with its arguments, for layers of the type `kind`.

    `rope_scaling` applies only to layers with full attention.
    """
    field, base = BASES[kind]
    by_type: Any = config.get("rope_parameters") or {}
    known = isinstance(by_type, dict) and by_type.keys() <= BASES.keys()
    if not known or not all(each is None or isinstance(each, dict) for each in by_type.values()):
        config.refuse("rope_parameters", f"an object with the keys {' and '.join(BASES)}", by_type)
        return Rotary
    parameters = dict(by_type.get(kind) or {})
    scaling = config.get("rope_scaling")
    if kind == FULL and isinstance(scaling, dict):
        parameters |= scaling
    elif kind == FULL and scaling is not None:
        config.refuse("rope_scaling", "an object, or null", scaling)
    config.only("partial_rotary_factor", 1, 1.0)
    values = {
        "rope_theta": config.number(field, base),
        "rope_scaling" if kind == FULL and scaling else "rope_parameters": parameters,
        "max_position_embeddings": config.get("max_position_embeddings", 131072),
    }
    layer_config = HFConfig(values, f"{config.where}, {kind}")
    part = rotary(layer_config)
    config.problems += layer_config.problems
    return part


def _base(position: Any) -> dict[str, Any]:
    """Returns the field of `config.json` with the rotary base of sliding-window layers, as a dict.

    Étude writes the older format of configs, in which these layers have no scaling. `position` is
    the rotary position module of these layers.
    """
    return {BASES[SLIDING][0]: position.base}
