"""Invalid weights and configs: one message names the first mismatches."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import zoo
from safetensors.torch import load_file, save_file
from zoo import bert, gpt2, llama, qwen3, randomised, t5

from etude.errors import RequestError
from etude.interop.pretrained import load_weights, save_weights
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELUTanh, SquaredReLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import ALiBi, Learned

WEIGHTS = "model.safetensors"


def saved(folder: Path, make: Callable[[], Any] = gpt2) -> Path:
    randomised(make()).save_pretrained(folder)
    return folder


def change(folder: Path, **fields: Any) -> None:
    """Sets fields of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        load_weights(folder, **options)
    text = str(caught.value)
    assert len(text.splitlines()) <= 7
    return text


def test_missing_extra_and_misshapen_tensors(tmp_path):
    def edit(weights):
        del weights["transformer.h.1.ln_1.bias"]
        weights["transformer.h.0.mlp.c_fc.weight"] = torch.zeros(3, 4)
        weights["transformer.h.7.ln_1.bias"] = torch.zeros(3)

    change_weights(saved(tmp_path), edit)
    text = refused(tmp_path)
    assert "transformer.h.0.mlp.c_fc.weight = '3 x 4': expected the shape 24 x 96" in text
    assert "transformer.h.1.ln_1.bias: expected a tensor of shape 24" in text
    assert "transformer.h.7.ln_1.bias: expected no such tensor in the gpt2 model" in text


def test_a_wrong_vocabulary(tmp_path):
    change(saved(tmp_path), vocab_size=38)
    text = refused(tmp_path)
    assert "wte.weight = '37 x 24'" in text
    assert "vocab_size in config.json is 38" in text


def test_another_architecture(tmp_path):
    randomised(bert()).save_pretrained(tmp_path / "bert")
    saved(tmp_path / "gpt2")
    (tmp_path / "bert" / WEIGHTS).replace(tmp_path / "gpt2" / WEIGHTS)
    text = refused(tmp_path / "gpt2")
    assert "tensors are missing; the tensor names are those of a bert model)" in text
    assert "missing" in text


def test_a_projection_that_should_be_the_embedding(tmp_path):
    saved(tmp_path, lambda: llama(tie_word_embeddings=False))
    change(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight: expected the same values as the token embedding" in refused(tmp_path)


def test_an_embedding_stored_twice_is_one(tmp_path):
    saved(tmp_path)
    expected = load_weights(tmp_path).module.state_dict()
    change_weights(
        tmp_path, lambda w: w.update({"lm_head.weight": w["transformer.wte.weight"].clone()})
    )
    found = load_weights(tmp_path).module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("make", "copy", "original"),
    [
        (zoo.marian, "model.decoder.embed_tokens.weight", "model.shared.weight"),
        (t5, "encoder.embed_tokens.weight", "shared.weight"),
        (bert, "cls.predictions.decoder.bias", "cls.predictions.bias"),
        (zoo.roberta, "lm_head.decoder.bias", "lm_head.bias"),
    ],
)
def test_a_copy_that_differs_from_what_it_copies(make, copy, original, tmp_path):
    saved(tmp_path, make)
    change_weights(tmp_path, lambda w: w.update({copy: w[original].clone()}))
    load_weights(tmp_path)
    change_weights(tmp_path, lambda w: w.update({copy: w[original] + 1}))
    expected = f"{copy}: expected the same values as {original} (Étude has one tensor"
    assert expected in refused(tmp_path)


@pytest.mark.parametrize("bytes_left", [0, 5, 500, -10])
def test_a_truncated_file(bytes_left, tmp_path):
    file = saved(tmp_path) / WEIGHTS
    file.write_bytes(file.read_bytes()[:bytes_left])
    text = refused(tmp_path)
    assert f"{file}: expected a complete safetensors file" in text


def test_no_config_or_no_weights(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert "expected a folder with config.json and weights" in refused(tmp_path)
    assert "model.safetensors" in refused(tmp_path)
    (tmp_path / "other.json").rename(tmp_path / "config.json")
    (tmp_path / WEIGHTS).unlink()
    assert "expected a folder with model.safetensors, " in refused(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json: expected valid JSON" in refused(tmp_path)
    assert "expected a folder with config.json" in refused(tmp_path / "nowhere")


def test_an_unknown_family_and_class(tmp_path):
    change(saved(tmp_path), model_type="gpt2_big")
    assert "model_type = 'gpt2_big'" in refused(tmp_path)
    assert "did you mean gpt2?" in refused(tmp_path)
    change(tmp_path, model_type="gpt2", architectures=["GPT2ForSequenceClassification"])
    assert "expected one of GPT2LMHeadModel, GPT2Model" in refused(tmp_path)
    assert "'GPT2Modl'" in refused(tmp_path, architecture="GPT2Modl")


def test_a_pickle_that_would_run_code(tmp_path):
    saved(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    trace = tmp_path / "was-run"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    assert "expected a file that contains only tensors" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "pytorch_model.bin: expected" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    assert "pytorch_model.bin: expected" in refused(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    assert "expected a dict of tensors by name" in refused(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (gpt2, {"scale_attn_by_inverse_layer_idx": True}),
        (gpt2, {"add_cross_attention": True}),
        (gpt2, {"activation_function": "quick_gelu"}),
        (gpt2, {"n_head": 5}),
        (gpt2, {"n_layer": "two"}),
        (gpt2, {"quantization_config": {"bits": 4}}),
        (llama, {"sliding_window": 4096}),
        (llama, {"num_local_experts": 8}),
        (llama, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        (llama, {"rope_scaling": {"rope_type": "linear"}}),
        (llama, {"partial_rotary_factor": 0.5}),
        (llama, {"final_logit_softcapping": 30.0}),
        (qwen3, {"use_sliding_window": True}),
        (qwen3, {"layer_types": ["full_attention", "sliding_attention"]}),
        (llama, {"per_layer_config": {"0": {"hidden_act": "relu"}}}),
        (llama, {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "attention_factor": 3.0}}),
        (llama, {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}),
        (llama, {"attn_implementation": "custom/kernel"}),
        (llama, {"layer_types": ["full_attention", "sliding_attention"]}),
        (zoo.gemma3, {"use_bidirectional_attention": True}),
        (zoo.gemma3, {"attn_logit_softcapping": 50.0}),
        (zoo.gemma3, {"final_logit_softcapping": 0}),
        (zoo.gemma3, {"layer_types": ["full_attention"]}),
        (zoo.gemma3, {"layer_types": ["full_attention", "chunked_attention"] * 2}),
        (zoo.gemma3, {"sliding_window": None}),
        (zoo.gemma3, {"sliding_window": 0}),
        (zoo.gemma3, {"query_pre_attn_scalar": 0}),
        (zoo.gemma3, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        (zoo.gemma3, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        (zoo.gemma3, {"rope_scaling": 8}),
        (zoo.gemma3, {"vision_config": {"hidden_size": 8}}),
        (zoo.gemma3, {"num_local_experts": 8}),
        (bert, {"position_embedding_type": "relative_key"}),
        (bert, {"hidden_act": "relu"}),
        (bert, {"is_decoder": True}),
        (bert, {"tie_word_embeddings": False}),
        (t5, {"feed_forward_proj": "gated-relu"}),
        (zoo.marian, {"decoder_ffn_dim": 48}),
        (zoo.marian, {"share_encoder_decoder_embeddings": False}),
        (zoo.marian, {"normalize_before": True}),
        (zoo.marian, {"is_encoder_decoder": False}),
        (bert, {"add_cross_attention": True}),
        (t5, {"dense_act_fn": "silu"}),
        (t5, {"is_gated_act": True}),
        (zoo.roberta, {"pad_token_id": -1}),
    ],
)
def test_a_field_that_cannot_be_represented_is_named(make, fields, tmp_path):
    change(saved(tmp_path, make), **fields)
    text = refused(tmp_path)
    name = next(iter(fields))
    assert "config.json" in text
    assert {"n_head": "heads"}.get(name, name) in text


def test_all_problems_of_a_config_at_once(tmp_path):
    change(saved(tmp_path, llama), sliding_window=3, hidden_act="swiglu", num_hidden_layers=0)
    text = refused(tmp_path)
    assert all(name in text for name in ("sliding_window", "hidden_act", "num_hidden_layers"))


def plain(**parts: Any) -> Decoder:
    usual = {
        "vocab_size": 11, "layers": 2, "heads": 2, "dim": 8, "max_length": 16,
        "attention": MultiHeadAttention, "position": Learned, "norm": LayerNorm,
        "feedforward": GELUTanh, "mask": Causal, "block": PreNormBlock,
    }  # fmt: skip
    return Decoder(**{**usual, **parts})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"position": ALiBi}, "position is ALiBi, not Learned"),
        ({"norm": RMSNorm}, "RMSNorm, not LayerNorm"),
        ({"logit_softcap": 5.0}, "logit_softcap is 5.0"),
        ({"scale_embeddings": True}, "embedding_scale"),
        ({"bias": False}, "bias is none, not"),
    ],
)
def test_parts_that_no_family_has_are_named(parts, said, tmp_path):
    with pytest.raises(RequestError) as caught:
        save_weights(plain(**parts), tmp_path / "new")
    assert said in str(caught.value)
    assert "export as gpt2: expected a model that uses only components of gpt2" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_module_made_here_is_written(tmp_path):
    module = plain(feedforward=SquaredReLU, tie_embeddings=False).eval()
    save_weights(module, tmp_path)
    theirs = hf.GPT2LMHeadModel.from_pretrained(tmp_path)
    tokens = torch.randint(11, (2, 16))
    with torch.inference_mode():
        torch.testing.assert_close(module(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "field", "value", "told"),
    [
        (llama, "num_hidden_layers", 10**18, "at most 21, the number of tensors"),
        (llama, "hidden_size", 10**18, "sizes that fit in memory"),
        (llama, "hidden_act", [1], "expected one of silu, swish, gelu"),
        (llama, "rms_norm_eps", -1, "a number of at least 0"),
        (llama, "rope_parameters", {"rope_type": "linear", "factor": "x"}, "factor = 'x'"),
        (llama, "rope_parameters", {"rope_type": ["linear"]}, "rope_type"),
        (t5, "decoder_start_token_id", "a", "a token id"),
        (t5, "decoder_start_token_id", -1, "a token id"),
    ],
)
def test_a_field_that_makes_no_sense(tmp_path, make, field, value, told):
    change(saved(tmp_path, make), **{field: value})
    text = refused(tmp_path)
    assert field in text or field == "hidden_size"
    assert told in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_numbers_that_nothing_is_computed_with(tmp_path, dtype):
    change_weights(
        saved(tmp_path),
        lambda weights: weights.update({k: v.to(dtype) for k, v in weights.items()}),
    )
    assert "expected one of the dtypes float32" in refused(tmp_path)


def test_a_config_that_is_nested_too_deeply(tmp_path):
    (saved(tmp_path) / "config.json").write_text("[" * 5000 + "]" * 5000)
    assert "expected valid JSON" in refused(tmp_path)


def test_an_index_of_numbers(tmp_path):
    (saved(tmp_path) / WEIGHTS).rename(tmp_path / "a.safetensors")
    (tmp_path / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"x": 3}}')
    assert "expected an object with a file name for each tensor name" in refused(tmp_path)
