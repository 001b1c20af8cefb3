"""Constraints on the generated text rather than on its tokens: forbidden words and stop texts.

A word can be split into tokens in many ways (` the`, `The`, `t` + `he`). Therefore forbidden words
and stop texts are compared with characters: the joint text of the last tokens and of each possible
next token.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from etude.errors import Checks, Problem

REPLACEMENT = "\ufffd"
"""The replacement character, which replaces bytes that form no complete character."""

MAX_INCOMPLETE = 3
"""Maximum number of U+FFFD at the end of a text that further bytes can complete to a character.

A character has up to four bytes, and some tokenizers return one U+FFFD per byte."""

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class Tokenizer(Protocol):
    """Interface of the tokenizers that text generation can use."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens V."""

    @property
    def end_of_text(self) -> int | None:
        """The id of the end-of-text token; None if there is none."""

    def encode(self, text: str) -> list[int]:
        """Encodes a text to ids."""

    def decode(self, ids: list[int]) -> str:
        """Decodes ids to a text; bytes that form no character become U+FFFD."""


def problem_of_ids(ids: Tensor, size: int, name: str) -> Problem | None:
    """Returns a problem if an id is not in the vocabulary; otherwise None.

    Args:
        ids: token ids.
        size: number of tokens in the vocabulary.
        name: name of the argument, for the message.
    """
    outside = ids[(ids < 0) | (ids >= size)]
    if not len(outside):
        return None
    return Problem(name, f"ids from 0 to {size - 1}", int(outside[0]))


class TokenTexts:
    """Decoder of a tokenizer's tokens, as they are decoded in the middle of a text.

    Some tokenizers decode the first token of a text differently.

    Args:
        tokenizer: the tokenizer. All of its tokens are decoded once, on first use of the attribute
            `tokens`, the list of their texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._before = _find_complete_token(tokenizer)
        self._skip = len(tokenizer.decode(self._before))

    def __call__(self, ids: Sequence[int]) -> str:
        """Returns the text of those tokens in `ids` that follow the last end-of-text token.

        Without such a token, the text of all tokens is returned.
        """
        end = self.tokenizer.end_of_text
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] == end:
                ids = ids[i + 1 :]
                break
        return self.tokenizer.decode([*self._before, *ids])[self._skip :]

    @cached_property
    def tokens(self) -> list[str]:
        """The text of each token, case-folded; empty for the end-of-text token."""
        return [self([i]).casefold() for i in range(self.tokenizer.vocab_size)]

    @cached_property
    def sorted(self) -> tuple[list[str], list[int]]:
        """The texts of all tokens in sorted order, and the token ids in the same order."""
        order = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        return [self.tokens[i] for i in order], order

    @cached_property
    def partial(self) -> list[int]:
        """The ids of tokens that contain incomplete characters."""
        return [i for i, text in enumerate(self.tokens) if REPLACEMENT in text]

    def tokens_with_prefix(self, prefix: str) -> Iterator[tuple[int, str]]:
        """Yields the tokens whose text begins with `prefix`, as pairs (id, text after `prefix`).

        The texts are case-folded, as in the attribute `tokens`; `prefix` must be, too.
        """
        texts, order = self.sorted
        for i in range(bisect_left(texts, prefix), len(texts)):
            if not texts[i].startswith(prefix):
                return
            yield order[i], texts[i][len(prefix) :]


class ForbiddenWords:
    """Processor that forbids words, regardless of their split into tokens and of their case.

    A word that begins in the prompt is forbidden, too.

    Only whole words match: with `he` forbidden, `the` is allowed. A token that completes the word
    is forbidden unless its own text continues the word: the token `he` is forbidden, `hello` is
    not. In scripts without spaces, words are also forbidden inside others. A word may contain
    spaces; spaces around it are ignored. Strings without letters or digits (`://`) are forbidden
    anywhere.

    The processor does not prevent other encodings of the same characters (such as a separate
    combining accent). It does not prevent words that appear only when a tokenizer joins tokens
    (such as with WordPiece's spaces around punctuation).

    Args:
        spelling: a `TokenTexts` with the texts of the tokenizer's tokens.
        words: the forbidden words.

    Raises:
        InvalidArguments: a word is empty.
    """

    def __init__(self, spelling: TokenTexts, words: Sequence[str]) -> None:
        checks = Checks()
        for i, word in enumerate(words):
            checks.that(bool(word), f"forbidden[{i}]", word, "a non-empty word")
        checks.done()
        self.spelling = spelling
        self.words = sorted({(word.strip() or word).casefold() for word in words})
        # Each token has at least one byte; one more token shows the character before the word.
        self.reach = 4 + max((len(word.encode()) for word in self.words), default=0)
        holding = {i for word in self.words for i in self._tokens_containing(word)}
        self._always = torch.tensor(sorted(holding), dtype=torch.long)
        self._after = [
            [
                torch.tensor(self._tokens_completing(word, k), dtype=torch.long)
                for k in range(len(word))
            ]
            for word in self.words
        ]

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[:, self._always.to(logits.device)] = -torch.inf
        for row, ids in zip(logits, tokens[:, -self.reach :].tolist(), strict=True):
            unpadded = [i for i in ids if i >= 0]
            text = self.spelling(unpadded).casefold()
            for word, after in zip(self.words, self._after, strict=True):
                for k, banned in enumerate(after):
                    if len(banned) and _ends_with_start_of(text, word, k):
                        row[banned.to(row.device)] = -torch.inf
            if text.endswith(REPLACEMENT):
                banned = torch.tensor(
                    self._tokens_completing_character(unpadded, text), dtype=torch.long
                )
                row[banned.to(row.device)] = -torch.inf
        return logits

    def _tokens_containing(self, word: str) -> list[int]:
        """Returns the ids of the tokens that contain `word` as a whole word after their start.

        Tokens that contain the word only at their first character are not included.
        """
        return [
            i
            for i, text in enumerate(self.spelling.tokens)
            if word in text and any(start > 0 for start in _find_whole_words(text, word))
        ]

    def _tokens_completing(self, word: str, k: int) -> list[int]:
        """Returns the ids of the tokens that complete `word` after its first k characters."""
        candidates = self.spelling.tokens_with_prefix(word[k:])
        return [i for i, rest in candidates if not _in_same_word(word[-1], rest[:1])]

    def _tokens_completing_character(self, ids: list[int], text: str) -> list[int]:
        """Returns the ids of the tokens whose bytes complete both a character and a forbidden word.

        Args:
            ids: the last tokens of a row.
            text: the text of these tokens, which ends with an incomplete character.
        """
        words = [word for word in self.words if not word.isascii()]
        known = len(text.rstrip(REPLACEMENT))
        tokens = []
        for i in self.spelling.partial if words else ():
            longer = self.spelling([*ids, i]).casefold()
            if any(s + len(w) > known for w in words for s in _find_whole_words(longer, w)):
                tokens.append(i)
        return tokens


class StopText:
    """Stop rule that ends a row when its last tokens complete a stop text.

    The rule only ends the row; `etude.generation.streaming.StopTextFilter` removes the stop text.

    Args:
        spelling: a `TokenTexts` with the texts of the tokenizer's tokens.
        texts: the stop texts; upper and lower case must match.
        begins: whether some rows have no prompt, so that their new tokens are the start of a text,
            which may be decoded differently.

    Raises:
        InvalidArguments: a text is empty.
    """

    def __init__(self, spelling: TokenTexts, texts: Sequence[str], *, begins: bool = False) -> None:
        checks = Checks()
        for i, text in enumerate(texts):
            checks.that(bool(text), f"stop[{i}]", text, "a non-empty text")
        checks.done()
        self.spelling, self.texts, self.begins = spelling, list(texts), begins
        # Each token has at least one byte; the first tokens may belong to a previous character.
        self.reach = 4 + max((len(text.encode()) for text in texts), default=0)

    def __call__(self, new: Tensor) -> Tensor:
        """Returns, for each of R rows, whether it ends: a tensor of booleans of shape (R,).

        Args:
            new: ids of the new tokens, of shape (R, n).
        """
        rows = new[:, -self.reach - 1 :].tolist()
        return torch.tensor([self.ends(ids) for ids in rows], device=new.device)

    def ends(self, ids: Sequence[int]) -> bool:
        """Returns whether the last tokens of `ids` complete a stop text."""
        last = ids[-self.reach :]
        tail = strip_incomplete_character(self.spelling(last))
        is_complete = len(ids) <= self.reach
        if not is_complete:
            tail = tail.lstrip(REPLACEMENT)
        stops = [text for text in self.texts if text in tail]
        if stops and self.begins and is_complete:
            decoded = strip_incomplete_character(self.spelling.tokenizer.decode(list(ids)))
            stops = [text for text in stops if text in decoded]
        return bool(stops)


def strip_incomplete_character(text: str) -> str:
    """Removes U+FFFD at the end of `text`, if it stands for the first bytes of a character.

    Further tokens could complete this character. Other U+FFFD are kept.
    """
    known = len(text.rstrip(REPLACEMENT))
    return text[: max(known, len(text) - MAX_INCOMPLETE)]


def _find_complete_token(tokenizer: Tokenizer) -> list[int]:
    """Returns a list with the id of one token that consists of complete characters.

    Tokens after this token are decoded as in the middle of a text. The list is empty if the
    tokenizer has no such token.
    """
    for number in range(tokenizer.vocab_size):
        text = tokenizer.decode([number])
        if (
            number != tokenizer.end_of_text
            and text
            and not text.isspace()
            and REPLACEMENT not in text
        ):
            return [number]
    return []


def _find_whole_words(text: str, word: str) -> Iterator[int]:
    """Yields the positions at which `word` occurs in `text` as a whole word."""
    start = text.find(word)
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(word) :][:1]
        if not _in_same_word(before, word[0]) and not _in_same_word(word[-1], after):
            yield start
        start = text.find(word, start + 1)


def _ends_with_start_of(text: str, word: str, k: int) -> bool:
    """Returns whether `text` ends with the first k characters of `word`.

    These characters must be the start of a word in `text`, not the middle of another word.
    """
    if not text.endswith(word[:k]):
        return False
    return not _in_same_word(text[: len(text) - k][-1:], word[0])


def _in_same_word(left: str, right: str) -> bool:
    """Returns whether two adjacent characters belong to the same word.

    Args:
        left, right: the characters; an empty string, at an end of the text, belongs to no word.
    """
    return _is_word_character(left) and _is_word_character(right)


def _is_word_character(character: str) -> bool:
    if not character:
        return False
    if character.isascii():
        return character.isalnum() or character == "_"
    if unicodedata.category(character)[0] not in "LMN":
        return False
    return not unicodedata.name(character, "").startswith(_UNSPACED)
