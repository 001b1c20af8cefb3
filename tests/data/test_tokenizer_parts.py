"""A tokenizer's parts are looked up before the library sees them: what is not known is refused."""

from __future__ import annotations

import base64
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from etude.data.expressions import find_problem
from etude.data.panics import no_panic
from etude.data.tokenizer import BPE, Byte, Char, Tokenizer
from etude.data.tokenizer_parts import KNOWN
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
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
CLIP = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|"
    r"[^\s\p{L}\p{N}]+"
)
QWEN3_5 = LLAMA3.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"\p{N}{1,3}", r"\p{N}")
KIMI = r"[\p{Han}]+|" + O200K.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
OTHERS = (
    r" ?[^(\s|[.,!?…。，、।۔،])]+", " {2,}", "▁", r"\d{1,3}(?=(?:\d{3})*\b)", r"[一-龥]+", r"\s+$",
    r"\s?\p{L}+", r"\s{2,}|[\n\r\t]", "^▁+$", " +▁", "[0-9][0-9][0-9]", r"(\s+|a)", r"\s",
)  # fmt: skip
WHOLE = (GPT2, LLAMA3, DEEPSEEK, O200K, NANOCHAT, CL100K, CLIP, QWEN3_5, KIMI)


@pytest.mark.parametrize("pattern", [*WHOLE, *OTHERS])
def test_what_released_tokenizers_split_with_is_accepted(pattern: str) -> None:
    assert find_problem(pattern) is None
    assert tokenizers.Regex(pattern) is not None  # and is a regular expression to the library


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a)*b", "(?:a*)*", "a?" * 30 + "a" * 30, "a*a*a*a*b", r"(\w)\1+", "a{1,9999}",
        r"(?<n>a)\g<n>", "(a|b)" * 9, "(", r"\w*\w*\w*(?=!)(?!!)", r"[\s\S]*\x00", r"\w*!",
        r"(?=[\s\S]*a)b", r"\s*a|x|\s+", r"\s*a|\s+?", r"\s*a|x\s+", r"(?:\s*a)|\s+",
        "(?:a|[ab]|[^c]|[^d]|[^e])" * 6 + "x", "[ab]{1,256}[ab]{1,256}c", "a{1,9}+b", "a{3}?b",
        "a(?i)b|c", "(?x)a # (", r"(?:(?:\b{99}){99}){99}", r"(?:(?=a)){99}",
        r"\s*a|\s*b|\d*b|\s+|\d+",
         ")", "[", "*a", "a" * 5000, "((((((((((a))))))))))",
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
    """Of SentencePiece's kind: `a` becomes many x."""
    units = [0] * 512
    units[0] = 256 << 10  # the root's followers are at 256 ^ letter
    place = 256 ^ ord("a")
    units[place] = ord("a") | 1 << 8 | (place ^ 256) << 10  # a text is at 256
    units[256] = 1 << 31  # the first one
    trie = np.array(units, dtype="<u4").tobytes()
    texts = b"x" * longest + b"\0"
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + texts).decode()


def _leading_out() -> str:
    return base64.b64encode((16).to_bytes(4, "little") + b"\xff" * 16 + b"ab\0").decode()


def _template(count: int) -> dict[str, Any]:
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing", "single": [piece] * count, "pair": [], "special_tokens": {},
    }  # fmt: skip


ENDLESS: dict[str, tuple[dict[str, Any], str]] = {
    "a letter becomes many": ({"normalizer": _replace("a", "b" * 1000)}, "normalizer.content"),
    "doubled 30 times": (
        {"normalizer": {"type": "Sequence", "normalizers": [_replace("a", "aa")] * 30}},
        "components that together make a text at most 16 times as long",
    ),
    "a table of long entries": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _table(100_000)}},
        "precompiled_charsmap",
    ),
    "a long template": ({"post_processor": _template(10_000)}, "at most 64 pieces"),
    "a very long one": ({"post_processor": _template(140_000)}, "at most 262,144 occurrences of {"),
    "a text again and again": (
        {"post_processor": _template(2)},
        "a template in which each text (Sequence) occurs at most once",
    ),
    "templates of templates": (
        {"post_processor": {"type": "Sequence", "processors": [_template(1)] * 2}},
        "at most 1 component of type TemplateProcessing, not 2",
    ),
    "bytes of bytes": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 31}},
        "at most 1 component of type ByteLevel, not",
    ),
    "bytes of bytes of words": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 2}},
        "at most 1 component of type ByteLevel, not",
    ),
    "parts that each double a text": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [_replace("a", "aaaa"), {"type": "Prepend", "prepend": "a"}],
            },
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "ByteLevel"}, {"type": "Metaspace"}],
            },
        },
        "normalizer and pre_tokenizer: expected components that together make a text at most "
        "16 times as long, not 32 times",
    ),
    "a letter that has 18 in another form": (
        {"normalizer": _replace("a", "\ufdfa")},
        "components that together make a text at most 16 times as long",
    ),
    "a long prefix": (
        {"normalizer": {"type": "Prepend", "prepend": "a" * 64}},
        "components that together make a text at most 16 times as long",
    ),
    "a decoder that puts spaces between": (
        {
            "decoder": {
                "type": "Sequence",
                "decoders": [{"type": "BPEDecoder", "suffix": ""}] * 9,
            }
        },
        "at most 1 component of type BPEDecoder, not 9",
    ),
    "millions of lists": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [[]] * 2_200_000}},
        "at most 2,097,152 occurrences of [",
    ),
    "a token of thousands of letters": (
        {"added_tokens": [{"id": 9, "content": "a" * 1001}]},
        "a text of at most 1,000 characters, or null",
    ),
    "many tokens of many letters": (
        {"added_tokens": [{"id": i, "content": f"{i}" + "a" * 900} for i in range(5000)]},
        "at most 4,000,000 characters in all tokens together, not",
    ),
    "words of no letter": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "length"),
    "long pieces at each letter": (
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a" * 257, -1.0]]}},
        "tokens of at most 256 characters",
    ),
    "a prefix that the merges lack": (
        {
            "model": {
                "type": "BPE",
                "vocab": {"z": 0, "zz": 1},
                "merges": [["z", "z"]],
                "continuing_subword_prefix": "####",
            }
        },
        "a merge whose second token begins with the prefix ####",
    ),
    "a decoder that takes letters from an empty word": (
        {"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 1}},
        "decoder.stop",
    ),
    "a table that leads out of itself": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _leading_out()}},
        "a valid SentencePiece table, without references to positions outside the table",
    ),
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
        "at most 32 components",
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
        "ids that are whole numbers from 0 to 16,777,215",
    ),
    "very many added tokens": (
        {"added_tokens": [{"id": i, "content": f"<{i}>"} for i in range(131_073)]},
        "at most 131,072 tokens",
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


USUAL: dict[str, dict[str, Any]] = {
    "Llama": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace("▁", " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    },
    "T5": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": _table(11)},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
            ],
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
    },
    "ALBERT": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                _replace("``", '"'),
                _replace("''", '"'),
                *({"type": each} for each in ("NFKD", "StripAccents", "Lowercase")),
                {"type": "Precompiled", "precompiled_charsmap": _table(11)},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        }
    },
    "many added tokens": {
        "added_tokens": [
            {
                "id": 10 + i,
                "content": f"<extra_id_{i}>",
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "special": True,
            }
            for i in range(10_000)
        ]
    },
}


@pytest.mark.parametrize("name", USUAL)
def test_what_released_tokenizers_consist_of_is_accepted(tmp_path: Path, name: str) -> None:
    assert Tokenizer.load(written(tmp_path, **USUAL[name])).encode("abc")


def test_a_table_replaces_what_it_says(tmp_path: Path) -> None:
    parts = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _table(3)}}
    tokenizer = Tokenizer.load(written(tmp_path, **parts))
    assert tokenizer.backend.normalizer.normalize_str("bab") == "bxxxb"


class TestAPanicOfTheLibrary:
    """Which `check_parts` refuses, where it knows it."""

    def test_of_a_call_names_the_file_and_says_what_it_said(self) -> None:
        backend = Char().train(["abc"]).backend
        backend.pre_tokenizer = pre_tokenizers.FixedLength(length=0)
        tokenizer = Tokenizer(backend, "theirs.json")
        for call in (
            lambda: tokenizer.encode("abc"),
            lambda: tokenizer.framed(["abc"]),
            lambda: tokenizer.encode_special("abc"),
            lambda: tokenizer.unknown_pieces("abc"),
            lambda: tokenizer.first_token_bytes("abc"),
        ):
            with pytest.raises(
                RequestError, match=r"^theirs\.json: .*failed with an internal error: .*zero"
            ):
                call()

    def test_of_decoding(self) -> None:
        backend = Char().train(["abc"]).backend
        backend.decoder = decoders.Strip("a", 64, 64)
        with pytest.raises(RequestError, match="the library failed with an internal error"):
            Tokenizer(backend).decode([0])

    def test_of_reading(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etude.data.tokenizer.check_parts", lambda *_: None)
        file = written(tmp_path, **ENDLESS["a prefix that the merges lack"][0])
        with pytest.raises(RequestError, match="the library failed with an internal error"):
            Tokenizer.load(file)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
    def test_nothing_else_is_held_back(self, error: type[BaseException]) -> None:
        with pytest.raises(error), no_panic("x"):
            raise error


@pytest.mark.parametrize("kind", [None, [], {}, 3, "Fused", ["Fuse"]])
def test_a_part_of_no_kind_is_named(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(RequestError, match=r"decoder\.type.*expected one of .*Fuse"):
        Tokenizer.load(written(tmp_path, decoder={"type": kind}))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """One reader takes the first, another the last."""
    file = written(tmp_path)
    file.write_text(file.read_text().replace('"version"', '"normalizer": null, "version"', 1))
    with pytest.raises(RequestError, match=r"duplicate key .* in an object"):
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
