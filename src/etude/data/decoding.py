"""Token ids back to text, without the characters that the library `tokenizers` loses.

Two of its decoders lose some. `ByteFallback` (SentencePiece's `<0xE4>`, one token a byte) replaces
*all* bytes of a run by U+FFFD when one of them is part of no character; so a letter that was whole
disappears when half of another follows. `ByteLevel` reads the name of an added token as letters
that stand for bytes, where it can: `café` becomes `caf` and a broken byte. Here only the bytes that
are part of no character become U+FFFD, as in Python's `bytes.decode(errors="replace")`, and an
added token is its name. All other ids give what the library gives.
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
    """Decodes the ids of one tokenizer.

    Args:
        backend: the tokenizer, complete with its added tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend, self.decoder = backend, backend.decoder
        kinds = _kinds(self.decoder)
        self._falls_back = "ByteFallback" in kinds
        self._names = _misread_names(backend) if "ByteLevel" in kinds else {}

    def __call__(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens by name."""
        if self._names and not self._names.keys().isdisjoint(ids):
            return str(self.decoder.decode(self._tokens(ids)))
        text = str(self.backend.decode(ids, skip_special_tokens=False))
        if self._falls_back and BROKEN in text:
            return str(self.decoder.decode(list(_without_broken(self._tokens(ids)))))
        return text

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        """As the decoder takes them; an id that stands for nothing is left out, as there."""
        found = (self._names.get(i) or self.backend.id_to_token(i) for i in ids)
        return [token for token in found if token is not None]


def byte_letters() -> list[str]:
    """The printable letter that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _without_broken(tokens: list[str]) -> Iterator[str]:
    """`tokens` with U+FFFD in the place of bytes that are part of no character.

    The bytes of whole characters stay tokens: the library decodes them in the place that
    `ByteFallback` has among its steps.
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
    """The kinds of a decoder's steps."""
    state = {} if decoder is None else json.loads(decoder.__getstate__())
    return {step.get("type", "") for step in state.get("decoders", [state])}


def _misread_names(backend: tokenizers.Tokenizer) -> dict[int, str]:
    """The added tokens whose names a byte-level decoder takes for bytes, spelt so that it gives
    their names. One that the model also makes of text by itself does stand for bytes.
    """
    letters = byte_letters()
    found = {}
    for number, token in backend.get_added_tokens_decoder().items():
        name = token.content
        misread = not name.isascii() and set(name) <= set(letters)
        if misread and not _spells(backend.model, name, number):
            found[number] = "".join(letters[byte] for byte in name.encode())
    return found


def _spells(model: Any, word: str, number: int) -> bool:
    """Whether the model itself makes this one token of a word."""
    try:
        return [token.id for token in model.tokenize(word)] == [number]
    except Exception:  # the library raises a bare Exception where a word is unknown
        return False
