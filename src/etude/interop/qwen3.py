"""Conversion of Qwen3 checkpoints (Yang et al. 2025, arXiv:2505.09388) to and from Étude.

Only the dense models are supported.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from etude.interop.hf_config import HFConfig
from etude.interop.llama import NAMES, LlamaFamily
from etude.interop.rules import Same


class Qwen3Family(LlamaFamily):
    """Conversion of the Qwen3 family: Llama with normalised queries and keys, and a head dimension
    that the config sets.
    """

    model_type = "qwen3"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM", "Qwen3Model")
    bodies = ("Qwen3Model",)
    names: ClassVar = {
        **NAMES,
        "blocks.{i}.attention.q_norm": Same("model.layers.{i}.self_attn.q_norm"),
        "blocks.{i}.attention.k_norm": Same("model.layers.{i}.self_attn.k_norm"),
    }
    ignored_fields: ClassVar[tuple[str, ...]] = ("attention_dropout", "max_window_layers")

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        config.only("use_sliding_window", False)
        config.get("sliding_window")  # without effect if use_sliding_window is false
        types = config.get("layer_types", [])
        if any(each != "full_attention" for each in types):
            config.refuse("layer_types", "full_attention for each layer", types)
        config.only("mlp_bias", False)
        arguments = super().arguments(config, architecture)
        sizes = {
            "vocab_size": ("vocab_size", 151936),
            "head_dim": ("head_dim", 128),
            "max_length": ("max_position_embeddings", 32768),
        }
        arguments |= {ours: config.size(*theirs) for ours, theirs in sizes.items()}
        arguments["feedforward"].keywords["hidden"] = config.size("intermediate_size", 22016)
        arguments["attention"] = partial(
            arguments["attention"],
            kv_heads=config.size("num_key_value_heads", 32),
            qk_norm=True,
            qk_norm_eps=config.number("rms_norm_eps", 1e-6),
        )
        return arguments

    def config(self, module: Any) -> dict[str, Any]:
        fields = super().config(module)
        del fields["mlp_bias"]  # Qwen3 configs have no such field
        return fields
