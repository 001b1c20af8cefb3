"""Models of `transformers`, and ours with the same weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import transformers as hf
from torch import nn

from etude.interop.pretrained import load_weights, save_weights

IDS = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
"""Nothing ends a text, so that all are as long as they may be."""
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def ours(theirs: Any) -> Any:
    """Our module with the weights of a model of `transformers`, evaluating."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return load_weights(Path(folder)).module


def as_gpt2(module: nn.Module, **config: Any) -> Any:
    """`GPT2LMHeadModel` with the weights of our module, without dropout, at the fastest settings
    we know of; `config` says otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_weights(module, Path(folder))
        settings = {**NO_DROPOUT, **IDS, "use_cache": False, "attn_implementation": "sdpa"}
        return hf.GPT2LMHeadModel.from_pretrained(folder, **settings, **config)


def gpt2(
    *, layers: int, heads: int, dim: int, vocab_size: int, max_length: int, tied: bool = True
) -> Any:
    """`GPT2LMHeadModel`, evaluating; with the exact GELU, its fastest (see `training.NOTES`)."""
    config = hf.GPT2Config(
        vocab_size=vocab_size, n_positions=max_length, n_embd=dim, n_layer=layers, n_head=heads,
        activation_function="gelu", tie_word_embeddings=tied, attn_implementation="sdpa",
        **NO_DROPOUT, **IDS,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config).eval()


def llama(
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    dim: int,
    hidden: int,
    vocab_size: int,
    max_length: int,
    tied: bool = True,
) -> Any:
    """`LlamaForCausalLM`, evaluating."""
    config = hf.LlamaConfig(
        vocab_size=vocab_size, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        max_position_embeddings=max_length, attn_implementation="sdpa", **IDS,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config).eval()


def t5(
    *,
    layers: int,
    heads: int,
    dim: int,
    head_dim: int,
    hidden: int,
    vocab_size: int,
    tied: bool = True,
) -> Any:
    """`T5ForConditionalGeneration`, evaluating."""
    config = hf.T5Config(
        vocab_size=vocab_size, d_model=dim, d_kv=head_dim, d_ff=hidden, num_layers=layers,
        num_heads=heads, dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=tied,
        **IDS,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config).eval()


def bert(*, layers: int, heads: int, dim: int, vocab_size: int, max_length: int) -> Any:
    """`BertForMaskedLM`, evaluating."""
    config = hf.BertConfig(
        vocab_size=vocab_size, hidden_size=dim, intermediate_size=4 * dim,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=max_length,
        attn_implementation="sdpa",
    )  # fmt: skip
    return hf.BertForMaskedLM(config).eval()


SIZES: dict[str, tuple[Any, dict[str, int]]] = {
    "GPT-2": (
        gpt2,
        {"layers": 12, "heads": 12, "dim": 768, "vocab_size": 50257, "max_length": 1024},
    ),
    "BERT-base": (
        bert,
        {"layers": 12, "heads": 12, "dim": 768, "vocab_size": 30522, "max_length": 512},
    ),
    "T5-small": (
        t5,
        {"layers": 6, "heads": 8, "dim": 512, "head_dim": 64, "hidden": 2048, "vocab_size": 32128},
    ),
    "SmolLM2-135M": (
        llama,
        {
            "layers": 30, "heads": 9, "kv_heads": 3, "dim": 576, "hidden": 1536,
            "vocab_size": 49152, "max_length": 2048,
        },
    ),
}  # fmt: skip
"""Builders and the released shapes."""
