"""A tokenizer's parts are looked up before the library sees them: what is not known is refused."""

from __future__ import annotations

import base64
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from etude.data.tokenizer import BPE, Byte, Char, Tokenizer
from etude.data.tokenizer_parts import KNOWN, bounded
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece
from etude.errors import RequestError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OTHERS = (r" ?[^(\s|[.,!?…。，、।۔،])]+", " {2,}", "▁", r"\d{1,3}(?=(?:\d{3})*\b)", r"[一-龥]+")


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3, DEEPSEEK, O200K, *OTHERS])
def test_what_released_tokenizers_split_with_is_accepted(pattern: str) -> None:
    assert bounded(pattern) is None
    assert tokenizers.Regex(pattern) is not None  # and is a regular expression to the library


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a)*b", "(?:a*)*", "a?" * 30 + "a" * 30, "a*a*a*a*b", r"(\w)\1+", "a{1,9999}",
        r"(?<n>a)\g<n>", "(a|b)" * 9, "(", ")", "[", "*a", "a" * 5000, "((((((((((a))))))))))",
    ],
)  # fmt: skip
def test_an_expression_that_could_match_for_ever_is_refused(tmp_path: Path, pattern: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    with pytest.raises(RequestError, match=r"pre_tokenizer\.pattern"):
        Tokenizer.load(written(tmp_path, pre_tokenizer={**split, "invert": False}))


def written(folder: Path, **parts: Any) -> Path:
    """A tokenizer of letters with other parts."""
    spec = json.loads(Char().train(["abc"]).backend.to_str()) | parts
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(spec))
    return file


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def _table(longest: int) -> str:
    return base64.b64encode((8).to_bytes(4, "little") + bytes(8) + b"x" * longest + b"\0").decode()


def _template(count: int) -> dict[str, Any]:
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing", "single": [piece] * count, "pair": [], "special_tokens": {},
    }  # fmt: skip


ENDLESS: dict[str, tuple[dict[str, Any], str]] = {
    "a letter becomes many": ({"normalizer": _replace("a", "b" * 1000)}, "normalizer.content"),
    "doubled 30 times": (
        {"normalizer": {"type": "Sequence", "normalizers": [_replace("a", "aa")] * 30}},
        "at most 16 times as long",
    ),
    "a table of long entries": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _table(100_000)}},
        "precompiled_charsmap",
    ),
    "a long template": ({"post_processor": _template(10_000)}, "at most 64 pieces"),
    "a very long one": ({"post_processor": _template(140_000)}, "opening braces"),
    "a prefix of a megabyte": (
        {"decoder": {"type": "WordPiece", "prefix": "a" * 2**20, "cleanup": False}},
        "decoder.prefix",
    ),
    "sequences within sequences": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 100,
            }
        },
        "at most 32 parts",
    ),
    "a model with a long suffix": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "a" * 99}},
        "model.end_of_word_suffix",
    ),
    "words without an end": (
        {
            "model": {
                "type": "WordPiece",
                "vocab": {"[UNK]": 0},
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 10**9,
            }
        },
        "max_input_chars_per_word",
    ),
    "ids in the thousand millions": (
        {"model": {"type": "BPE", "vocab": {"a": 4_000_000_000}, "merges": []}},
        "ids up to",
    ),
    "a hundred thousand added tokens": (
        {"added_tokens": [{"id": i, "content": f"<{i}>"} for i in range(100_000)]},
        "at most 65,536 tokens",
    ),
    "a part that is not known": ({"normalizer": {"type": "Shell"}}, "normalizer.type"),
    "a field that is not known": (
        {"normalizer": {"type": "NFC", "command": "true"}},
        "normalizer.command",
    ),
    "a key that is not known": ({"plugins": []}, "plugins"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_could_take_endless_work_is_refused_at_once(tmp_path: Path, name: str) -> None:
    parts, said = ENDLESS[name]
    file = written(tmp_path, **parts)
    began = time.process_time()
    with pytest.raises(RequestError) as refused:
        Tokenizer.load(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)
    assert len(str(refused.value)) < 3000
    assert time.process_time() - began < 2


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """One reader takes the first, another the last."""
    file = written(tmp_path)
    file.write_text(file.read_text().replace('"version"', '"normalizer": null, "version"', 1))
    with pytest.raises(RequestError, match="stands twice in one object"):
        Tokenizer.load(file)


def test_every_part_of_the_library_is_known() -> None:
    """A part that a later version of it adds is refused until somebody has looked at it."""
    modules = {
        "normalizer": normalizers, "pre_tokenizer": pre_tokenizers, "post_processor": processors,
        "decoder": decoders, "model": models,
    }  # fmt: skip
    for slot, module in modules.items():
        bases = ("Normalizer", "PreTokenizer", "PostProcessor", "Decoder", "Model", "DecodeStream")
        names = {n for n, value in vars(module).items() if inspect.isclass(value)} - set(bases)
        assert names == set(KNOWN[slot])


@pytest.mark.parametrize(
    "recipe", [Char, Byte, lambda: BPE(280), lambda: WordPiece(60), lambda: Unigram(300)]
)
def test_what_training_writes_is_read(tmp_path: Path, recipe: Callable[[], Any]) -> None:
    texts = ["the quick brown fox jumps over the lazy dog", "and the cats ran over the dogs"] * 20
    tokenizer = recipe().train(texts).with_frame().with_special(["<x>"])
    tokenizer.save(tmp_path / "tokenizer.json")
    read = Tokenizer.load(tmp_path / "tokenizer.json", links=False)
    assert read.fingerprint == tokenizer.fingerprint
