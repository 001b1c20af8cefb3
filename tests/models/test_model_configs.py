"""Every file under conf/model composes, and builds the model in its name."""

from __future__ import annotations

import inspect
import time
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from etude.models.decoder import Decoder

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
PARTS = sorted(f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml"))
SLOTS = ["attention", "position", "norm", "feedforward", "mask", "block"]
NOT_GIVEN_BY_ALL = {"head", "initialise"}  # each model has its own default
MODULES = {"head": "etude.models.heads", "initialise": "etude.nn.init"}
WITHOUT = {"head/none", "initialise/default"}  # null, and so not in a signature


def compose(model: str, *overrides: str) -> Any:
    nano = model in ("nano", "encoder_nano", "transformer_nano", "local_global_nano")
    sizes = ["vocab_size=65", "+data.sequence_length=64"] if nano else []
    if model == "regressor_nano":  # reads no tokens
        sizes = ["+data.sequence_length=64"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(model, [*sizes, *overrides])
    resolved = OmegaConf.to_container(config, resolve=True)
    nulls = resolved.pop("model", {})  # set with an explicit package
    assert set(nulls.values()) <= {None}
    return {key: value for key, value in resolved.items() if key != "data"}


def build(config: Any) -> Decoder:
    with torch.device("meta"):
        return instantiate(config)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_lists_every_slot_and_nothing_unknown(model):
    config = compose(model)
    accepted = inspect.signature(get_class(config["_target_"])).parameters
    assert set(config) - {"_target_"} <= set(accepted)
    needed = {name for name, p in accepted.items() if p.default is p.empty}
    assert needed <= set(config)
    assert set(SLOTS) <= needed


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("nano", 804_096),
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_shipped_sizes(model, parameters):
    assert build(compose(model)).num_parameters() == parameters


@pytest.mark.parametrize("model", ["gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl"])
def test_sizes_are_those_of_transformers(model):
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = build(compose(model))
    config = compose(model)
    sizes = GPT2Config(n_layer=config["layers"], n_head=config["heads"], n_embd=config["dim"])
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(sizes)
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.max_length == sizes.n_positions
    sizes_of = [sorted(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert sizes_of[0] == sizes_of[1]


def test_gpt3_is_that_of_the_paper():
    """Brown et al. 2020, table 2.1: 96 layers, 96 heads of width 128, width 12288, context 2048."""
    began = time.monotonic()
    model = build(compose("gpt3_175b"))
    assert time.monotonic() - began < 20
    D, V, T, L = 12288, 50257, 2048, 96
    layer = 4 * D * D + 4 * D + 8 * D * D + 5 * D + 4 * D  # attention, feed-forward, two norms
    assert model.num_parameters() == V * D + T * D + L * layer + 2 * D == 174_604_259_328
    assert {block.attention.head_dim for block in model.blocks} == {128}
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("model", ["nano", "gpt2", "gpt2_medium"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_fits_every_model(model, part):
    slot, name = part.split("/")
    if slot == "head":
        model = "bert_tiny"
    elif name.endswith(("_3", "_8")):  # the number of key-value heads
        model = "smollm2_135m" if name.endswith("_3") else "llama_1b"
    labels = 2 if name == "tagging" else 3
    known = {"labels": labels} if name in ("classification", "mean", "tagging") else {}
    config = compose(model, f"{slot}={name}", "layers=1")
    if known:  # a null that the data fills
        config["head"] |= known
    built = build(config)
    logits = built(torch.zeros(2, 5, dtype=torch.long, device="meta"))
    heads = {"classification": (2, 3), "mean": (2, 3), "tagging": (2, 5, 2), "none": (2, 5, 128)}
    by_token = (2, 5, built.embedding.num_embeddings)
    assert logits.shape == (heads.get(name, by_token) if slot == "head" else by_token)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_file_says_what_it_is_and_states_only_what_a_config_may(part):
    text = (CONF / f"{part}.yaml").read_text()
    assert text.startswith("# ")
    config = OmegaConf.create(text)
    if part in WITHOUT:
        assert config == {part.split("/")[0]: None}
        return
    slot = part.split("/")[0]
    assert config.get("_partial_", False) is (slot != "initialise")
    target = get_class(config._target_)
    assert target.__module__ == MODULES.get(slot, f"etude.nn.{slot}")
    given_by_config = {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert set(config) - {"_target_", "_partial_"} <= set(given_by_config)


def test_no_two_part_files_say_the_same():
    contents = [OmegaConf.to_yaml(OmegaConf.load(CONF / f"{part}.yaml")) for part in PARTS]
    assert len(set(contents)) == len(contents)


def test_every_slot_has_files_and_every_folder_is_a_slot():
    assert {part.split("/")[0] for part in PARTS} == set(SLOTS) | NOT_GIVEN_BY_ALL


def test_every_model_lists_the_slots_of_its_kind():
    for model in MODELS:
        groups = slots_of(model)
        has_head = compose(model)["_target_"].endswith(".Encoder")
        assert groups == [*SLOTS, *(["head"] if has_head else []), "initialise"], model


def slots_of(model: str) -> list[str]:
    listed = OmegaConf.load(CONF / f"{model}.yaml").defaults
    found = [next(iter(entry)) for entry in listed if not isinstance(entry, str)]
    found = [slot for slot in found if "@" not in slot]  # of a kind of layers
    base = [entry for entry in listed if isinstance(entry, str) and entry != "_self_"]
    return slots_of(base[0]) if base else found


def transformers_model(name: str) -> Any:
    """Returns the `transformers` model of the config that is published with the weights."""
    import transformers as hf

    def rope(theta: float, **more: Any) -> dict[str, Any]:
        return {"rope_theta": theta, "rope_type": "default"} | more

    bert = partial(hf.BertConfig, vocab_size=30522)
    neox = partial(
        hf.GPTNeoXConfig, vocab_size=50304, max_position_embeddings=2048,
        tie_word_embeddings=False,
        rope_parameters=rope(1e4, partial_rotary_factor=0.25),
    )  # fmt: skip
    t5 = partial(hf.T5Config, vocab_size=32128, tie_word_embeddings=True)
    llama3 = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    made = {
        "bert_tiny": lambda: hf.BertForMaskedLM(
            bert(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
        ),
        "bert_base": lambda: hf.BertForMaskedLM(bert()),
        "bert_large": lambda: hf.BertForMaskedLM(
            bert(
                hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                intermediate_size=4096,
            )
        ),
        "roberta_base": lambda: hf.RobertaForMaskedLM(
            hf.RobertaConfig(
                vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        ),
        "t5_small": lambda: hf.T5ForConditionalGeneration(
            t5(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8)
        ),
        "t5_base": lambda: hf.T5ForConditionalGeneration(
            t5(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
        ),
        "marian_base": lambda: hf.MarianMTModel(
            hf.MarianConfig(
                vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6,
                encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=2048,
                decoder_ffn_dim=2048, max_position_embeddings=512, activation_function="swish",
                pad_token_id=58100, scale_embedding=True, static_position_embeddings=True,
            )
        ),
        "pythia_70m": lambda: hf.GPTNeoXForCausalLM(
            neox(
                hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048
            )
        ),
        "pythia_160m": lambda: hf.GPTNeoXForCausalLM(
            neox(
                hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                intermediate_size=3072,
            )
        ),
        "smollm2_135m": lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
                rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope(1e5),
            )
        ),
        "llama_1b": lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
                rope_parameters=rope(5e5, **llama3),
            )
        ),
        "qwen3_0_6b": lambda: hf.Qwen3ForCausalLM(
            hf.Qwen3Config(
                vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
                num_attention_heads=16, num_key_value_heads=8, head_dim=128,
                max_position_embeddings=40960, rms_norm_eps=1e-6, tie_word_embeddings=True,
                rope_parameters=rope(1e6),
            )
        ),
    }  # fmt: skip
    with torch.device("meta"):
        return made[name]()


PUBLISHED = {
    "bert_tiny": 4_416_698,
    "bert_base": 109_514_298,
    "bert_large": 335_174_458,
    "roberta_base": 124_697_433,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "marian_base": 73_944_309,
    "pythia_70m": 70_426_624,
    "pythia_160m": 162_322_944,
    "smollm2_135m": 134_515_008,
    "llama_1b": 1_235_814_400,
    "qwen3_0_6b": 596_049_920,
}


@pytest.mark.parametrize(("model", "parameters"), PUBLISHED.items())
def test_released_models_have_the_parameters_of_their_releases(model, parameters):
    config = compose(model)
    ours, theirs = build(config), transformers_model(model)
    assert ours.num_parameters() == parameters
    count = sum(parameter.numel() for parameter in theirs.parameters())
    if model == "marian_base":  # in transformers, the sines are parameters, the bias is not
        sines = 2 * config["max_length"] * config["dim"]
        count += config["vocab_size"] - sines
    assert count == parameters
    known = theirs.config
    eps = getattr(known, "layer_norm_epsilon", None) or getattr(known, "layer_norm_eps", None)
    eps = eps or getattr(known, "rms_norm_eps", None) or 1e-5  # Marian has torch's
    norms = [m for m in ours.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.RMSNorm)]
    assert {norm.eps for norm in norms} == {eps}


@pytest.mark.parametrize(
    ("model", "dim", "heads", "paper"),
    [("transformer_base", 512, 8, 65e6), ("transformer_big", 1024, 16, 213e6)],
)
def test_the_original_transformers_are_torchs(model, dim, heads, paper):
    """`nn.Transformer` of these sizes, without its two final norms, and one embedding."""
    with torch.device("meta"):
        theirs = torch.nn.Transformer(dim, heads, 6, 6, 4 * dim)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    found = build(compose(model)).num_parameters()
    assert found == count - 2 * 2 * dim + 37000 * dim
    assert found == pytest.approx(paper, rel=0.03)


def test_t5_scales_its_logits_by_its_width():
    for model in ("t5_small", "t5_base"):
        config = compose(model)
        assert config["logit_scale"] == pytest.approx(config["dim"] ** -0.5, rel=1e-12)


def test_parts_with_a_scale_or_a_base_are_those_published():
    smol, llama, qwen = (build(compose(m)) for m in ("smollm2_135m", "llama_1b", "qwen3_0_6b"))
    for model, theta in ((smol, 1e5), (qwen, 1e6)):
        width = model.blocks[0].attention.head_dim
        frequency = model.position.rows.rows.keywords["frequencies"]()
        assert float(frequency[1]) == pytest.approx(theta ** (-2 / width))
    assert (llama.position.factor, llama.position.original_length) == (32.0, 8192)
    assert qwen.blocks[0].attention.q_norm.weight.shape == (128,)
