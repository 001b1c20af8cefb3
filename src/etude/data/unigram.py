"""Unigram language model as a byte-level tokenizer, lossless for every text.

A text is split into the pieces whose probabilities have the largest product (Kudo 2018, "Subword
regularization", arXiv:1804.10959, section 3.2). SentencePiece marks spaces with U+2581 and falls
back to bytes, but it doesn't reproduce a text that contains this mark or that its normalizer
changes. Here text is split as in GPT-2 and a piece is a string of bytes; all 256 bytes are pieces,
so nothing is unknown or lost.

The trainer of the library `tokenizers` sums in the order of a hash map, which differs between
processes: its scores, and occasionally its pieces, differ too. This trainer sums in a fixed order,
and rounds values before comparing them.
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
from etude.data.tokenizer import END_OF_TEXT, Recipe, Tokenizer, special_token
from etude.data.tokenizer_training import LOG_INTERVAL, check_vocabulary, learnable, warn_if_smaller

WORDS = 1 << 17  # maximum number of words for training, the most frequent ones
LONGEST_WORD = 48  # bytes; a longer word is split into parts
LONGEST_PIECE = 24  # bytes
# Number of initial pieces: `SEEDS` times the vocabulary, or `MOST_SEEDS` if that is smaller, but
# at least twice the vocabulary.
SEEDS = 10
MOST_SEEDS = 1 << 17
KEPT = 0.75  # fraction of the pieces that remain after each pruning (Kudo: 0.8)
LEAST = 1e-6  # minimum probability of a byte; the product of 48 is still a normal number
DIGITS = 6  # for comparing and saving values: far above differences between machines

# GPT-2's pattern as far as Python's `re` supports it; used only for counting words.
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+|_+")

log = logging.getLogger("etude.data")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Unigram(Recipe):
    """Tokenizer with the byte-level pieces of a unigram language model, and GPT-2's pre-tokenizer.

    Ids are the 256 bytes, then pieces by decreasing probability, then `<|endoftext|>`.

    Args:
        vocab_size: number of ids in total; fewer if the text is too small for that many pieces.
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
        warn_if_smaller(tokenizer.vocab_size, self.vocab_size)
        return tokenizer


def count_words(texts: Iterable[str]) -> dict[bytes, int]:
    """Returns a dict from each of the `WORDS` most frequent words in `texts` to its count.

    A word is in UTF-8. A word of more than `LONGEST_WORD` bytes is cut into shorter parts, which
    count as words. The most frequent words are first; words with the same count are in byte order.
    """
    words: Counter[str] = Counter()
    for text in learnable(texts):
        words.update(_WORD.findall(text))
    counts: Counter[bytes] = Counter()
    for word, count in words.items():
        for part in _parts(word):
            counts[part] += count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS])


def learn_pieces(words: dict[bytes, int], size: int) -> list[tuple[bytes, float]]:
    """Returns pairs (piece, log-probability) for all bytes and the best pieces of `words`.

    The function alternates expectation maximisation with pruning the pieces whose removal changes
    the likelihood least (Kudo 2018, section 3.2).

    Args:
        words: dict from words to their counts.
        size: maximum number of pieces, at least 256.
    """
    seeds = _seeds(words, max(2 * size, min(SEEDS * size, MOST_SEEDS)))
    pieces = [*(bytes([byte]) for byte in range(256)), *sorted(seeds)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    counts = np.array(list(words.values()), dtype=np.float64)
    text = _Lattices(list(words), numbers)
    others = _Lattices(pieces, numbers, whole=False)  # spellings of a piece by other pieces
    expected = np.array([float(seeds.get(piece, 1)) for piece in pieces])
    alive = np.ones(len(pieces), dtype=bool)
    next_log = time.monotonic() + LOG_INTERVAL
    while True:
        for _ in range(2):
            alive[256:] &= expected[256:] >= 0.5
            probability = _normalise(expected, alive)
            expected = text.expected(probability, counts)
        if alive.sum() <= size:
            break
        if time.monotonic() > next_log:
            next_log = time.monotonic() + LOG_INTERVAL
            log.info(
                "training the tokenizer: reducing %d candidate tokens to %d", alive.sum(), size
            )
        probability = _normalise(expected, alive)
        alternative = others.best(probability)  # 0 for a byte, which has no other spelling
        better = alive & (probability > alternative) & (alternative > 0.0)
        loss = np.where(alive, 0.0, -1.0)
        loss[better] = expected[better] * np.log(probability[better] / alternative[better])
        loss[:256] = np.inf
        keep = max(size, int(KEPT * alive.sum()))
        alive[np.argsort(-np.round(loss, DIGITS), kind="stable")[keep:]] = False
        for lattices in (text, others):
            lattices.leave_out(~alive)
    remaining = np.flatnonzero(alive)
    scores = np.round(np.log(_normalise(expected, alive)[remaining]), DIGITS).tolist()
    chosen = [(pieces[n], score) for n, score in zip(remaining.tolist(), scores, strict=True)]
    return [*chosen[:256], *sorted(chosen[256:], key=lambda item: (-item[1], item[0]))]


def _normalise(expected: Floats, alive: NDArray[np.bool_]) -> Floats:
    """Returns the probability of each piece, computed from expected counts.

    A pruned piece has probability 0. The first 256 pieces are the single bytes, whose probability
    is always positive.

    Args:
        expected: expected count of each piece.
        alive: true for pieces that are not pruned.
    """
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


def _seeds(words: dict[bytes, int], limit: int) -> dict[bytes, int]:
    """Returns the initial pieces, as a dict from each piece to its count in the words.

    A piece consists of whole characters, at least 2 bytes, and occurs more than once. The pieces
    with the largest product of count and length in bytes are returned.

    Args:
        words: dict from words, as UTF-8 bytes, to their counts.
        limit: maximum number of pieces.
    """
    counts: Counter[bytes] = Counter()
    for word, count in words.items():
        for start, end in _spans(word):
            counts[word[start:end]] += count
    repeated = [(piece, count) for piece, count in counts.items() if count > 1]
    repeated.sort(key=lambda item: (-item[1] * len(item[0]), item[0]))
    return dict(repeated[:limit])


def _spans(word: bytes) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of each part of `word` with whole characters, 2 to `LONGEST_PIECE` bytes.

    A part may be the whole word; parts overlap.
    """
    boundaries = [index for index, byte in enumerate(word) if byte & 0xC0 != 0x80] + [len(word)]
    for number, start in enumerate(boundaries):
        for end in boundaries[number + 1 :]:
            if end - start > LONGEST_PIECE:
                break
            if end - start > 1:
                yield start, end


class _Lattices:
    """Graphs of all ways to spell strings as sequences of pieces, one graph for each string.

    A string of n bytes has n + 1 nodes, the positions between its bytes. An edge is a piece, from
    its start to its end. All strings are processed together, one offset (distance in bytes from the
    start of a string) at a time: the edges that end at this offset are summed by their end node.

    Args:
        strings: the strings to spell.
        numbers: dict from pieces to their numbers; the number of a byte is its value.
        whole: whether a string may be spelt as one piece, if it is equal to a piece.
    """

    def __init__(
        self, strings: Sequence[bytes], numbers: dict[bytes, int], whole: bool = True
    ) -> None:
        lengths = np.array([len(string) for string in strings], dtype=np.int64)
        self.first = np.cumsum(lengths + 1) - lengths - 1  # each string's first node
        self.last = self.first + lengths
        of_bytes = np.frombuffer(b"".join(strings), dtype=np.uint8).astype(np.int64)
        string = np.repeat(np.arange(len(strings)), lengths)
        start = np.arange(len(of_bytes)) + string  # one additional node for each string before
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
        self._group_edges()

    def leave_out(self, pieces: NDArray[np.bool_]) -> None:
        """Removes the spellings that contain certain pieces, for all later calls.

        Args:
            pieces: boolean array with one value per piece: whether spellings with it are removed.
        """
        remaining = ~pieces[self.piece]
        self.piece, self.string = self.piece[remaining], self.string[remaining]
        self.start, self.end = self.start[remaining], self.end[remaining]
        self._group_edges()

    def best(self, probability: Floats) -> Floats:
        """Returns, for each string, the probability of its most probable spelling; 0 if none.

        Args:
            probability: probability of each piece.
        """
        return self._forward(probability, np.maximum)[self.last]

    def expected(self, probability: Floats, counts: Floats) -> Floats:
        """Returns the expected count of each piece in random spellings of all strings.

        Args:
            probability: probability of each piece.
            counts: number of occurrences of each string.
        """
        forward = self._forward(probability, np.add)
        backward = np.zeros_like(forward)
        backward[self.last] = 1.0
        for edges, firsts, nodes in self._backwards:
            way = probability[self.piece[edges]] * backward[self.end[edges]]
            backward[nodes] = np.add.reduceat(way, firsts)
        weight = (counts / forward[self.last])[self.string]
        use = forward[self.start] * probability[self.piece] * backward[self.end] * weight
        return np.bincount(self.piece, use, minlength=len(probability)).astype(np.float64)

    def _forward(self, probability: Floats, add: np.ufunc) -> Floats:
        result = np.zeros(int(self.last[-1]) + 1 if len(self.last) else 0)
        result[self.first] = 1.0
        for edges, firsts, nodes in self._forwards:
            way = result[self.start[edges]] * probability[self.piece[edges]]
            result[nodes] = add.reduceat(way, firsts)
        return result

    def _group_edges(self) -> None:
        first = self.first[self.string]
        self._forwards = _group_by_offset(self.end - first, self.end)
        self._backwards = _group_by_offset(first - self.start, self.start)


def _group_by_offset(offset: Integers, node: Integers) -> list[tuple[Integers, Integers, Integers]]:
    """Groups the edges of a graph by their offset, in increasing order.

    Args:
        offset: offset of each edge: its distance in bytes from one end of its string.
        node: node of each edge to whose sum the edge contributes.

    Returns:
        A triple for each offset: the indices of its edges, sorted by node; the position of each
        node's first edge in these indices; and the nodes.
    """
    order = np.lexsort((node, offset))
    result = []
    for edges in np.split(order, np.flatnonzero(np.diff(offset[order])) + 1):
        if len(edges):
            nodes, firsts = np.unique(node[edges], return_index=True)
            result.append((edges, firsts, nodes))
    return result
