"""Texts of tokens in which spaces, newlines and invisible characters are visible."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from etude.data.decoding import byte_letters
from etude.escaping import printable
from etude.generation.text_constraints import REPLACEMENT, TokenTexts

MARKS: dict[str, str | int | None] = {" ": "␣", "\n": "↵", "\t": "⇥"}
"""Visible marks of the usual characters without ink."""
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
_BYTES = {letter: byte for byte, letter in enumerate(byte_letters())}


def visible(text: str) -> str:
    r"""Returns a text in which every character is visible.

    Spaces, newlines and tabs become the marks of `MARKS`. Other spaces, control characters and
    invisible characters become codes such as `\u3000`. A combining mark at the start gets a dotted
    circle.
    """
    text = printable(text.translate(str.maketrans(MARKS)))
    if text and not text.strip(_JOINERS):
        return "".join(f"\\u{ord(c):04x}" for c in text)
    text = "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) == "Zs" else c for c in text)
    return f"◌{text}" if text and unicodedata.category(text[0])[0] == "M" else text


class TokenLabels:
    r"""Function that returns a visible label for each id of a sequence.

    A label is the text of the token as in the middle of a text, or the name of a special token. If
    a character consists of several tokens, the last one has the character after an ellipsis, as in
    `…你`, and the others have their bytes, as in `\xe4\xbd`.

    Args:
        tokenizer: the tokenizer. If it is None or has no texts, the labels are the ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        has_texts = tokenizer is not None and getattr(tokenizer, "has_texts", True)
        self._tokenizer = tokenizer
        self._text = TokenTexts(tokenizer) if has_texts else None

    def __call__(self, ids: Sequence[int]) -> list[str]:
        return list(self._labels(ids))

    def _labels(self, ids: Sequence[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            text = str(token) if self._text is None else self._text([token])
            if REPLACEMENT not in text:
                decoder.reset()
                yield visible(text) or visible(self._name(token)) or f"id {token}"
                continue
            part = _bytes_of(self._name(token))
            continues = bool(decoder.getstate()[0])
            text = decoder.decode(part)
            if not part:
                yield visible(self._name(token)) or REPLACEMENT
            elif REPLACEMENT in text or not text:
                yield visible(part.decode(errors="backslashreplace"))
            else:
                rest = decoder.getstate()[0].decode(errors="backslashreplace")
                yield visible(("…" if continues else "") + text + rest)

    def _name(self, token: int) -> str:
        """Returns a token's name in the vocabulary; empty if the id has none."""
        backend = getattr(self._tokenizer, "backend", None)
        return "" if backend is None else backend.id_to_token(token) or ""


def _bytes_of(name: str) -> bytes:
    """Returns the bytes of a token of a byte-level tokenizer, or of a token such as `<0xE4>`."""
    if name.startswith("<0x") and len(name) == 6:
        return bytes.fromhex(name[3:5])
    return bytes(_BYTES[letter] for letter in name) if set(name) <= _BYTES.keys() else b""
