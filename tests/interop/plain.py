"""Llama, Qwen3, Gemma 3, GPT-NeoX and T5 as plain functions of the released tensors, in float64.

Unlike in `transformers`, no norm, angle or softmax is computed in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

W = dict[str, Tensor]


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def frequencies(width: int, rope: dict[str, Any]) -> list[float]:
    """Computes the frequency of each plane by the published rules."""
    found = []
    for i in range(width // 2):
        f = rope["rope_theta"] ** (-2 * i / width)
        if rope["rope_type"] == "linear":
            f /= rope["factor"]
        if rope["rope_type"] == "llama3":
            wavelength, old = 2 * math.pi / f, rope["original_max_position_embeddings"]
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            if wavelength > old / low:
                f /= rope["factor"]
            elif wavelength > old / high:
                smooth = (old / wavelength - low) / (high - low)
                f = (1 - smooth) * f / rope["factor"] + smooth * f
        found.append(f)
    return found


def turned(x: Tensor, f: list[float]) -> Tensor:
    """Rotates the first 2 len(f) coordinates of x (B, H, T, K) pair by pair."""
    y, n = x.clone(), len(f)
    for t in range(x.shape[2]):
        for i, each in enumerate(f):
            c, s = math.cos(t * each), math.sin(t * each)
            a, b = x[:, :, t, i], x[:, :, t, i + n]
            y[:, :, t, i], y[:, :, t, i + n] = a * c - b * s, b * c + a * s
    return y


def heads(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | float = 0.0,
           causal: bool = True) -> Tensor:  # fmt: skip
    times = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    scores = q @ k.mT * scale + bias
    if causal:
        scores = scores.masked_fill(torch.ones(q.shape[2], k.shape[2]).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def llama(w: W, c: Any, ids: Tensor) -> Tensor:
    """Computes Llama's logits, and Qwen3's, which normalises queries and keys."""

    def project(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    act = {"silu": F.silu, "gelu": F.gelu}[c.hidden_act]
    K, eps = c.head_dim, c.rms_norm_eps
    f = frequencies(K, c.rope_parameters)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c.num_hidden_layers):
        p = f"model.layers.{i}."
        h = rms(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (project(h, f"{p}self_attn.{n}_proj") for n in "qkv")
        q, k = heads(q, c.num_attention_heads), heads(k, c.num_key_value_heads)
        if p + "self_attn.q_norm.weight" in w:
            q = rms(q, w[p + "self_attn.q_norm.weight"], eps)
            k = rms(k, w[p + "self_attn.k_norm.weight"], eps)
        y = attend(turned(q, f), turned(k, f), heads(v, c.num_key_value_heads), K**-0.5)
        x = x + project(y, p + "self_attn.o_proj")
        h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
        h = act(project(h, p + "mlp.gate_proj")) * project(h, p + "mlp.up_proj")
        x = x + project(h, p + "mlp.down_proj")
    out = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(x, w["model.norm.weight"], eps) @ out.T


def gemma3(w: W, c: Any, ids: Tensor) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return rms(x, 1 + w[name + ".weight"], c.rms_norm_eps)

    def act(x: Tensor) -> Tensor:
        return F.silu(x) if c.hidden_activation == "silu" else F.gelu(x, approximate="tanh")

    H, G, T = c.num_attention_heads, c.num_key_value_heads, ids.shape[1]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    root = torch.tensor(c.hidden_size**0.5, dtype=torch.float32).double()  # as it is stored
    x = w["model.embed_tokens.weight"][ids] * root
    for i, kind in enumerate(c.layer_types):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q, k, v = (project(h, f"{p}self_attn.{n}_proj") for n in "qkv")
        q, k = norm(heads(q, H), p + "self_attn.q_norm"), norm(heads(k, G), p + "self_attn.k_norm")
        f = frequencies(c.head_dim, c.rope_parameters[kind])
        far = (distance >= c.sliding_window) & (kind == "sliding_attention")
        bias = torch.zeros(T, T).double().masked_fill(far, -math.inf)
        scale = c.query_pre_attn_scalar**-0.5
        y = project(
            attend(turned(q, f), turned(k, f), heads(v, G), scale, bias), p + "self_attn.o_proj"
        )
        x = x + norm(y, p + "post_attention_layernorm")
        h = norm(x, p + "pre_feedforward_layernorm")
        h = act(project(h, p + "mlp.gate_proj")) * project(h, p + "mlp.up_proj")
        x = x + norm(project(h, p + "mlp.down_proj"), p + "post_feedforward_layernorm")
    out = norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    cap = c.final_logit_softcapping
    return out if cap is None else cap * (out / cap).tanh()


def gpt_neox(w: W, c: Any, ids: Tensor) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], c.layer_norm_eps
        )

    K = c.hidden_size // c.num_attention_heads
    f = frequencies(int(K * c.rope_parameters["partial_rotary_factor"]), c.rope_parameters)
    tanh = c.hidden_act == "gelu_new"
    x = w["gpt_neox.embed_in.weight"][ids]
    for i in range(c.num_hidden_layers):
        p = f"gpt_neox.layers.{i}."
        qkv = project(norm(x, p + "input_layernorm"), p + "attention.query_key_value")
        q, k, v = heads(qkv, c.num_attention_heads).split(K, -1)  # head by head
        y = project(attend(turned(q, f), turned(k, f), v, K**-0.5), p + "attention.dense")
        h = norm(x if c.use_parallel_residual else x + y, p + "post_attention_layernorm")
        h = F.gelu(project(h, p + "mlp.dense_h_to_4h"), approximate="tanh" if tanh else "none")
        x = x + y + project(h, p + "mlp.dense_4h_to_h")
    out = w.get("embed_out.weight", w.get("lm_head.weight", w["gpt_neox.embed_in.weight"]))
    return norm(x, "gpt_neox.final_layer_norm") @ out.T


def bucket(distance: int, buckets: int, longest: int, both: bool) -> int:
    """Computes the bucket of one distance key - query (Raffel et al. 2019, section 2.1)."""
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    far = math.log(distance / exact) / math.log(longest / exact) * (buckets - exact)
    return first + min(exact + int(far), buckets - 1)


def t5(w: W, c: Any, ids: Tensor, target: Tensor) -> Tensor:
    eps, H = c.layer_norm_epsilon, c.num_heads
    gelu = {"gelu_new": lambda x: F.gelu(x, approximate="tanh")}
    act = {"relu": F.relu, "silu": F.silu, **gelu}[c.dense_act_fn]

    def attention(x: Tensor, memory: Tensor, p: str, bias: Any, causal: bool) -> Tensor:
        q = heads(x @ w[p + "q.weight"].T, H)
        k, v = (heads(memory @ w[f"{p}{n}.weight"].T, H) for n in "kv")
        return attend(q, k, v, 1.0, bias, causal) @ w[p + "o.weight"].T

    def stack(name: str, tokens: Tensor, memory: Tensor | None) -> Tensor:
        both = memory is None
        table = w[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        T = tokens.shape[1]
        numbers = (c.relative_attention_num_buckets, c.relative_attention_max_distance, both)
        rows = [[bucket(j - i, *numbers) for j in range(T)] for i in range(T)]
        bias = table[torch.tensor(rows)].permute(2, 0, 1)
        x = w["shared.weight"][tokens]
        for i in range(c.num_layers if both else c.num_decoder_layers):
            p = f"{name}.block.{i}.layer."
            h = rms(x, w[p + "0.layer_norm.weight"], eps)
            x = x + attention(h, h, p + "0.SelfAttention.", bias, not both)
            if memory is not None:
                h = rms(x, w[p + "1.layer_norm.weight"], eps)
                x = x + attention(h, memory, p + "1.EncDecAttention.", 0.0, False)
            p += "1." if both else "2."
            h = rms(x, w[p + "layer_norm.weight"], eps)
            p += "DenseReluDense."
            if c.is_gated_act:
                h = act(h @ w[p + "wi_0.weight"].T) * (h @ w[p + "wi_1.weight"].T)
            else:
                h = act(h @ w[p + "wi.weight"].T)
            x = x + h @ w[p + "wo.weight"].T
        return rms(x, w[f"{name}.final_layer_norm.weight"], eps)

    x = stack("decoder", target, stack("encoder", ids, None))
    x = x * c.d_model**-0.5 if c.scale_decoder_outputs else x
    return x @ w.get("lm_head.weight", w["shared.weight"]).T


PLAIN = {"llama": llama, "qwen3": llama, "gemma3_text": gemma3, "gpt_neox": gpt_neox, "t5": t5}
