"""Tokenizer of a released model whose tokenizer is missing or cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from etude.errors import Problem, RequestError


class NoTokenizer:
    """Replacement of a missing tokenizer: the model reads token ids, and texts are refused.

    Args:
        vocab_size: number of tokens of the model.
        reason: why there is no tokenizer.

    Attributes:
        has_texts: false: ids have no texts.
    """

    end_of_text = None
    has_texts = False

    def __init__(self, vocab_size: int, reason: RequestError) -> None:
        self.vocab_size, self.reason = vocab_size, reason

    def encode(self, text: str) -> NoReturn:
        """Raises `RequestError`, because there is no tokenizer."""
        raise self._error()

    def decode(self, ids: Sequence[int]) -> NoReturn:
        """Raises `RequestError`, because there is no tokenizer."""
        raise self._error()

    def framed(self, texts: Sequence[str]) -> NoReturn:
        """Raises `RequestError`, because there is no tokenizer."""
        raise self._error()

    def _error(self) -> RequestError:
        hint = "this model has none; pass token ids, or add a tokenizer to the folder"
        problem = Problem("tokenizer", "a tokenizer, which texts need", hint=hint)
        return RequestError([problem, *self.reason.problems])

    def __repr__(self) -> str:
        return f"NoTokenizer(vocab_size={self.vocab_size})"
