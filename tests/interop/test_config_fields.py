"""Every changed config field of every family gives `transformers`' logits, or an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import zoo
from torch import Tensor

from etude.errors import RequestError
from etude.interop.family_registry import FAMILIES, family_of
from etude.interop.hf_config import ALLOWED, INERT, HFConfig
from etude.interop.pretrained import load_weights
from etude.interop.rope import rotary

IDS = torch.randint(3, 30, (3, 11), generator=torch.Generator().manual_seed(1))
TARGET = torch.randint(3, 30, (3, 7), generator=torch.Generator().manual_seed(2))
SMALL: dict[str, Callable[..., Any]] = {
    "gpt2": zoo.gpt2,
    "gpt_neox": zoo.gpt_neox,
    "llama": zoo.llama,
    "qwen3": zoo.qwen3,
    "gemma3_text": zoo.gemma3,
    "bert": zoo.bert,
    "roberta": zoo.roberta,
    "t5": zoo.t5,
    "marian": zoo.marian,
}
BASE: dict[str, dict[str, Any]] = {"gpt_neox": {"rotary_pct": 0.34}}
SCALED = [
    {"rope_type": "default", "rope_theta": 77.0},
    zoo.LINEAR,
    zoo.LLAMA3,
    {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 8.0},
    {**zoo.LINEAR, "attention_factor": 2.0},
    {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.67},
    {"full_attention": {"rope_type": "default", "rope_theta": 77.0}},
    {"full_attention": zoo.LLAMA3, "sliding_attention": zoo.LINEAR},
    {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    {"sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
]
VALUES: dict[str, list[Any]] = {
    "hidden_act": ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "gelu_10",
                   "gelu_accurate", "relu", "relu2", "relu6", "silu", "swish", "quick_gelu", "mish",
                   "tanh", "sigmoid", "linear", "leaky_relu", "laplace"],
    "feed_forward_proj": ["gelu", "gelu_new", "relu", "silu", "gated-gelu", "gated-relu",
                          "gated-silu", "gated-gelu_new", "tanh"],
    "dense_act_fn": ["gelu", "relu", "silu"],
    "rope_parameters": SCALED,
    "rope_scaling": [{**each, "type": each.get("rope_type")} for each in SCALED],
    "position_embedding_type": ["relative_key", "relative_key_query"],
    "dtype": ["float32"], "torch_dtype": ["float32"],
    "problem_type": ["regression", "single_label_classification"],
    "id2label": [{"0": "a", "1": "b", "2": "c"}],
    "label2id": [{"a": 0, "b": 1, "c": 2}],
    "layer_types": [
        ["full_attention", "sliding_attention"],
        ["full_attention", "sliding_attention"] * 2,
        ["full_attention", "chunked_attention"] * 2,
    ],
    "sliding_window_pattern": [1, 2, 3], "_sliding_window_pattern": [1, 2, 3],
    "query_pre_attn_scalar": [1, 30], "final_logit_softcapping": [2.0],
    "rope_local_base_freq": [77.0], "use_bidirectional_attention": [True, False],
    "cache_implementation": ["hybrid"],
    "sliding_window": [3], "max_window_layers": [0, 1],
    "per_layer_config": [{"0": {"hidden_act": "relu"}}, {"0": {"activation_function": "relu"}}],
    "pruned_heads": [{"0": [1]}],
    "num_key_value_heads": [1, 2, 4],
    "num_attention_heads": [2, 3], "n_head": [2, 3], "num_heads": [2, 3],
    "encoder_attention_heads": [2], "decoder_attention_heads": [2],
    "hidden_size": [32], "n_embd": [32], "d_model": [32], "head_dim": [4, 10], "d_kv": [4, 10],
    "rotary_pct": [0.67, 1.0], "partial_rotary_factor": [0.67, 1.0],
    "rope_theta": [77.0], "rotary_emb_base": [77], "attention_dropout": [0.5],
    "architectures": [["SomeOtherModel"]],
    "summary_type": ["mean"],
    "initializer_range": [0.05], "initializer_factor": [0.5], "init_std": [0.05],
    "pad_token_id": [0, 33], "bos_token_id": [4], "eos_token_id": [7, [7, 8]],
    "decoder_start_token_id": [3], "forced_eos_token_id": [3],
    "is_encoder_decoder": [True, False],
    "model_type": [], "transformers_version": ["4.0.0"], "_name_or_path": ["x"],
    "use_sliding_window": [True],
    "decoder_vocab_size": [40], "vocab_size": [41], "type_vocab_size": [1, 5],
    "_attn_implementation": ["eager"], "attn_implementation": ["eager"],
    "decoder_layers": [1], "encoder_layers": [1], "num_hidden_layers": [1, 3],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}],
    "mlp_bias": [True], "tie_word_embeddings": [True, False],
}  # fmt: skip
VALUES["activation_function"] = VALUES["hidden_activation"] = VALUES["hidden_act"]
MEANS = {
    "is_gated_act": "DenseReluDense", "relative_attention_num_buckets": "buckets",
    "encoder_attention_heads": "decoder_attention_heads", "encoder_ffn_dim": "decoder_ffn_dim",
    "num_attention_heads": "heads", "tie_word_embeddings": "one tensor for these two names",
    "partial_rotary_factor": "fraction", "rotary_pct": "fraction",
}  # fmt: skip
"""Alternative names in messages: the other of two fields that must agree, or our argument."""
MORE = ("attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "layer_types",
        "rope_scaling", "rope_theta", "rotary_pct", "rotary_emb_base", "partial_rotary_factor",
        "scale_attn_by_inverse_layer_idx", "normalize_before", "normalize_embedding",
        "static_position_embeddings", "extra_pos_embeddings", "add_final_layer_norm",
        "n_ctx", "gated_attention", "attention_scale", "logit_scale")  # fmt: skip
"""Further fields, of released configs or of other families."""


def names(family: str) -> list[str]:
    """Returns the fields in `transformers`, their older names, and those in our tables."""
    config = hf.AutoConfig.for_model(family)
    stated = {*config.to_dict(), *type(config).attribute_map, *MORE}
    return sorted({*stated, *INERT, *ALLOWED, *FAMILIES[family].ignored_fields})


def values(field: str, now: Any) -> list[Any]:
    if field in VALUES:  # copies, since `transformers` modifies its arguments
        return [deepcopy(value) for value in VALUES[field] if value != now]
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, int):
        return [now + 1, 2 * now + 2]
    if isinstance(now, float):
        return [now / 2 + 0.1, now * 5]
    return [True, 2, 0.5, "x", [1], {"a": 1}]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        if hasattr(model, "config"):
            pair = {"decoder_input_ids": TARGET} if hasattr(model, "get_decoder") else {}
            pair = pair if model.config.model_type in ("t5", "marian") else {}
            return model.eval()(input_ids=IDS, **pair).logits
        return model(IDS, TARGET) if hasattr(model, "decoder") else model(IDS)


def outcome(family: str, field: str, value: Any, folder: Path) -> str:
    """Returns the outcome of loading a model that `transformers` builds with a field's value."""
    try:
        made = SMALL[family](**{**BASE.get(family, {}), field: value})
        theirs = zoo.randomised(made, torch.float32)
        expected = logits(theirs)
        theirs.save_pretrained(folder)
    except Exception as error:
        return f"transformers: {type(error).__name__} {error}"
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.setdefault(field, value)  # a field that `transformers` reads but does not write
    file.write_text(json.dumps(config))
    try:
        ours = logits(load_weights(folder).module)
    except RequestError as error:
        is_named = any(name in str(error) for name in (field, MEANS.get(field, field)))
        return "refused" if is_named else f"refused otherwise: {error}"
    return "equal" if torch.allclose(ours, expected, rtol=1e-4, atol=1e-4) else "other logits"


QUICK = ("rope_parameters", "layer_types", "num_key_value_heads",
         "per_layer_config", "scale_attn_by_inverse_layer_idx", "use_cache")  # fmt: skip
UNABLE = {"add_cross_attention", "is_encoder_decoder", "layer_types", "model_type",
          "output_attentions", "per_layer_config", "return_dict", "use_return_dict"}  # fmt: skip
"""Fields with which `transformers` builds no model, or none that returns logits by name.

Those with an effect raise an error: see `ALLOWED`.
"""


def check(family: str, fields: list[str], folder: Path) -> set[str]:
    """Tries all values of the fields; returns those with which `transformers` builds no model."""
    base = SMALL[family](**BASE.get(family, {})).config
    unable, wrong = set(), []
    for field in fields:
        found = {}
        for i, value in enumerate(values(field, getattr(base, field, None))):
            found[str(value)] = outcome(family, field, value, folder / f"{field}-{i}")
            shutil.rmtree(folder / f"{field}-{i}", ignore_errors=True)
        tried = [each for each in found.values() if not each.startswith("transformers:")]
        if not tried:
            unable.add(field)
        wrong += [f"{field} = {value}: {each}" for value, each in found.items()
                  if each in tried and each not in ("equal", "refused")]  # fmt: skip
    assert not wrong, "\n".join(wrong)
    return unable


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_some_fields_changed(family: str, tmp_path: Path) -> None:
    check(family, [field for field in QUICK if family == "llama" or "_attn_" in field], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALL)
def test_every_field_changed(family: str, tmp_path: Path) -> None:
    """Each field gives the same logits as in `transformers`, or an error."""
    assert check(family, names(family), tmp_path) <= UNABLE


def test_a_field_that_is_not_known_may_only_be_off() -> None:
    for value in (None, False, {}, [], ""):
        HFConfig({"new_part": value}, "config.json").done()
    for value in (True, 0, 1.5, "on", [0], {"a": None}):
        with pytest.raises(RequestError, match=r"config.json, new_part = .*: expected a field"):
            HFConfig({"new_part": value}, "config.json").done()
    config = HFConfig({"model_type": "llama", "rms_norm_epsilon": 1e-5}, "config.json")
    with pytest.raises(RequestError, match=r"rms_norm_epsilon = 1e-05: .*mean rms_norm_eps"):
        FAMILIES["llama"].build(config, "LlamaForCausalLM")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rope_theta": None},
        {"rope_theta": 10000},
        {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
        {"rope_parameters": {"rope_theta": 10000.0}},
    ],
)
def test_a_base_of_null_is_the_usual_one(fields: dict[str, Any]) -> None:
    part: Any = rotary(HFConfig(fields, "config.json"))
    assert part.keywords["base"] == 10000.0


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gpt2", {"n_layer": 2, "num_hidden_layers": 3}),
        ("gpt2", {"hidden_size": 32}),
        ("t5", {"d_kv": 8, "head_dim": 16}),
        ("marian", {"encoder_layers": 2, "num_hidden_layers": 6}),
        ("gpt_neox", {"rotary_pct": 0.25, "partial_rotary_factor": 1.0}),
        ("gpt_neox", {"rope_theta": 500.0}),
    ],
)
def test_two_names_of_one_field_that_differ(family: str, fields: dict[str, Any]) -> None:
    kind = FAMILIES[family]
    other = list(fields)[-1]
    with pytest.raises(RequestError, match=f"{other} = .*: expected the value of"):
        kind.build(HFConfig({"model_type": family, **fields}, "config.json"), kind.architectures[0])


RELEASED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "released_configs.json").read_text()
)


@pytest.mark.parametrize("name", RELEASED)
def test_the_configs_of_released_models_are_read(name: str) -> None:
    """Reads configs from the Hub, with fields of older versions of `transformers`."""
    config = HFConfig(dict(RELEASED[name]), "config.json")
    family = family_of(config)
    family.adjust_config(config, None)
    family.build(config, family.architecture(config, None))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_that_transformers_knows_is_known(name: str) -> None:
    config = hf.AutoConfig.for_model(name).to_dict()
    family = FAMILIES[name]
    reading = HFConfig(config, "config.json")
    for architecture in family.architectures:
        family.adjust_config(reading, None)
        family.build(reading, architecture)
    assert {*config} <= {*reading.seen, *INERT, *ALLOWED}
