"""The table of a `Precompiled` normalizer: which letters it replaces, and whether it is whole.

SentencePiece writes it: the length of a double-array trie in bytes, the trie (units of 4 bytes),
and after it the texts that letters become, each with a zero at its end. The library follows the
trie without looking whether a place is in it, so this is done here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Units = NDArray[np.int64]
_BYTES = np.arange(1, 256, dtype=np.int64)
_AT_ONCE = 4096
_LABEL, _VALUE = 0x800000FF, 0x7FFFFFFF


def growth(content: bytes) -> float | None:
    """By how much a table lengthens a text at most, in bytes; None if it is not whole."""
    size = int.from_bytes(content[:4], "little")
    if len(content) < 4 or size % 4 or size == 0 or 4 + size > len(content):
        return None
    units = np.frombuffer(content[4 : 4 + size], dtype="<u4").astype(np.int64)
    texts = content[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        return None
    if texts and texts[-1]:
        return None
    found = _leaves(units)
    if found is None:
        return None
    places, depths = found
    if len(places) == 0:
        return 1.0
    if places.max() >= len(texts):
        return None
    letters = np.frombuffer(texts, dtype=np.uint8)
    if np.any(letters[places] & 0xC0 == 0x80):  # within a letter
        return None
    ends = np.flatnonzero(letters == 0)
    lengths = ends[np.searchsorted(ends, places)] - places
    return max(1.0, float((lengths / depths).max()))


def _leaves(units: _Units) -> tuple[_Units, _Units] | None:
    """The places of all texts and the fewest bytes that lead to each; None if a way leads out."""
    bases = _follow(np.zeros(1, dtype=np.int64), units[:1])
    seen = np.zeros(len(units), dtype=bool)
    places: list[Any] = []
    depths: list[Any] = []
    depth = 0
    while len(bases):
        depth += 1
        following = []
        for first in range(0, len(bases), _AT_ONCE):
            part = bases[first : first + _AT_ONCE]
            if (part | 0xFF).max() >= len(units):
                return None
            nodes = part[:, None] ^ _BYTES
            nodes = np.unique(nodes[(units[nodes] & _LABEL) == _BYTES])
            nodes = nodes[~seen[nodes]]
            seen[nodes] = True
            base = _follow(nodes, units[nodes])
            leaf = base[(units[nodes] >> 8) & 1 == 1]
            if len(leaf) and leaf.max() >= len(units):
                return None
            places.append(units[leaf] & _VALUE)
            depths.append(np.full(len(leaf), depth, dtype=np.int64))
            following.append(base)
        bases = np.concatenate(following)
    return np.concatenate(places), np.concatenate(depths)


def _follow(nodes: _Units, units: _Units) -> _Units:
    """Where the nodes after `nodes` lie, but for the byte that leads to each."""
    return nodes ^ ((units >> 10) << ((units & 0x200) >> 6))
