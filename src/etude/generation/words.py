"""Where text, not tokens, decides: words that must not be written, and text that ends a text.

The same words can be cut into tokens in many ways (` the`, `The`, `t` + `he`), so both look at
characters: at what the tokens written last and each possible next one spell together.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from etude.errors import Checks

REPLACEMENT = "\ufffd"
"""What a tokenizer shows for bytes that are no character, or not all of one."""

MAX_INCOMPLETE = 3
"""The most U+FFFD at the end of a text that further bytes can turn into a character: of a character
of four bytes three may be there, and some tokenizers give one for each."""

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document, if there is one."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def decode(self, ids: list[int]) -> str:
        """Ids to text; bytes that form no character become U+FFFD."""


class Spelling:
    """What tokens spell in the middle of a text; some tokenizers write a text's first differently.

    Args:
        tokenizer: asked for every token once, when that is first needed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._before = _find_complete_token(tokenizer)
        self._skip = len(tokenizer.decode(self._before))

    def __call__(self, ids: Sequence[int]) -> str:
        """The text of `ids`, or of those after the last end of text among them."""
        end = self.tokenizer.end_of_text
        for place in range(len(ids) - 1, -1, -1):
            if ids[place] == end:
                ids = ids[place + 1 :]
                break
        return self.tokenizer.decode([*self._before, *ids])[self._skip :]

    @cached_property
    def tokens(self) -> list[str]:
        """The text of each token, in lower case; nothing for the end of text."""
        return [self([i]).casefold() for i in range(self.tokenizer.vocab_size)]

    @cached_property
    def sorted(self) -> tuple[list[str], list[int]]:
        """The texts in alphabetical order, and the token of each."""
        order = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        return [self.tokens[i] for i in order], order

    @cached_property
    def partial(self) -> list[int]:
        """Tokens with parts of characters in them."""
        return [i for i, text in enumerate(self.tokens) if REPLACEMENT in text]

    def tokens_with_prefix(self, prefix: str) -> Iterator[tuple[int, str]]:
        """The tokens whose text begins so, and the rest of their text."""
        texts, order = self.sorted
        for place in range(bisect_left(texts, prefix), len(texts)):
            if not texts[place].startswith(prefix):
                return
            yield order[place], texts[place][len(prefix) :]


class ForbiddenWords:
    """A processor that keeps words from being written, however they are cut into tokens, in upper
    or lower case, after a space or not, and also where the prompt begins one.

    Words are whole: with `he` forbidden, `the` may be written. A token that completes the word is
    forbidden unless it goes on with the same word itself: `he` is, a token `hello` is not. Words
    of scripts without spaces are forbidden within others. A word may have spaces in it; those
    around it don't count. What is no word (`://`) is forbidden wherever it stands.

    Not prevented: other spellings of the same look (an accent as a character of its own), and
    what a tokenizer changes when it joins tokens to text (WordPiece's spaces around punctuation).

    Args:
        spelling: of the tokenizer.
        words: those not to be written.

    Raises:
        InvalidArguments: an empty word.
    """

    def __init__(self, spelling: Spelling, words: Sequence[str]) -> None:
        checks = Checks()
        for i, word in enumerate(words):
            checks.that(bool(word), f"forbidden[{i}]", word, "a word")
        checks.done()
        self.spelling = spelling
        self.words = sorted({(word.strip() or word).casefold() for word in words})
        # Each token spells a character or more, if not always a whole one; and one token more,
        # to know what stands before the word.
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
            written = [i for i in ids if i >= 0]
            text = self.spelling(written).casefold()
            for word, after in zip(self.words, self._after, strict=True):
                for k, banned in enumerate(after):
                    if len(banned) and _ends_with_start_of(text, word, k):
                        row[banned.to(row.device)] = -torch.inf
            if text.endswith(REPLACEMENT):
                banned = torch.tensor(
                    self._tokens_completing_character(written, text), dtype=torch.long
                )
                row[banned.to(row.device)] = -torch.inf
        return logits

    def _tokens_containing(self, word: str) -> list[int]:
        """The tokens that hold the whole word, but not at their beginning."""
        return [
            i
            for i, text in enumerate(self.spelling.tokens)
            if word in text and any(start > 0 for start in _find_whole_words(text, word))
        ]

    def _tokens_completing(self, word: str, k: int) -> list[int]:
        """The tokens that complete the word after its first k characters."""
        found = self.spelling.tokens_with_prefix(word[k:])
        return [i for i, rest in found if not _in_same_word(word[-1], rest[:1])]

    def _tokens_completing_character(self, written: list[int], text: str) -> list[int]:
        """The tokens that complete a word with the last bytes of a character."""
        words = [word for word in self.words if not word.isascii()]
        known = len(text.rstrip(REPLACEMENT))
        found = []
        for i in self.spelling.partial if words else ():
            longer = self.spelling([*written, i]).casefold()
            if any(s + len(w) > known for w in words for s in _find_whole_words(longer, w)):
                found.append(i)
        return found


class StopText:
    """Says which rows end, because what they wrote last completes one of some texts.

    Where the text is cut is decided by `etude.generation.streaming.StopTextFilter`; here a row only ends
    early.

    Args:
        spelling: of the tokenizer.
        texts: that end a row.
        begins: whether some rows begin a text, with a first token that may be spelt differently.

    Raises:
        InvalidArguments: an empty text.
    """

    def __init__(self, spelling: Spelling, texts: Sequence[str], *, begins: bool = False) -> None:
        checks = Checks()
        for i, text in enumerate(texts):
            checks.that(bool(text), f"stop[{i}]", text, "some text")
        checks.done()
        self.spelling, self.texts, self.begins = spelling, list(texts), begins
        # Each token spells a byte or more; the first ones may be part of a character before.
        self.reach = 4 + max((len(text.encode()) for text in texts), default=0)

    def __call__(self, new: Tensor) -> Tensor:
        """New tokens (R, n) to booleans (R,)."""
        rows = new[:, -self.reach - 1 :].tolist()
        return torch.tensor([self.ends(ids) for ids in rows], device=new.device)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of the tokens complete one of the texts."""
        last = ids[-self.reach :]
        spelt = whole(self.spelling(last))
        whole_text = len(ids) <= self.reach
        if not whole_text:
            spelt = spelt.lstrip(REPLACEMENT)
        found = [text for text in self.texts if text in spelt]
        if found and self.begins and whole_text:
            begun = whole(self.spelling.tokenizer.decode(list(ids)))
            found = [text for text in found if text in begun]
        return bool(found)


def whole(text: str) -> str:
    """`text` without the U+FFFD at its end that may yet become a character."""
    known = len(text.rstrip(REPLACEMENT))
    return text[: max(known, len(text) - MAX_INCOMPLETE)]


def _find_complete_token(tokenizer: Tokenizer) -> list[int]:
    """A token that spells whole characters: after it, others are spelt as within a text."""
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
    """Where `word` stands in `text` as a whole word."""
    start = text.find(word)
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(word) :][:1]
        if not _in_same_word(before, word[0]) and not _in_same_word(word[-1], after):
            yield start
        start = text.find(word, start + 1)


def _ends_with_start_of(text: str, word: str, k: int) -> bool:
    """Whether `text` ends with the first k characters of `word`, and no word goes on there."""
    if not text.endswith(word[:k]):
        return False
    return not _in_same_word(text[: len(text) - k][-1:], word[0])


def _in_same_word(left: str, right: str) -> bool:
    """Whether two characters, either of which may be missing, belong to one word."""
    return _is_word_character(left) and _is_word_character(right)


def _is_word_character(character: str) -> bool:
    if not character:
        return False
    if character.isascii():
        return character.isalnum() or character == "_"
    if unicodedata.category(character)[0] not in "LMN":
        return False
    return not unicodedata.name(character, "").startswith(_UNSPACED)
