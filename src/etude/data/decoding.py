"""Decoding of token ids that preserves characters which the `tokenizers` library loses.

Two decoders of the library lose characters. `ByteFallback` (SentencePiece's `<0xE4>`, one token per
byte) replaces *all* of several consecutive bytes by U+FFFD if one of them belongs to no complete
character; so a complete character next to an incomplete one is lost. `ByteLevel` reads the name of
an added token as letters that represent bytes, if possible: `café` becomes `caf` and an invalid
byte. In this module, only bytes that belong to no complete character become U+FFFD, as in Python's
`bytes.decode(errors="replace")`, and an added token is decoded to its name. All other ids are
decoded as in the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import tokenizers

BROKEN = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Decoding:
    """Function that decodes the ids of one tokenizer to text without losing characters.

    The function takes a list of ids. Special tokens appear in the text as their names.

    Args:
        backend: the tokenizer of the `tokenizers` library, with its added tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend, self.decoder = backend, backend.decoder
        kinds = _kinds(self.decoder)
        self._falls_back = "ByteFallback" in kinds
        self._names = _misread_names(backend) if "ByteLevel" in kinds else {}

    def __call__(self, ids: list[int]) -> str:
        """Returns the text of `ids`, in which special tokens appear as their names."""
        if self._names and not self._names.keys().isdisjoint(ids):
            return str(self.decoder.decode(self._tokens(ids)))
        text = str(self.backend.decode(ids, skip_special_tokens=False))
        if self._falls_back and BROKEN in text:
            return str(self.decoder.decode(list(_without_broken(self._tokens(ids)))))
        return text

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the tokens of `ids`; ids without a token are skipped, as in the library."""
        tokens = (self._names.get(i) or self.backend.id_to_token(i) for i in ids)
        return [token for token in tokens if token is not None]


def byte_letters() -> list[str]:
    """Returns the 256 printable letters that represent bytes in byte-level tokenizers.

    The letter at index b represents the byte b, as in GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _without_broken(tokens: list[str]) -> Iterator[str]:
    """Yields `tokens`, with U+FFFD in place of bytes that belong to no complete character.

    A byte is a token such as `<0xE4>`. The bytes of complete characters remain such tokens; the
    library's `ByteFallback` decoder converts them to text later.
    """
    for are_bytes, run in groupby(tokens, lambda token: _BYTE.fullmatch(token) is not None):
        if not are_bytes:
            yield from run
            continue
        text = bytes(int(token[3:5], 16) for token in run).decode(errors="replace")
        for character in text:
            if character == BROKEN:
                yield character
            else:
                yield from (f"<0x{byte:02X}>" for byte in character.encode())


def _kinds(decoder: Any) -> set[str]:
    """Returns the set of the type of a decoder, or of the types of all decoders in a `Sequence`.

    A type is a name such as `ByteLevel`. Without a decoder, the set contains the empty string.
    A `Sequence` within another one is not followed; its type is `Sequence`.

    Args:
        decoder: decoder of the `tokenizers` library, or None.
    """
    state = {} if decoder is None else json.loads(decoder.__getstate__())
    return {step.get("type", "") for step in state.get("decoders", [state])}


def _misread_names(backend: tokenizers.Tokenizer) -> dict[int, str]:
    """Returns the added tokens whose names a byte-level decoder misreads as bytes.

    Added tokens that the model also creates from text do represent bytes, and are excluded.

    Returns:
        A dict from each token's id to its name in the letters of `byte_letters`, one letter per
        byte. The decoder converts these letters to the original name.
    """
    letters = byte_letters()
    encoded_names = {}
    for number, token in backend.get_added_tokens_decoder().items():
        name = token.content
        misread = not name.isascii() and set(name) <= set(letters)
        if misread and not _is_own_token(backend.model, name, number):
            encoded_names[number] = "".join(letters[byte] for byte in name.encode())
    return encoded_names


def _is_own_token(model: Any, word: str, number: int) -> bool:
    """Returns whether a tokenizer's model encodes `word` as one token, with the id `number`.

    Args:
        model: model of the `tokenizers` library.
        word: text that is passed to the model directly, without normalizer and pre-tokenizer.
        number: id of a token.
    """
    try:
        return [token.id for token in model.tokenize(word)] == [number]
    except Exception:  # the library raises a bare Exception where a word is unknown
        return False
