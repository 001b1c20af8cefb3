"""Small GGUF files as llama.cpp's conversion writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from etude.data.tokenizer import Tokenizer

INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Permutes rows as `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def name_of(name: str) -> str:
    """Returns llama.cpp's name of a released tensor."""
    path, _, kind = name.rpartition(".")
    if path in OUTER:
        return f"{OUTER[path]}.{kind}"
    _, _, layer, inner = path.split(".", 3)
    return f"blk.{layer}.{INNER[inner]}.{kind}"


def write_gguf(
    file: Path,
    model: Any,
    *,
    kind: Kind = Kind.F32,
    tokenizer: Tokenizer | None = None,
    architecture: str = "llama",
    pre: str = "gpt-2",
    end: int | None = None,
    **more: Any,
) -> Path:
    """Writes a model of `transformers`; matrices as `kind`, vectors in float32.

    Args:
        more: metadata below the architecture's name, or an array `rope_freqs`.
    """
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(model.model.layers[0].self_attn.head_dim)
    writer.add_key_length(model.model.layers[0].self_attn.head_dim)
    writer.add_vocab_size(config.vocab_size)
    factors = more.pop("rope_freqs", None)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for key, value in more.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add = writer.add_uint32 if isinstance(value, int) else add
        add(f"{architecture}.{key.replace('__', '.')}", value)
    if tokenizer is not None:
        put_tokenizer(writer, tokenizer, pre, end)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads
            values = permuted(values, heads if "q_proj" in name else config.num_key_value_heads)
        if values.ndim == 1 or kind == Kind.F32:
            writer.add_tensor(name_of(name), np.ascontiguousarray(values))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(values), kind)
            writer.add_tensor(name_of(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def put_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, pre: str, end: int | None) -> None:
    """Writes a byte-level tokenizer as metadata."""
    import json

    spec = json.loads(tokenizer.backend.to_str())
    vocabulary = tokenizer.backend.get_vocab()
    special = tokenizer.special_tokens()
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    writer.add_token_types([3 if name in special else 1 for name in names])
    writer.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
    if end is not None:
        writer.add_eos_token_id(end)


def rounded(model: Any, kind: Kind) -> dict[str, torch.Tensor]:
    """Returns the weights after quantisation and dequantisation, by released names."""
    found = {}
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if values.ndim == 2 and kind != Kind.F32:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        found[name] = torch.from_numpy(np.array(values, np.float32))
    return found
