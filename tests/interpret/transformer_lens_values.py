"""Writes `transformer_lens.json`: values of TransformerLens for a GPT-2 with known random weights.

Needs `pip install "transformer_lens<3"` (2.18.0), which is no dependency of the tests:
`python transformer_lens_values.py` in an environment of its own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

SIZES = {"layers": 2, "heads": 4, "dim": 32, "vocab": 50, "length": 64}
TOKENS = 20
FILE = Path(__file__).with_name("transformer_lens.json")


def weights() -> dict[str, torch.Tensor]:
    """Random weights under the names of `transformers`, drawn in the order of their names."""
    D, V, T = SIZES["dim"], SIZES["vocab"], SIZES["length"]
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, D), "wpe.weight": (T, D)}
    for i in range(SIZES["layers"]):
        h = f"h.{i}."
        shapes |= {
            f"{h}ln_1.weight": (D,), f"{h}ln_1.bias": (D,), f"{h}ln_2.weight": (D,),
            f"{h}ln_2.bias": (D,), f"{h}attn.c_attn.weight": (D, 3 * D),
            f"{h}attn.c_attn.bias": (3 * D,), f"{h}attn.c_proj.weight": (D, D),
            f"{h}attn.c_proj.bias": (D,), f"{h}mlp.c_fc.weight": (D, 4 * D),
            f"{h}mlp.c_fc.bias": (4 * D,), f"{h}mlp.c_proj.weight": (4 * D, D),
            f"{h}mlp.c_proj.bias": (D,),
        }  # fmt: skip
    shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name in sorted(shapes):
        noise = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
        scale = 1.0 if len(shapes[name]) == 1 or name.startswith("w") else 2.0
        drawn[name] = scale * noise / math.sqrt(D) + ("ln" in name and name.endswith("weight"))
    return drawn


def repeated() -> torch.Tensor:
    """Random tokens, each sequence twice in a row."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(SIZES["vocab"], (8, TOKENS), generator=generator).repeat(1, 2)


def main() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    D, H = SIZES["dim"], SIZES["heads"]
    config = HookedTransformerConfig(
        n_layers=SIZES["layers"], d_model=D, n_ctx=SIZES["length"], d_head=D // H, n_heads=H,
        d_mlp=4 * D, d_vocab=SIZES["vocab"], act_fn="gelu_new", normalization_type="LN",
        dtype=torch.float64, default_prepend_bos=False,
    )  # fmt: skip
    model = HookedTransformer(config).to(torch.float64)
    state = model.state_dict()
    ours = weights()
    state["embed.W_E"], state["pos_embed.W_pos"] = ours["wte.weight"], ours["wpe.weight"]
    state["unembed.W_U"] = ours["wte.weight"].T.clone()
    state["unembed.b_U"] = torch.zeros(SIZES["vocab"], dtype=torch.float64)
    state["ln_final.w"], state["ln_final.b"] = ours["ln_f.weight"], ours["ln_f.bias"]
    for i in range(SIZES["layers"]):
        h, b = f"h.{i}.", f"blocks.{i}."
        for k in ("1", "2"):
            state[f"{b}ln{k}.w"] = ours[f"{h}ln_{k}.weight"]
            state[f"{b}ln{k}.b"] = ours[f"{h}ln_{k}.bias"]
        qkv = ours[f"{h}attn.c_attn.weight"].split(D, dim=1)
        biases = ours[f"{h}attn.c_attn.bias"].split(D)
        for name, weight, bias in zip("QKV", qkv, biases, strict=True):
            state[f"{b}attn.W_{name}"] = weight.unflatten(1, (H, -1)).transpose(0, 1)
            state[f"{b}attn.b_{name}"] = bias.unflatten(0, (H, -1))
        state[f"{b}attn.W_O"] = ours[f"{h}attn.c_proj.weight"].unflatten(0, (H, -1))
        state[f"{b}attn.b_O"] = ours[f"{h}attn.c_proj.bias"]
        state[f"{b}mlp.W_in"] = ours[f"{h}mlp.c_fc.weight"]
        state[f"{b}mlp.b_in"] = ours[f"{h}mlp.c_fc.bias"]
        state[f"{b}mlp.W_out"] = ours[f"{h}mlp.c_proj.weight"]
        state[f"{b}mlp.b_out"] = ours[f"{h}mlp.c_proj.bias"]
    model.load_state_dict(state)
    tokens = repeated()
    logits, cache = model.run_with_cache(tokens)
    values: dict[str, object] = {"logits": logits[0, -1].tolist()}

    def diagonal(offset: int, first: int) -> list[list[float]]:
        patterns = [cache["pattern", i] for i in range(config.n_layers)]
        return [
            p.diagonal(-offset, -2, -1)[..., first - offset :].mean((0, 2)).tolist()
            for p in patterns
        ]

    values["induction"] = diagonal(TOKENS - 1, TOKENS)
    values["duplicate"] = diagonal(TOKENS, TOKENS)
    values["previous"] = diagonal(1, 1)
    # logit lens, and direct logit attribution of the last token of the first sequence
    stream = [cache["resid_pre", 0], *(cache["resid_post", i] for i in range(config.n_layers))]
    values["lens"] = [model.unembed(model.ln_final(x))[0, -1].tolist() for x in stream]
    target = int(logits[0, -1].argmax())
    values["target"] = target
    stack, names = cache.get_full_resid_decomposition(
        layer=-1, pos_slice=-1, expand_neurons=False, return_labels=True
    )
    scaled = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
    direction = model.W_U[:, target]
    contributions = (scaled[:, 0] * model.ln_final.w) @ direction
    values["attribution"] = dict(zip(names, contributions.tolist(), strict=True))
    values["copying"] = [
        [
            float(e.sum().real / e.abs().sum())
            for e in (
                torch.linalg.eigvals(
                    model.W_E
                    @ model.blocks[i].attn.W_V[h]
                    @ model.blocks[i].attn.W_O[h]
                    @ model.W_U
                )
                for h in range(H)
            )
        ]
        for i in range(config.n_layers)
    ]
    clean, corrupted = tokens[:2], tokens[2:4]
    _, clean_cache = model.run_with_cache(clean)

    def metric(each: torch.Tensor) -> torch.Tensor:
        return each[:, -1, 3].mean()

    patched = get_act_patch_attn_head_out_all_pos(model, corrupted, clean_cache, metric)
    values["patching"] = patched.tolist()
    FILE.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
