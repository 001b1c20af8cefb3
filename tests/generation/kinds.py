"""Tokenizers of each kind: Étude's own, those of released models, and others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from etude.data.tokenizer import BPE, Byte, Char, Tokenizer, special_token
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece
from etude.interop.tokenizers import ReleasedTokenizer, load_gguf_tokenizer

TEXT = "The cat sat on the mat; cats, naïve café. 我爱北京。 Two  spaces\nand é, 🙂 too."
SPACE = "▁"
SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _pieces() -> list[str]:
    """Returns special tokens, bytes, letters and a few words, as in SentencePiece."""
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["the", "cat", "mat", "on", "é", "🙂", "北", "\ufffd", SPACE * 2, "\n"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    more = [SPACE + word for word in ("the", "cat", "Once", "北京")]
    return [*SPECIAL, *in_bytes, SPACE, *letters, "T", "O", ",", ".", *words, *more]


def _falling_back(decoder: list[Any], normalizer: Any = None, splitting: Any = None) -> Any:
    """Returns a byte-pair encoding with byte fallback, as of Llama, Gemma and Mistral."""
    numbers = {piece: number for number, piece in enumerate(_pieces())}
    merges = [("t", "h"), ("th", "e"), (SPACE, "the"), ("c", "a"), ("ca", "t"), (SPACE, "cat")]
    numbers |= {"".join(pair): len(numbers) + n for n, pair in enumerate(merges)}
    numbers = {piece: number for number, piece in enumerate(numbers)}
    model = models.BPE(numbers, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    if splitting is not None:
        backend.pre_tokenizer = splitting
    backend.decoder = decoders.Sequence(decoder)
    backend.add_special_tokens([special_token(name) for name in SPECIAL])
    return Tokenizer(backend)


def _metaspace_unigram() -> Tokenizer:
    """Returns a tokenizer like T5's, with an unknown token instead of bytes."""
    others = [piece for piece in _pieces() if not piece.startswith("<0x")]
    scores = [(piece, -1.0 - len(piece) / 9) for piece in others]
    backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always")
    backend.decoder = decoders.Metaspace(SPACE, "always")
    backend.add_special_tokens([special_token(name) for name in SPECIAL])
    return Tokenizer(backend)


def _ends_of_words() -> Tokenizer:
    """Returns a tokenizer like that of the first GPT: `</w>` marks the end of a word."""
    pieces = ["<unk>", *"abcdet", "a</w>", "t</w>", "cat</w>", "the</w>", ",</w>", "é</w>"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(numbers, [], unk_token="<unk>", end_of_word_suffix="</w>")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder("</w>")
    return Tokenizer(backend)


def _words() -> Tokenizer:
    """Returns a tokenizer of whole words without a decoder: the library joins them with spaces."""
    numbers = {word: n for n, word in enumerate(["<unk>", "the", "cat", "sat", "é", "北京", ";"])}
    backend = tokenizers.Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([special_token("<unk>")])
    return Tokenizer(backend)


def _tidied() -> Tokenizer:
    """Returns a tokenizer like the published BERT's, which removes spaces before punctuation."""
    tokenizer = WordPiece(vocab_size=150, lowercase=False).train([TEXT * 5])
    tokenizer.backend.decoder = decoders.WordPiece("##", cleanup=True)
    return Tokenizer(tokenizer.backend)


def _byte_level_with_more() -> Tokenizer:
    """Returns a byte-level tokenizer with added tokens and a gap in the ids."""
    backend = BPE(vocab_size=300).train([TEXT * 20]).backend
    names = ["café", "Ġx", "  ", "北京", "ÿþ"]
    backend.add_tokens([AddedToken(name, normalized=False) for name in names])
    backend.add_special_tokens([special_token("<|im_start|>")])
    return ReleasedTokenizer(backend)


def _gguf() -> Tokenizer:
    """Returns the tokenizer that `load_gguf_tokenizer` builds from a file's metadata."""
    spec = BPE(vocab_size=290).train([TEXT * 20])
    model = SimpleNamespace(**_model(spec))
    names = [*model.vocab, "<|im_start|>", "café"]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model.merges],
        "tokenizer.ggml.token_type": [1] * len(model.vocab) + [3, 4],
        "tokenizer.ggml.eos_token_id": len(names) - 2,
    }

    class File:
        where = Path("/nowhere/model.gguf")

        keys = staticmethod(values.keys)
        get = staticmethod(values.get)

    return load_gguf_tokenizer(File())[0]  # type: ignore[arg-type]


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    import json

    return dict(json.loads(tokenizer.backend.to_str())["model"])


class WithGaps(Tokenizer):
    """Tokenizer with ids beyond its vocabulary, as of a model with more rows than tokens."""

    vocab_size = 400  # type: ignore[assignment]


class AByteEach:
    """No tokenizer of ours: each byte that is part of no character becomes a U+FFFD of its own, as
    SentencePiece does it.
    """

    vocab_size = 256
    end_of_text = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        text = bytes(ids).decode(errors="surrogateescape")
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def of_every_kind() -> dict[str, Any]:
    prepended = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    first = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    always = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
    gemma = normalizers.Replace(" ", SPACE)
    stripped = [*LLAMA, decoders.Strip(" ", 1, 0)]
    return {
        "characters": Char().train([TEXT]),
        "bytes": Byte().train([TEXT]),
        "bpe": BPE(vocab_size=300).train([TEXT * 20]),
        "wordpiece": WordPiece(vocab_size=150).train([TEXT * 5]),
        "unigram": Unigram(vocab_size=280).train([TEXT * 3]),
        "llama": _falling_back(stripped, normalizer=prepended),
        "mistral": _falling_back(stripped, splitting=first),
        "gemma": _falling_back(LLAMA, normalizer=gemma),
        "metaspace": _falling_back(
            [decoders.ByteFallback(), decoders.Metaspace(SPACE, "always")], splitting=always
        ),
        "t5": _metaspace_unigram(),
        "gpt1": _ends_of_words(),
        "words": _words(),
        "tidied": _tidied(),
        "byte level, added tokens": _byte_level_with_more(),
        "gguf": _gguf(),
        "more ids": WithGaps(_falling_back(stripped, splitting=first).backend),
        "a byte each": AByteEach(),
    }


TOKENIZERS = of_every_kind()
FALLING_BACK = ["llama", "mistral", "gemma", "metaspace", "more ids"]
