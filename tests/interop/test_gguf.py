"""GGUF: names, order of rows, quantisations, metadata, tokenizer, and errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from gguf import GGMLQuantizationType as Kind
from ggufs import rounded, write_gguf

from etude.data.tokenizer import BPE, Tokenizer
from etude.errors import RequestError
from etude.interop.gguf import GGUF
from etude.interop.pretrained import LoadedModel, load_tensors
from etude.interop.tokenizers import load_gguf_tokenizer

TEXT = [
    "The people, the people's 1862 and 12345 of them; don't they?  Two spaces\n\n end. Été 中文 "
]
IDS = torch.arange(24).view(2, 12)
CLOSE = 1e-4  # transformers computes norms and rotary positions in float32


def llama(**more: Any) -> Any:
    """Returns a Llama model whose sizes fit quantisation blocks of 32 values."""
    size = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    return zoo.randomised(zoo.llama(**{**size, **more}))


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPE(vocab_size=300).train(TEXT * 3)


def loaded(file: Path) -> LoadedModel:
    found = GGUF(file)
    return load_tensors(found, found.config(), dtype=torch.float32)


def apart(module: Any, model: Any) -> float:
    with torch.inference_mode():
        return float((module.double()(IDS) - model.double()(IDS).logits).abs().max())


@pytest.mark.parametrize(
    "make",
    [
        llama,
        lambda: llama(tie_word_embeddings=True, rms_norm_eps=1e-6),
        lambda: llama(num_key_value_heads=4, rope_parameters={"rope_type": "default",
                                                              "rope_theta": 77.0}),
    ],
    ids=["grouped", "tied", "multi-head, theta"],
)  # fmt: skip
def test_gives_the_logits_of_the_model_that_was_written(make: Any, tmp_path: Path) -> None:
    model = make()
    found = loaded(write_gguf(tmp_path / "model.gguf", model))
    assert apart(found.module, model) < CLOSE
    assert found.module.max_length == zoo.MAX
    file = GGUF(tmp_path / "model.gguf")
    for name in file.names():
        assert torch.equal(file.read(name), model.state_dict()[name].float()), name


def test_qwen3(tmp_path: Path) -> None:
    model = zoo.randomised(zoo.qwen3(hidden_size=64, intermediate_size=96))
    found = loaded(write_gguf(tmp_path / "model.gguf", model, architecture="qwen3"))
    assert apart(found.module, model) < CLOSE


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_weights_are_those_that_the_package_gives(kind: str, tmp_path: Path) -> None:
    model = llama()
    found = loaded(write_gguf(tmp_path / "model.gguf", model, kind=Kind[kind]))
    exact = apart(found.module.double(), model.float())
    model.load_state_dict(rounded(model.float(), Kind[kind]))
    assert apart(found.module, model) < CLOSE
    assert exact > 1e-3  # the quantisation was not without effect


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_k_quants(kind: str, tmp_path: Path) -> None:
    """Only llama.cpp can write these quantisations, so the test fills the blocks itself."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    rows = np.random.default_rng(0).integers(0, 50, (4, size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    writer.add_tensor("output.weight", rows, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GGUF(tmp_path / "k.gguf").read("lm_head.weight")
    assert found.shape == (4, block)
    np.testing.assert_array_equal(found.numpy(), gguf.quants.dequantize(rows, Kind[kind]))


def llama3_factors(theta: float, K: int, factor: float) -> np.ndarray:
    """Computes the factors as llama.cpp's convert_hf_to_gguf.py does."""
    found = []
    for i in range(0, K, 2):
        wave = 2 * math.pi * theta ** (i / K)
        if wave < 8192 / 4:
            found.append(1.0)
        elif wave > 8192:
            found.append(factor)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def test_llama3_scaling_from_the_factors_that_are_stored(tmp_path: Path) -> None:
    said = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = llama(rope_parameters=said)
    factors = llama3_factors(5e5, 16, 32.0)
    assert len(set(factors.tolist())) > 2
    found = loaded(write_gguf(tmp_path / "model.gguf", model, rope_freqs=factors))
    assert apart(found.module, model) < CLOSE
    with pytest.raises(RequestError, match=r"rope_freqs.weight: expected the factors of Llama 3"):
        GGUF(write_gguf(tmp_path / "b.gguf", model, rope_freqs=factors * 1.1 + 1)).config()


def test_linear_scaling(tmp_path: Path) -> None:
    model = llama(rope_parameters=zoo.LINEAR)
    more = {"rope__scaling__type": "linear", "rope__scaling__factor": 2.5}
    found = loaded(write_gguf(tmp_path / "model.gguf", model, **more))
    assert apart(found.module, model) < CLOSE


def test_the_tokenizer_gives_the_ids_of_the_one_that_was_written(
    bpe: Tokenizer, tmp_path: Path
) -> None:
    file = GGUF(write_gguf(tmp_path / "m.gguf", llama(), tokenizer=bpe, end=bpe.end_of_text))
    tokenizer, ends = load_gguf_tokenizer(file)
    assert tokenizer.encode_batch(TEXT) == bpe.encode_batch(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT[0])) == TEXT[0]
    assert (tokenizer.end_of_text, ends.stops) == (bpe.end_of_text, (bpe.end_of_text,))
    # Special tokens are encoded as such in a prompt, never in the text of a corpus.
    assert tokenizer.encode("a<|endoftext|>")[-1] == bpe.end_of_text
    assert bpe.end_of_text not in bpe.encode("a<|endoftext|>")


def test_smollm_s_digits_stand_alone(bpe: Tokenizer, tmp_path: Path) -> None:
    text = "in 1862 and 1862"
    joined = BPE(vocab_size=290).train([text * 50])
    assert len(joined.encode("1862")) < 4
    file = GGUF(write_gguf(tmp_path / "m.gguf", llama(), tokenizer=joined, pre="smollm"))
    assert load_gguf_tokenizer(file)[0].encode("1862") == [
        joined.encode(digit)[0] for digit in "1862"
    ]


@pytest.mark.parametrize(("pre", "largest"), [("llama-bpe", 3), ("qwen2", 1)])
def test_splittings_by_name(pre: str, largest: int, bpe: Tokenizer, tmp_path: Path) -> None:
    digits = BPE(vocab_size=290).train(["12345678 " * 50])
    file = GGUF(write_gguf(tmp_path / "m.gguf", llama(), tokenizer=digits, pre=pre))
    tokenizer, _ = load_gguf_tokenizer(file)
    pieces = tokenizer.backend.pre_tokenizer.pre_tokenize_str("12345678 don't")
    assert max(len(piece) for piece, _ in pieces if piece.isdigit()) == largest
    assert [piece for piece, _ in pieces][-2:] == ["Ġdon", "'t"]


def test_a_tokenizer_json_beside_the_file_is_taken(bpe: Tokenizer, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", llama())
    with pytest.raises(RequestError, match=r"tokenizer.ggml.model = None: expected gpt2.*next to"):
        load_gguf_tokenizer(GGUF(file))
    bpe.save(tmp_path / "tokenizer.json")
    assert load_gguf_tokenizer(GGUF(file))[0].encode_batch(TEXT) == bpe.encode_batch(TEXT)


def test_an_unknown_splitting_is_refused(bpe: Tokenizer, tmp_path: Path) -> None:
    file = GGUF(write_gguf(tmp_path / "m.gguf", llama(), tokenizer=bpe, pre="tekken"))
    with pytest.raises(RequestError, match=r"tokenizer.ggml.pre = 'tekken'.*smollm.*next to"):
        load_gguf_tokenizer(file)


def change(file: Path, before: bytes, after: bytes) -> Path:
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after, 1))
    return file


def test_bad_files_are_told_in_one_message(tmp_path: Path) -> None:
    def written(**more: Any) -> Path:
        return write_gguf(tmp_path / "m.gguf", llama(), **more)

    def refused(file: Path) -> str:
        with pytest.raises(RequestError) as caught:
            loaded(file)
        assert len(caught.value.problems) == 1
        return str(caught.value)

    whole = written().read_bytes()
    for size in (0, 3, 20, 300, len(whole) // 2, len(whole) - 4):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        assert "expected a complete GGUF file" in refused(tmp_path / "cut.gguf")
    (tmp_path / "no.gguf").write_bytes(b"not one at all, but long enough to be read")
    assert "GGUF magic invalid" in refused(tmp_path / "no.gguf")
    assert "no such file" in refused(tmp_path / "gone.gguf")

    name = b"blk.0.ffn_up.weight"
    place = whole.index(name) + len(name) + 4 + 16  # dimensions, then the quantisation's number
    (tmp_path / "q.gguf").write_bytes(
        whole[:place] + (77).to_bytes(4, "little") + whole[place + 4 :]
    )
    assert "a tensor's type = 77: expected a quantisation that the gguf package" in refused(
        tmp_path / "q.gguf"
    )
    known = int(Kind.Q8_K).to_bytes(4, "little")
    (tmp_path / "k.gguf").write_bytes(whole[:place] + known + whole[place + 4 :])
    assert "k.gguf" in refused(tmp_path / "k.gguf")

    assert "general.architecture = 'gemma'" in refused(change(written(), b"llama", b"gemma"))
    assert "expert_count = 8: expected 0, the only supported value" in refused(
        written(expert_count=8)
    )
    assert "rope.scaling.type = 'yarn': expected none or linear" in refused(
        written(rope__scaling__type="yarn")
    )
    both = str(caught_of(change(written(), b"llama.block_count", b"llama.block_caunt")))
    assert "llama.block_count = None: expected a number" in both
    assert "llama.block_caunt = 2: expected a key that" in both
    assert "m.gguf, model.layers.1.mlp.up_proj.weight: expected a tensor" in str(
        caught_of(change(written(), b"blk.1.ffn_up.weight", b"blk.1.ffn_ab.weight"))
    )


def caught_of(file: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        loaded(file)
    return caught.value


def test_metadata_reads_as_a_released_config(tmp_path: Path) -> None:
    config = GGUF(write_gguf(tmp_path / "m.gguf", llama(rms_norm_eps=1e-5))).config()
    assert json.loads(json.dumps(config.values)) == config.values
    assert config.values["rms_norm_eps"] == 1e-5  # stored as 9.999999747e-06


def test_no_heads(tmp_path: Path) -> None:
    model = zoo.qwen3()
    model.config.num_attention_heads = 0
    file = write_gguf(tmp_path / "m.gguf", model, architecture="qwen3")
    with pytest.raises(
        RequestError, match=r"qwen3\.attention\.head_count = 0: expected a positive"
    ):
        GGUF(file).config()
