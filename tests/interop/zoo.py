"""Small random models of `transformers` for each family and variant; every weight has an effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

V, D, H, G, L, F, MAX = 37, 24, 4, 2, 2, 40, 32
COMMON = {
    "vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H,
    "intermediate_size": F, "max_position_embeddings": MAX,
}  # fmt: skip
IDS = {"bos_token_id": 1, "eos_token_id": 2}


def randomised(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """Randomises a model: biases are not 0, norms not 1; shared tensors stay shared."""
    torch.manual_seed(0)
    # T5 does not scale its scores, so the float32 norms of `transformers` have a larger effect.
    std = 0.1 if isinstance(model, hf.T5ForConditionalGeneration) else 0.3
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # not Marian's sinusoids
                parameter.add_(std * torch.randn_like(parameter))
    return model.to(dtype).eval()


def gpt2(**more: Any) -> Any:
    size = {"vocab_size": V, "n_embd": D, "n_layer": L, "n_head": H, "n_positions": MAX}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**size, **IDS, **more}))


def gpt_neox(**more: Any) -> Any:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**{**COMMON, **IDS, **more}))


def llama(**more: Any) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**COMMON, "num_key_value_heads": G, **more}))


def qwen3(**more: Any) -> Any:
    size = {**COMMON, "num_key_value_heads": G, "head_dim": 8}
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**{**size, **more}))


def gemma3(**more: Any) -> Any:
    """Returns a model with 4-token windows in layers 0, 1 and 3; layer 2 has full attention."""
    layers = more.pop("num_hidden_layers", 4)
    types = (2 * LOCAL_GLOBAL)[:layers]
    size = {
        **COMMON, "num_hidden_layers": layers, "num_key_value_heads": G, "head_dim": 8,
        "query_pre_attn_scalar": 12, "sliding_window": 4, "layer_types": types,
        "pad_token_id": 0, **IDS,
    }  # fmt: skip
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**{**size, **more}))


LOCAL_GLOBAL = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]


def bert(cls: Any = hf.BertForMaskedLM, **more: Any) -> Any:
    return cls(hf.BertConfig(**{**COMMON, **more}))


def roberta(cls: Any = hf.RobertaForMaskedLM, **more: Any) -> Any:
    return cls(hf.RobertaConfig(**{**COMMON, **more}))


def t5(**more: Any) -> Any:
    size = {
        "vocab_size": V, "d_model": D, "d_kv": 8, "d_ff": F, "num_layers": L, "num_heads": H,
        "num_decoder_layers": 3, "decoder_start_token_id": 0,
    }  # fmt: skip
    return hf.T5ForConditionalGeneration(hf.T5Config(**{**size, **more}))


def marian(**more: Any) -> Any:
    size = {
        "vocab_size": V, "d_model": D, "encoder_layers": L, "decoder_layers": 3,
        "encoder_attention_heads": H, "decoder_attention_heads": H, "encoder_ffn_dim": F,
        "decoder_ffn_dim": F, "max_position_embeddings": MAX, "pad_token_id": V - 1,
        "decoder_start_token_id": V - 1, "scale_embedding": True,
    }  # fmt: skip
    model = hf.MarianMTModel(hf.MarianConfig(**{**size, **more}))
    model.final_logits_bias.normal_()
    return model


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}

DECODERS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "gpt2 untied, exact gelu": lambda: gpt2(
        tie_word_embeddings=False, activation_function="gelu", n_inner=F, layer_norm_epsilon=1e-3
    ),
    "gpt2 relu": lambda: gpt2(activation_function="relu"),
    "gpt2 silu, unscaled": lambda: gpt2(activation_function="silu", scale_attn_weights=False),
    "gpt_neox": lambda: gpt_neox(rotary_pct=0.34),
    "gpt_neox serial, whole, tied": lambda: gpt_neox(
        use_parallel_residual=False, rotary_pct=1.0, tie_word_embeddings=True
    ),
    "gpt_neox no attention bias": lambda: gpt_neox(
        attention_bias=False, rotary_pct=0.67, hidden_act="gelu_new", rotary_emb_base=500
    ),
    "llama": llama,
    "llama tied, biased": lambda: llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3
    ),
    "llama all heads, wide": lambda: llama(num_key_value_heads=H, head_dim=10),
    "llama linear": lambda: llama(rope_parameters=LINEAR),
    "llama llama3": lambda: llama(rope_parameters=LLAMA3, hidden_act="gelu"),
    "qwen3": qwen3,
    "qwen3 tied, biased": lambda: qwen3(tie_word_embeddings=True, attention_bias=True),
    "qwen3 theta": lambda: qwen3(rope_parameters={"rope_type": "default", "rope_theta": 77.0}),
    "gemma3": gemma3,
    "gemma3 untied, biased, capped": lambda: gemma3(
        tie_word_embeddings=False,
        attention_bias=True,
        final_logit_softcapping=3.0,
        rms_norm_eps=1e-3,
        hidden_activation="silu",
    ),
    "gemma3 all windows": lambda: gemma3(layer_types=["sliding_attention"] * 4, sliding_window=2),
    "gemma3 no windows": lambda: gemma3(layer_types=["full_attention"] * 4),
    "gemma3 scaled": lambda: gemma3(
        rope_parameters={
            "full_attention": LINEAR,
            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
        },
        layer_types=None,
        sliding_window_pattern=2,
    ),
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": bert,
    "bert body": lambda: bert(hf.BertModel, hidden_act="relu", type_vocab_size=3),
    "bert pretraining": lambda: bert(hf.BertForPreTraining),
    "bert classes": lambda: bert(hf.BertForSequenceClassification, num_labels=3),
    "bert tags": lambda: bert(hf.BertForTokenClassification, num_labels=5),
    "bert answers": lambda: bert(hf.BertForQuestionAnswering),
    "roberta": lambda: roberta(type_vocab_size=1, layer_norm_eps=1e-5),
    "roberta body": lambda: roberta(hf.RobertaModel),
    "roberta classes": lambda: roberta(hf.RobertaForSequenceClassification, num_labels=3),
    "roberta answers": lambda: roberta(hf.RobertaForQuestionAnswering),
    "roberta tags": lambda: roberta(hf.RobertaForTokenClassification, hidden_act="gelu_new"),
}
PAIRS: dict[str, Callable[[], Any]] = {
    "t5": t5,
    "t5 1.1": lambda: untied(t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "t5 gated silu": lambda: t5(feed_forward_proj="gated-silu", relative_attention_num_buckets=8,
                                relative_attention_max_distance=20),
    "marian": marian,
    "marian swish, unscaled": lambda: marian(activation_function="swish", scale_embedding=False),
    "marian relu": lambda: marian(activation_function="relu", encoder_layers=1),
}  # fmt: skip
ALL = {**DECODERS, **ENCODERS, **PAIRS}


def untied(model: Any) -> Any:
    """Adds T5 1.1's separate projection, which `transformers` 5 ties in a new model."""
    model.lm_head.weight = nn.Parameter(torch.randn(V, D))
    model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model
