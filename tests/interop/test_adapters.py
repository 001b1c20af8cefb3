"""Adapters of `peft` for each family, in both directions: the logits equal those of `peft`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import zoo
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.errors import RequestError
from etude.interop.adapter import merge_adapter
from etude.interop.adapter_config import FIELDS, AdapterConfig, is_simple
from etude.interop.peft import save_adapter
from etude.interop.pretrained import load_weights
from etude.nn.lora import LoRA, adapt, adapted
from etude.nn.lora import merge as merged

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.randint(3, zoo.V - 2, (3, 11), generator=torch.Generator().manual_seed(1))
TARGET = torch.randint(3, zoo.V - 2, (3, 7), generator=torch.Generator().manual_seed(2))
CLOSE = 1e-5

MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": zoo.gpt2,
    "gpt2 body": lambda: hf.GPT2Model(zoo.gpt2().config),
    "gpt_neox": lambda: zoo.gpt_neox(rotary_pct=0.34),
    "gpt_neox tied": lambda: zoo.gpt_neox(rotary_pct=0.34, tie_word_embeddings=True),
    "llama": zoo.llama,
    "llama biased, tied": lambda: zoo.llama(tie_word_embeddings=True, attention_bias=True),
    "qwen3": zoo.qwen3,
    "gemma3": zoo.gemma3,
    "bert": zoo.bert,
    "bert body": lambda: zoo.bert(hf.BertModel),
    "bert classes": lambda: zoo.bert(hf.BertForSequenceClassification, num_labels=3),
    "roberta": zoo.roberta,
    "roberta classes": lambda: zoo.roberta(hf.RobertaForSequenceClassification, num_labels=3),
    "roberta tags": lambda: zoo.roberta(hf.RobertaForTokenClassification, num_labels=4),
    "t5": zoo.t5,
    "t5 gated": lambda: zoo.t5(feed_forward_proj="gated-gelu"),
    "marian": zoo.marian,
}
PARTS: dict[str, list[Any]] = {
    "gpt2": [["c_attn"], ["c_proj"], ["mlp.c_fc", "mlp.c_proj"], ["wte", "wpe"], ["lm_head"]],
    "gpt_neox": [["query_key_value"], ["attention.dense"], ["dense_h_to_4h", "dense_4h_to_h"],
                 ["embed_in"]],
    "llama": [["q_proj"], ["k_proj"], ["v_proj"], ["o_proj"], ["q_proj", "k_proj", "v_proj"],
              ["gate_proj", "up_proj", "down_proj"], ["embed_tokens", "lm_head"],
              r".*\.layers\.1\..*_proj"],
    "bert": [["query"], ["key", "value"], ["attention.output.dense"], ["intermediate.dense"],
             ["word_embeddings"]],
    "t5": [["q", "v"], ["k", "o"], ["EncDecAttention.q"], ["wi", "wo", "wi_0", "wi_1"]],
    "marian": [["q_proj", "v_proj"], ["out_proj"], ["fc1", "fc2"], ["encoder_attn.k_proj"]],
}  # fmt: skip
LIKE = {"qwen3": "llama", "gemma3": "llama", "roberta": "bert"}
SHARED = ("bert", "roberta", "t5", "marian")
"""Models with an output vocabulary whose embedding cannot be untied in Étude."""


def cases() -> list[Any]:
    """Returns each model with all its linear modules, and with each usual set of modules."""
    found = []
    for name in MODELS:
        kind = name.split()[0]
        parts: list[Any] = ["all-linear", *PARTS[LIKE.get(kind, kind)]]
        for targets in parts:
            headless = name.endswith("body") and "lm_head" in targets
            shared = name in SHARED and "word_embeddings" in targets
            if name == "roberta tags" and targets == "all-linear":
                continue  # peft itself fails: it wraps the classifier twice
            if not headless and not shared:
                said = targets if isinstance(targets, str) else "+".join(targets)
                marks = [] if quick(name, targets) else [pytest.mark.slow]
                found.append(pytest.param(name, targets, id=f"{name}-{said}", marks=marks))
    return found


def quick(name: str, targets: Any) -> bool:
    """Returns whether the quick suite covers a case: each family once, and special modules."""
    once = ("gpt2", "gpt_neox", "qwen3", "bert classes", "t5")
    particular = {"gpt2": (["wte", "wpe"],), "gpt_neox tied": (["embed_in"],)}
    return (name in once and targets == "all-linear") or targets in particular.get(name, ())


def logits(model: Any) -> Tensor:
    """Computes the logits of a model of `transformers` or of Étude."""
    is_ours = not hasattr(model, "config")
    is_pair = hasattr(model, "decoder") if is_ours else model.config.is_encoder_decoder
    with torch.no_grad():
        if is_ours:
            return model(IDS, TARGET) if is_pair else model(IDS)
        more = {"decoder_input_ids": TARGET} if is_pair else {}
        said = model(input_ids=IDS, **more)
        return said.logits if "logits" in said else said.last_hidden_state


def ours(loaded: Any) -> Tensor:
    if loaded.architecture in ("GPT2Model", "LlamaModel"):
        with torch.no_grad():
            return loaded.module.hidden(IDS)
    return logits(loaded.module)


def of_peft(model: Any, **options: Any) -> Any:
    """Returns a `peft` model whose updates are all non-zero."""
    kind = type(model).__name__
    task = "SEQ_CLS" if "SequenceCl" in kind else "TOKEN_CLS" if "TokenCl" in kind else None
    config = LoraConfig(**{"r": 4, "lora_alpha": 9, "task_type": task, **options})
    theirs = get_peft_model(model, config)
    torch.manual_seed(5)
    for name, parameter in theirs.named_parameters():
        is_change = any(part in name for part in ("lora_", "modules_to_save"))
        if is_change or (parameter.requires_grad and name.endswith("bias")):
            torch.nn.init.normal_(parameter, std=0.1)
    return theirs.eval()


def saved(folder: Path, name: str) -> Any:
    model = zoo.randomised(MODELS[name]())
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("name", "targets"), cases())
def test_an_adapter_of_peft_here(name: str, targets: Any, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", name)
    before = logits(model)
    theirs = of_peft(model, target_modules=targets)
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load_weights(tmp_path / "model")
    merge_adapter(loaded, tmp_path / "adapter")
    expected = logits(theirs)
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(ours(loaded), expected, rtol=1e-5, atol=CLOSE)


EVA = {"q_proj": 2, r"^model.layers.1.self_attn.(k|v)_proj": 6}
OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "v_proj"], "rank_pattern": EVA,
        "alpha_pattern": {"layers.0.self_attn.q_proj": 3.5, ".*v_proj": 20},
    },
    "dora": {"use_dora": True, "target_modules": ["k_proj", "o_proj", "up_proj"]},
    "dora, rslora": {"use_dora": True, "use_rslora": True, "target_modules": ["v_proj"]},
    "biases": {"bias": "all", "target_modules": ["q_proj"]},
    "biases of the changed": {"bias": "lora_only", "target_modules": ["q_proj", "down_proj"]},
    "a head": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
    "an embedding": {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]},
    "norms": {"modules_to_save": ["input_layernorm", "model.norm"], "target_modules": ["o_proj"]},
    "one layer": {"layers_to_transform": 1, "target_modules": ["q_proj", "up_proj"]},
    "layers of a stack": {
        "layers_to_transform": [0], "layers_pattern": "layers", "target_modules": ["v_proj"]
    },
    "all but": {"exclude_modules": ["q_proj", "model.layers.0.mlp.up_proj"],
                "target_modules": ["q_proj", "up_proj"]},
    "all but, by a pattern": {"exclude_modules": r".*layers\.0.*", "target_modules": "all-linear"},
    "gaussian": {"init_lora_weights": "gaussian", "target_modules": ["q_proj"]},
    "orthogonal": {"init_lora_weights": "orthogonal", "target_modules": ["q_proj"]},
    "random": {"init_lora_weights": False, "target_modules": ["q_proj"]},
    "an embedding, rslora": {"use_rslora": True, "target_modules": ["embed_tokens"]},
}  # fmt: skip
FULL = "llama biased, tied"
TRIED = ("patterns", "dora, rslora", "biases", "an embedding")
"""The options that the quick test suite covers."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name in TRIED else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_an_option_of_peft_here(options: dict[str, Any], tmp_path: Path) -> None:
    model = saved(tmp_path / "model", FULL)
    theirs = of_peft(model, **options)
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load_weights(tmp_path / "model")
    merge_adapter(loaded, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.module), logits(theirs), rtol=1e-5, atol=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_dora_of_matrices_that_are_kept_otherwise(name: str, tmp_path: Path) -> None:
    theirs = of_peft(saved(tmp_path / "model", name), target_modules="all-linear", use_dora=True)
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load_weights(tmp_path / "model")
    merge_adapter(loaded, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded.module), logits(theirs), rtol=1e-5, atol=CLOSE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama model and its adapter, in two folders."""
    folder = tmp_path_factory.mktemp("written")
    theirs = of_peft(saved(folder / "model", FULL), target_modules=["q_proj", "o_proj"])
    theirs.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the adapter that tests may change, next to its model."""
    (tmp_path / "model").symlink_to(written / "model")
    shutil.copytree(written / "adapter", tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, **fields: Any) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(folder: Path) -> str:
    loaded = load_weights(folder.parent / "model")
    before = {name: x.clone() for name, x in loaded.module.state_dict().items()}
    with pytest.raises(RequestError) as caught:
        merge_adapter(loaded, folder)
    after = loaded.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return str(caught.value)


OTHER: dict[str, list[Any]] = {
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica"],
    "alora_invocation_tokens": [[5, 6]],
    "layer_replication": [[[0, 2], [1, 2]]],
    "trainable_token_indices": [[1, 2], {"embed_tokens": [3]}],
    "target_parameters": [["mlp.experts"]],
    "megatron_config": [{"tp": 2}],
    "use_qalora": [True],
    "velora_config": [{"num_groups": 2}],
    "monteclora_config": [{"num_samples": 2}],
    "arrow_config": [{"top_k": 2}],
    "kasa_config": [{"beta": 1.0}],
    "use_bdlora": [{"nblocks": 2}],
    "lora_bias": [True],
    "ensure_weight_tying": [True],
    "bias": ["some", None],
    "peft_type": ["IA3", "ADALORA", "LOHA", None],
    "r": [0, "4", True, None],
    "lora_alpha": ["x", None, 0],
    "lora_dropout": [2.0, "a"],
    "use_dora": ["yes"],
    "use_rslora": [1],
    "rank_pattern": [{"q_proj": 0}, {"(a+)+$": 2}, ["q_proj"]],
    "alpha_pattern": [{"q_proj": "x"}],
    "target_modules": [None, 3, "(.*.*)*x"],
    "exclude_modules": [5],
    "modules_to_save": ["lm_head", [4]],
    "layers_to_transform": ["all"],
    "layers_pattern": [7],
    "a_field_of_tomorrow": [True, {"on": 1}, "x", 0.5],
}


@pytest.mark.parametrize("field", OTHER)
def test_a_field_that_changes_more_is_refused_by_name(field: str, folder: Path) -> None:
    for value in OTHER[field]:
        change(folder, **{field: value})
        with pytest.raises(RequestError, match=f"{CONFIG}, {field}"):
            AdapterConfig.of(folder)


def test_every_field_of_peft_is_in_the_table() -> None:
    assert {each.name for each in fields(LoraConfig)} <= FIELDS.keys()
    defaults = LoraConfig(target_modules=["q_proj"], r=4).to_dict()
    for name, value in defaults.items():
        plain = sorted(value) if isinstance(value, set) else value
        assert FIELDS[name](getattr(plain, "value", plain)) is None, name


def test_what_is_off_in_a_newer_version_is_no_obstacle(folder: Path) -> None:
    change(folder, a_field_of_tomorrow=None, another={}, a_third=False)
    merge_adapter(load_weights(folder.parent / "model"), folder)


def test_all_fields_are_reported_at_once(folder: Path) -> None:
    change(folder, init_lora_weights="olora", layer_replication=[[0, 1]], lora_bias=True)
    text = refused(folder)
    assert len(text.splitlines()) == 3
    assert "path_initial_model_for_weight_conversion" in text
    (folder / CONFIG).write_text("{}")
    assert "lora_alpha: expected a value (the field is required)" in refused(folder)


Q = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.pop(Q + "lora_B.weight"), "q_proj.lora_B.weight = None: expected a tensor of"),
        (
            lambda w: [w.pop(Q + f"lora_{each}.weight") for each in "AB"],
            "layers.0.self_attn.q_proj: expected the LoRA tensors (A and B) of this module, since",
        ),
        (
            lambda w: w.update({Q + "lora_A.weight": torch.zeros(5, 24)}),
            "q_proj.lora_A.weight = '5 x 24': expected a tensor of shape 4 x 24",
        ),
        (
            lambda w: w.update({Q.replace("q_", "v_") + "lora_A.weight": torch.zeros(4, 24)}),
            "v_proj: expected no LoRA tensors, since target_modules in adapter_config.json does",
        ),
        (
            lambda w: w.update({Q.replace("0", "7") + "lora_A.weight": torch.zeros(4, 24)}),
            "layers.7.self_attn.q_proj.lora_A.weight: expected a LoRA update for a module",
        ),
        (
            lambda w: w.update({Q + "lora_magnitude_vector": torch.zeros(24)}),
            "q_proj.lora_magnitude_vector = '24': expected no such tensor",
        ),
        (
            lambda w: w.update({Q + "lora_B.bias": torch.zeros(24)}),
            "q_proj.lora_B.bias: expected a LoRA update for a module",
        ),
        (
            lambda w: w.update({Q + "bias": torch.zeros(24)}),
            "q_proj.bias: expected no tensor that replaces a weight, since bias",
        ),
        (
            lambda w: w.update({"base_model.model.model.norm.weight": torch.zeros(24)}),
            "norm.weight: expected no tensor that replaces a weight, since bias",
        ),
        (
            lambda w: w.update({Q + "lora_A.weight": torch.zeros(4, 24, dtype=torch.int8)}),
            "q_proj.lora_A.weight = 'torch.int8': expected a floating-point tensor",
        ),
    ],
)  # fmt: skip
def test_each_tensor_is_used_or_refused_by_name(edit: Any, said: str, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)
    assert said in refused(folder)


def test_no_weights_or_damaged_ones(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:99])
    assert "expected a complete safetensors file" in refused(folder)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert "adapter_model.bin is not supported" in refused(folder)
    (folder / CONFIG).write_text("[" * 9000)
    assert "adapter_config.json: expected valid JSON" in refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module"), [("bert", "word_embeddings"), ("t5", "shared"), ("marian", "shared")]
)
def test_an_embedding_that_a_model_uses_twice(name: str, module: str, tmp_path: Path) -> None:
    theirs = of_peft(saved(tmp_path / "model", name), target_modules=[module])
    theirs.save_pretrained(tmp_path / "adapter")
    assert "expected no tensor that updates the embedding" in refused(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("pattern", "is_fine"),
    [
        (r".*\.(q_proj|v_proj)", True),
        (r"^model\.layers\.\d+\.self_attn.q_proj$", True),
        ("q_proj", True),
        ("(a*)*b", False),
        ("(a|a)+b", False),
        (".*.*.*.*b", False),
        ("a{1,9}", False),
        ("(", False),
        ("x" * 501, False),
    ],
)
def test_patterns_that_could_take_for_ever_are_refused(pattern: str, is_fine: bool) -> None:
    assert is_simple(pattern) == is_fine


SLOTS = [("q",), ("v",), ("q", "v"), ("q", "k", "v"), ("qkv",), ("out",), ("up", "down"),
         ("k", "out", "down")]  # fmt: skip


def ours_cases() -> list[Any]:
    names = [name for name in MODELS if not name.endswith("body")]
    some = {("gpt2", ("q", "v")), ("gpt_neox", ("q", "v")), ("llama", ("qkv",)),
            ("bert classes", ("k", "out", "down")), ("roberta", ("q",))}  # fmt: skip
    return [
        pytest.param(
            name,
            slots,
            id=f"{name}-{'+'.join(slots)}",
            marks=[] if (name, slots) in some else [pytest.mark.slow],
        )
        for name in names
        for slots in SLOTS
    ]


@pytest.mark.parametrize(("name", "slots"), ours_cases())
def test_an_adapter_of_ours_in_peft_and_here_again(
    name: str, slots: tuple[str, ...], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = saved(tmp_path / "model", name)
    loaded = load_weights(tmp_path / "model")
    options = LoRA(rank=3, alpha=5.0, targets=slots)
    adapt(loaded.module, options)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in adapted(loaded.module).values():
            for part in layer.changes.values():
                part.b.normal_(std=0.1)
        for key, parameter in loaded.module.named_parameters():
            if key.startswith("head.") and parameter.requires_grad:  # an encoder's head is trained
                parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits(loaded.module.eval())
    assert (expected - logits(model)).abs().max() > 1e-2
    save_adapter(loaded.module, tmp_path / "adapter", options, family=loaded.family)
    recwarn.clear()
    theirs = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert not [each for each in recwarn if "missing" in str(each.message)]
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-5, atol=CLOSE)
    again = load_weights(tmp_path / "model")
    merge_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(logits(again.module), expected, rtol=1e-5, atol=CLOSE)
    torch.testing.assert_close(logits(merged(loaded.module)), expected, rtol=1e-5, atol=CLOSE)
