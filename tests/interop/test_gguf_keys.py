"""Every key of the GGUF format is read, has no effect, or raises an error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import zoo
from gguf.constants import Keys
from ggufs import write_gguf

from etude.data.tokenizer import BPE, Tokenizer
from etude.errors import RequestError
from etude.interop.gguf import GGUF
from etude.interop.gguf_keys import READ, TOKENIZER_READ
from etude.interop.pretrained import LoadedModel, load_tensors
from etude.interop.tokenizers import load_gguf_tokenizer

IDS = torch.arange(24).view(2, 12)
CLOSE = 1e-4
HARMLESS = {"pooling_type", "rope.scaling.finetuned", "rope.scaling.original_context_length"}


def stated(cls: type) -> Iterator[str]:
    """Yields the keys in the package's table."""
    for name, value in vars(cls).items():
        if isinstance(value, str) and not name.startswith("__"):
            yield value
        elif isinstance(value, type):
            yield from stated(value)


def llama(**more: Any) -> Any:
    return zoo.randomised(zoo.llama(**more))


@pytest.fixture(scope="module")
def small() -> Any:
    """A small Llama model with meaningful logits."""
    return llama(num_hidden_layers=1, vocab_size=40)


def read(file: Path) -> LoadedModel:
    found = GGUF(file)
    return load_tensors(found, found.config(), dtype=torch.float32)


def said_of(model: Any, file: Path, **more: Any) -> str:
    """Returns the error for a file with these keys below the architecture's name."""
    with pytest.raises(RequestError) as caught:
        GGUF(write_gguf(file, model, **more)).config()
    return str(caught.value)


def with_keys(file: Path, more: dict[str, Any]) -> Path:
    """Returns a copy of a file with more keys."""
    before = gguf.GGUFReader(file)
    after = file.with_name("changed.gguf")
    writer = gguf.GGUFWriter(after, "llama")
    for name, field in before.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", *more):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, inner)
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    for key, value in more.items():
        writer.add_key_value(key, value, gguf.GGUFValueType[kinds[type(value)]])
    for tensor in before.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return after


def test_every_key_is_read_harmless_or_refused_by_name(small: Any, tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", small)
    with torch.inference_mode():
        expected = read(plain).module(IDS)
    names = {key for key in stated(Keys) if "{id}" not in key and "{name}" not in key}
    assert len(names) > 150
    names |= {"{arch}.a_key_of_tomorrow", "a_tool.a_key"}
    keys = {each.replace("{arch}", "llama").replace("{dense}", "dense_2") for each in names}
    keys -= {"general.architecture", "general.alignment", *(f"llama.{key}" for key in READ)}
    for value in (3, "x", [2, 2]):
        with pytest.raises(RequestError) as caught:
            GGUF(with_keys(plain, dict.fromkeys(keys, value))).config()
        told = {problem.where.rpartition(", ")[2] for problem in caught.value.problems}
        harmless = {key for key in keys if key not in told}
        assert told <= keys
        assert all(
            key.startswith(("general.", "tokenizer.", "split.")) or key[6:] in HARMLESS
            for key in harmless
        ), harmless
        assert {"llama.logit_scale", "llama.attention.sliding_window", "general.type",
                "llama.a_key_of_tomorrow", "a_tool.a_key", "split.count"} <= told  # fmt: skip
        with torch.inference_mode():
            module = read(with_keys(plain, dict.fromkeys(harmless, value))).module
            assert torch.equal(module(IDS), expected)


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({"rope__scale_linear": 2.5}, 2.5),
        ({"rope__scaling__factor": 2.5}, 2.5),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 2.5}, 2.5),
        ({"rope__scaling__type": "linear", "rope__scale_linear": 2.5}, 2.5),
        ({"rope__scale_linear": 2.5, "rope__scaling__factor": 0.0}, 2.5),
        ({"rope__scale_linear": 1.0}, 1.0),
        ({"rope__scaling__type": "none"}, 1.0),
        ({"rope__scaling__type": "linear"}, 1.0),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_linear_scaling_by_any_of_its_names(
    more: dict[str, Any], factor: float, tmp_path: Path
) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": factor}
    model = llama(rope_parameters=rope)
    found = read(write_gguf(tmp_path / "m.gguf", model, **more))
    with torch.inference_mode():
        apart = (found.module.double()(IDS) - model.double()(IDS).logits).abs().max()
    assert apart < CLOSE


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, "rope.scale_linear = 2.0"),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, "scaling.type is none"),
        ({"rope__scaling__factor": -1.0}, "rope.scaling.factor = -1.0: expected a number of at"),
        ({"rope__scaling__type": "yarn"}, "rope.scaling.type = 'yarn'"),
        ({"rope__scaling__type": "longrope"}, "rope.scaling.type = 'longrope'"),
        ({"rope_freqs": np.full(3, 2.0, np.float32), "rope__scale_linear": 2.0},
         "rope.scale_linear = 2.0: expected 1, since the file has rope_freqs.weight"),
        ({"attention__value_length": 4}, "attention.value_length = 4: expected 6"),
        ({"attention__scale": 1.0}, "attention.scale = 1.0: expected 0.408248"),
        ({"rope__freq_base": -1.0}, "rope.freq_base = -1.0: expected a positive number"),
    ],
)  # fmt: skip
def test_metadata_that_contradicts_the_plain_architecture(
    more: dict[str, Any], said: str, small: Any, tmp_path: Path
) -> None:
    if "rope__freq_base" in more:
        file = write_gguf(tmp_path / "plain.gguf", small)
        with pytest.raises(RequestError, match="a positive number"):
            GGUF(with_keys(file, {"llama.rope.freq_base": -1.0})).config()
        return
    assert said in said_of(small, tmp_path / "m.gguf", **more)


@pytest.mark.parametrize(
    "more",
    [
        {"attention__scale": 6**-0.5},
        {"attention__scale": 0.0},
        {"attention__value_length": 6},
        {"tensor_data_layout": "Meta AI original pth"},
        {"expert_count": 0},
        {"rope__scaling__attn_factor": 1.0},
    ],
    ids=lambda more: next(iter(more)),
)
def test_the_plain_value_is_accepted(more: dict[str, Any], small: Any, tmp_path: Path) -> None:
    GGUF(write_gguf(tmp_path / "m.gguf", small, **more)).config()


def test_all_keys_are_reported_at_once(small: Any, tmp_path: Path) -> None:
    more = {"logit_scale": 3.0, "expert_count": 8, "use_parallel_residual": True}
    text = said_of(small, tmp_path / "m.gguf", **more)
    assert len(text.splitlines()) == 3
    assert all(f"llama.{key} = " in text for key in more)


def test_a_vocabulary_of_another_size(small: Any, tmp_path: Path) -> None:
    file = with_keys(write_gguf(tmp_path / "m.gguf", small), {"llama.vocab_size": 41})
    with pytest.raises(RequestError, match="vocab_size = 41: expected 40, the number of rows of"):
        GGUF(file).config()


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPE(vocab_size=290).train(["The people, the people's 1862"] * 3)


def test_every_key_of_a_tokenizer_is_read_harmless_or_refused_by_name(
    bpe: Tokenizer, small: Any, tmp_path: Path
) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", small, tokenizer=bpe, end=bpe.end_of_text)
    text = "The people, 1862"
    expected = load_gguf_tokenizer(GGUF(plain))[0].encode(text)
    names = {key for key in stated(Keys) if key.startswith("tokenizer.") and "{" not in key}
    keys = {*names, "tokenizer.ggml.a_key_of_tomorrow"} - {*TOKENIZER_READ}
    with pytest.raises(RequestError) as caught:
        load_gguf_tokenizer(GGUF(with_keys(plain, dict.fromkeys(keys, True))))
    told = {problem.where.rpartition(", ")[2] for problem in caught.value.problems}
    found, _ = load_gguf_tokenizer(GGUF(with_keys(plain, dict.fromkeys(keys - told, True))))
    assert found.encode(text) == expected
    refused = {key.removeprefix("tokenizer.") for key in told}
    assert refused == {
        "ggml.a_key_of_tomorrow", "ggml.add_eos_token", "ggml.add_sep_token",
        "ggml.add_space_prefix", "ggml.precompiled_charsmap", "ggml.remove_extra_whitespaces",
        "ggml.token_type_count", "huggingface.json", "rwkv.world",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pre", "stated", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", None, False),
     ("gpt-2", True, True), ("qwen2", None, False)],
)  # fmt: skip
def test_whether_a_text_begins_with_a_token(
    pre: str, stated: bool | None, begins: bool, bpe: Tokenizer, small: Any, tmp_path: Path
) -> None:
    """Follows llama.cpp's default: Llama 3's texts begin with a token."""
    file = write_gguf(tmp_path / "m.gguf", small, tokenizer=bpe, pre=pre, end=3)
    file = with_keys(file, {"tokenizer.ggml.bos_token_id": 7})
    if stated is not None:
        file.rename(tmp_path / "n.gguf")
        file = with_keys(tmp_path / "n.gguf", {"tokenizer.ggml.add_bos_token": stated})
    _, ends = load_gguf_tokenizer(GGUF(file))
    assert ends.begin == (7 if begins else None)
    assert ends.stops == (3,)


def test_tokens_and_kinds_of_different_numbers(bpe: Tokenizer, small: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", small, tokenizer=bpe)
    with pytest.raises(RequestError, match=r"token_type = .*: expected a list of whole numbers"):
        load_gguf_tokenizer(GGUF(with_keys(file, {"tokenizer.ggml.token_type": [1, 1]})))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("eos_token_id", [1], "a token id"),
        ("eos_token_id", 4_000_000_000, "a token id"),
        ("bos_token_id", "x", "a token id"),
        ("add_bos_token", "false", "true or false"),
        ("merges", [1, 2], "a list of texts"),
        ("tokens", [1, 2], "a list of texts"),
        ("token_type", ["a", "b"], "a list of whole numbers"),
    ],
)
def test_values_of_another_type(
    key: str, value: Any, expected: str, bpe: Tokenizer, small: Any, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "m.gguf", small, tokenizer=bpe)
    with pytest.raises(RequestError, match=rf"tokenizer.ggml.{key} = .*: expected {expected}"):
        load_gguf_tokenizer(GGUF(with_keys(file, {f"tokenizer.ggml.{key}": value})))
