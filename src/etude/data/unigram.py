"""A unigram language model as a tokenizer, on bytes, so that every text survives.

The pieces of a text are those whose probabilities have the largest product (Kudo 2018, "Subword
regularization", arXiv:1804.10959, section 3.2). SentencePiece keeps a text whole by marking spaces
with U+2581 and falling back on bytes, but a text with that mark in it does not come back, nor does
one that its normaliser changes. Here text is split as in GPT-2 and a piece is a string of bytes;
all 256 bytes are pieces, so nothing is unknown and nothing is lost.

The trainer of the library `tokenizers` adds up in the order of a hash map, which differs from
process to process: its scores, and now and then its pieces, differ as well. This one adds up in a
fixed order, and rounds what it compares.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

from etude.data.decoding import byte_letters
from etude.data.learning import NEWS_EVERY, check_vocabulary, learnable, told_if_smaller
from etude.data.tokenizer import END_OF_TEXT, Recipe, Tokenizer, special_token

WORDS = 1 << 17  # the most frequent ones, which are learnt from
LONGEST_WORD = 48  # bytes; a longer one is learnt from in parts
LONGEST_PIECE = 24  # bytes
SEEDS = 10  # times the vocabulary: pieces to begin with; fewer if that is
MOST_SEEDS = 1 << 17
KEPT = 0.75  # of the pieces at each pruning (Kudo: 0.8)
LEAST = 1e-6  # probability of a byte; 48 of them are still a normal number
DIGITS = 6  # of what is compared and written: far from where machines may differ

# GPT-2's splitting as Python's `re` can say it; only what is learnt from depends on it.
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+|_+")

log = logging.getLogger("etude.data")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Unigram(Recipe):
    """Byte-level pieces of a unigram language model, with GPT-2's splitting.

    Ids are the 256 bytes, then pieces by falling probability, then `<|endoftext|>`.

    Args:
        vocab_size: the number of ids, all included; a text too small for that many pieces gives
            fewer.
    """

    vocab_size: int = 8192

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size, 257, "256 bytes and <|endoftext|>")

    @property
    def stated_size(self) -> int | None:
        return self.vocab_size

    def train(self, texts: Iterable[str]) -> Tokenizer:
        pieces = learn_pieces(count_words(texts), self.vocab_size - 1)
        letters = byte_letters()
        vocabulary = [("".join(letters[byte] for byte in piece), score) for piece, score in pieces]
        backend = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([special_token(END_OF_TEXT)])
        tokenizer = Tokenizer(backend)
        told_if_smaller(tokenizer.vocab_size, self.vocab_size)
        return tokenizer


def count_words(texts: Iterable[str]) -> dict[bytes, int]:
    """The most frequent words of `texts`, a longer one in parts; equal counts in byte order."""
    words: Counter[str] = Counter()
    for text in learnable(texts):
        words.update(_WORD.findall(text))
    counts: Counter[bytes] = Counter()
    for word, count in words.items():
        for part in _parts(word):
            counts[part] += count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS])


def learn_pieces(words: dict[bytes, int], size: int) -> list[tuple[bytes, float]]:
    """All bytes and the best pieces of `words`, with their log-probabilities: `size` or fewer.

    Expectation maximisation in turn with leaving out the pieces whose loss would change the
    likelihood least (Kudo 2018, section 3.2).

    Args:
        words: with their counts.
        size: at least 256.
    """
    seeds = _seeds(words, max(2 * size, min(SEEDS * size, MOST_SEEDS)))
    pieces = [*(bytes([byte]) for byte in range(256)), *sorted(seeds)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    counts = np.array(list(words.values()), dtype=np.float64)
    text = _Lattices(list(words), numbers)
    others = _Lattices(pieces, numbers, whole=False)  # a piece spelt by others
    expected = np.array([float(seeds.get(piece, 1)) for piece in pieces])
    alive = np.ones(len(pieces), dtype=bool)
    news = time.monotonic() + NEWS_EVERY
    while True:
        for _ in range(2):
            alive[256:] &= expected[256:] >= 0.5
            probability = _normalised(expected, alive)
            expected = text.expected(probability, counts)
        if alive.sum() <= size:
            break
        if time.monotonic() > news:
            news = time.monotonic() + NEWS_EVERY
            log.info("learning the tokenizer: %d pieces tried, for %d", alive.sum(), size)
        probability = _normalised(expected, alive)
        instead = others.best(probability)
        better = alive & (probability > instead) & (instead > 0.0)  # a byte has no other spelling
        loss = np.where(alive, 0.0, -1.0)
        loss[better] = expected[better] * np.log(probability[better] / instead[better])
        loss[:256] = np.inf
        keep = max(size, int(KEPT * alive.sum()))
        alive[np.argsort(-np.round(loss, DIGITS), kind="stable")[keep:]] = False
        for lattices in (text, others):
            lattices.leave_out(~alive)
    remaining = np.flatnonzero(alive)
    scores = np.round(np.log(_normalised(expected, alive)[remaining]), DIGITS).tolist()
    chosen = [(pieces[n], score) for n, score in zip(remaining.tolist(), scores, strict=True)]
    return [*chosen[:256], *sorted(chosen[256:], key=lambda item: (-item[1], item[0]))]


def _normalised(expected: Floats, alive: NDArray[np.bool_]) -> Floats:
    """Probabilities, 0 for pieces that were left out; no byte is impossible."""
    left = np.where(alive, expected, 0.0)
    probability = left / max(float(left.sum()), 1.0)
    np.maximum(probability[:256], LEAST, out=probability[:256])
    return probability


def _parts(word: str) -> Iterator[bytes]:
    if len(encoded := word.encode()) <= LONGEST_WORD:
        yield encoded
        return
    step = LONGEST_WORD // 4  # characters; none has more than 4 bytes
    for first in range(0, len(word), step):
        yield word[first : first + step].encode()


def _seeds(words: dict[bytes, int], most: int) -> dict[bytes, int]:
    """Strings of whole characters that occur twice or more: those that cover most bytes."""
    found: Counter[bytes] = Counter()
    for word, count in words.items():
        for start, end in _spans(word):
            found[word[start:end]] += count
    several = [(piece, count) for piece, count in found.items() if count > 1]
    several.sort(key=lambda item: (-item[1] * len(item[0]), item[0]))
    return dict(several[:most])


def _spans(word: bytes) -> Iterator[tuple[int, int]]:
    """Where strings of whole characters lie in `word`: of 2 bytes and more, as long as a piece."""
    borders = [place for place, byte in enumerate(word) if byte & 0xC0 != 0x80] + [len(word)]
    for number, start in enumerate(borders):
        for end in borders[number + 1 :]:
            if end - start > LONGEST_PIECE:
                break
            if end - start > 1:
                yield start, end


class _Lattices:
    """All ways to spell each of many strings with pieces: edges from place to place.

    A string of n bytes has n + 1 nodes. All strings are gone through at once, an offset at a
    time: the edges that end there are added up by the node in which they end.

    Args:
        strings: what is spelt.
        numbers: the pieces' numbers; those of bytes are their values.
        whole: whether a string may be spelt by itself.
    """

    def __init__(
        self, strings: Sequence[bytes], numbers: dict[bytes, int], whole: bool = True
    ) -> None:
        lengths = np.array([len(string) for string in strings], dtype=np.int64)
        self.first = np.cumsum(lengths + 1) - lengths - 1  # each string's first node
        self.last = self.first + lengths
        of_bytes = np.frombuffer(b"".join(strings), dtype=np.uint8).astype(np.int64)
        string = np.repeat(np.arange(len(strings)), lengths)
        start = np.arange(len(of_bytes)) + string  # a node more for each string before
        if not whole:
            several = lengths[string] > 1
            of_bytes, string, start = of_bytes[several], string[several], start[several]
        edges = (
            (number, index, first + begin, first + end)
            for index, (word, first) in enumerate(zip(strings, self.first.tolist(), strict=True))
            for begin, end in _spans(word)
            if (whole or end - begin < len(word))
            and (number := numbers.get(word[begin:end])) is not None
        )
        more = np.fromiter(edges, dtype=np.dtype((np.int64, 4))).T
        self.piece = np.concatenate([of_bytes, more[0]])
        self.string = np.concatenate([string, more[1]])
        self.start = np.concatenate([start, more[2]])
        self.end = np.concatenate([start + 1, more[3]])
        self._arrange()

    def leave_out(self, pieces: NDArray[np.bool_]) -> None:
        """Takes away the edges of some pieces."""
        stay = ~pieces[self.piece]
        self.piece, self.string = self.piece[stay], self.string[stay]
        self.start, self.end = self.start[stay], self.end[stay]
        self._arrange()

    def best(self, probability: Floats) -> Floats:
        """The probability of each string's best spelling, 0 for one without any."""
        return self._forward(probability, np.maximum)[self.last]

    def expected(self, probability: Floats, counts: Floats) -> Floats:
        """How often each piece is used, over all spellings of all strings."""
        forward = self._forward(probability, np.add)
        backward = np.zeros_like(forward)
        backward[self.last] = 1.0
        for edges, firsts, nodes in self._backwards:
            way = probability[self.piece[edges]] * backward[self.end[edges]]
            backward[nodes] = np.add.reduceat(way, firsts)
        share = (counts / forward[self.last])[self.string]
        use = forward[self.start] * probability[self.piece] * backward[self.end] * share
        return np.bincount(self.piece, use, minlength=len(probability)).astype(np.float64)

    def _forward(self, probability: Floats, add: np.ufunc) -> Floats:
        result = np.zeros(int(self.last[-1]) + 1 if len(self.last) else 0)
        result[self.first] = 1.0
        for edges, firsts, nodes in self._forwards:
            way = result[self.start[edges]] * probability[self.piece[edges]]
            result[nodes] = add.reduceat(way, firsts)
        return result

    def _arrange(self) -> None:
        first = self.first[self.string]
        self._forwards = _grouped(self.end - first, self.end)
        self._backwards = _grouped(first - self.start, self.start)


def _grouped(offset: Integers, node: Integers) -> list[tuple[Integers, Integers, Integers]]:
    """Edges by offset; of each offset the edges, where a node's edges begin, and the nodes."""
    order = np.lexsort((node, offset))
    result = []
    for edges in np.split(order, np.flatnonzero(np.diff(offset[order])) + 1):
        if len(edges):
            nodes, firsts = np.unique(node[edges], return_index=True)
            result.append((edges, firsts, nodes))
    return result
