"""Text to token ids and back: one wrapper, and the recipes that make a tokenizer from text.

Every tokenizer is a `tokenizers.Tokenizer` underneath, so that all of them share one file format
(`tokenizer.json`) that other libraries read too. A recipe is what a config states; it becomes a
tokenizer by being trained on the training split.

Ordinary text never becomes a special token: a document that contains the letters
`<|endoftext|>` is encoded letter by letter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from etude.errors import Checks, Problem, RequestError

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"

log = logging.getLogger("etude.data")


class Tokenizer:
    """Encodes text to token ids and decodes ids to text.

    Args:
        backend: the trained tokenizer of the `tokenizers` library.

    Attributes:
        end_of_text: the id of `<|endoftext|>`, which stands between documents, or None.
        unknown: the id of `<unk>`, which stands for what the vocabulary lacks, or None.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.encode_special_tokens = True  # text is text; the flag isn't stored in the file
        self.backend = backend
        self.end_of_text: int | None = backend.token_to_id(END_OF_TEXT)
        self.unknown: int | None = backend.token_to_id(UNKNOWN)

    @cached_property
    def vocab_size(self) -> int:
        """The number of token ids, special tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the canonical JSON: equal for tokenizers that encode alike."""
        return hashlib.sha256(_canonical(self.backend.to_str()).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`; no special token is added or recognised."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, on as many threads as the library uses."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens are shown by name, broken UTF-8 as U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def first_token_bytes(self, text: str) -> int:
        """How many UTF-8 bytes of `text` its first token stands for (0 for empty text)."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        if not encoding.ids:
            return 0
        if isinstance(self.backend.decoder, decoders.ByteLevel):
            return len(encoding.tokens[0])  # a byte-level token has one letter a byte
        start, end = encoding.offsets[0]
        return len(text[start:end].encode())

    def unknown_characters(self, text: str) -> Counter[str]:
        """The characters of `text` that only `<unk>` can stand for, with their counts."""
        if self.unknown is None:
            return Counter()
        counts = Counter(text)
        return Counter({c: n for c, n in counts.items() if self.unknown in self.encode(c)})

    def save(self, path: Path | str) -> None:
        """Writes `tokenizer.json`; a reader sees the old file or the new one, never a part."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(self.backend.to_str(pretty=True))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads a `tokenizer.json`.

        Raises:
            RequestError: the file is missing, unreadable or not a tokenizer.
        """
        expected = "a tokenizer.json of the tokenizers library"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(Problem(str(path), expected, hint=str(error))) from error
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises a bare Exception
            raise RequestError(Problem(str(path), expected, hint=str(error))) from error

    # The library's tokenizer forgets `encode_special_tokens` when it is pickled.
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _from_string, (self.backend.to_str(),)


class Recipe(ABC):
    """How to make a tokenizer from text: the config part of group `data/tokenizer`."""

    @abstractmethod
    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Reads `texts` once and returns the tokenizer; equal texts give equal tokenizers."""

    def settings(self) -> dict[str, object]:
        """What the tokenizer depends on besides the text, as plain JSON values."""
        return {"recipe": f"{type(self).__module__}.{type(self).__qualname__}", **vars(self)}


@dataclass(frozen=True)
class Char(Recipe):
    """One token a character, ids in order of code point, then `<|endoftext|>` and `<unk>`.

    A character that the training text lacks becomes `<unk>`.
    """

    def train(self, texts: Iterable[str]) -> Tokenizer:
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        vocabulary = {character: index for index, character in enumerate(sorted(characters))}
        vocabulary[END_OF_TEXT] = len(vocabulary)
        vocabulary[UNKNOWN] = len(vocabulary)
        # BPE without merges leaves single characters. Of the library's arrangements that do, it
        # is the fastest: it needs no splitting (1.7 s for 12 M characters; WordLevel 4.8 s).
        model = models.BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False)
        backend = tokenizers.Tokenizer(model)
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([_special(END_OF_TEXT), _special(UNKNOWN)])
        return Tokenizer(backend)


@dataclass(frozen=True)
class Byte(Recipe):
    """One token a UTF-8 byte, whose id is the byte's value; `<|endoftext|>` is 256."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([_special(END_OF_TEXT)])
        return Tokenizer(backend)


@dataclass(frozen=True)
class BPE(Recipe):
    """Byte-level byte-pair encoding with GPT-2's splitting (Radford et al. 2019, section 2.2).

    Ids as in GPT-2: 256 bytes, then merges in the order they were learnt, `<|endoftext|>` last.

    Args:
        vocab_size: the number of ids, all included; a text too small for that many merges gives
            fewer.
    """

    vocab_size: int = 8192

    def __post_init__(self) -> None:
        checks = Checks()
        expected = "at least 257 (256 bytes and <|endoftext|>)"
        checks.that(self.vocab_size >= 257, "vocab_size", self.vocab_size, expected)
        checks.done()

    def train(self, texts: Iterable[str]) -> Tokenizer:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.add_special_tokens([_special(END_OF_TEXT)])
        tokenizer = Tokenizer(backend)
        if tokenizer.vocab_size < self.vocab_size:
            log.warning(
                "the text has only %d pieces worth a token; data.tokenizer.vocab_size asks for %d",
                tokenizer.vocab_size,
                self.vocab_size,
            )
        return tokenizer


def _special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False)


def _byte_letters() -> list[str]:
    """The printable letter that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _from_string(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))
