"""Validation of the table in a `Precompiled` normalizer of the `tokenizers` library.

The table maps strings to replacement texts, in SentencePiece's format: the length in bytes of a
double-array trie (a search tree in one array), the trie (units of 4 bytes), and the replacement
texts, each followed by a zero byte. The library follows the trie without bounds checks, so this
module checks the bounds.
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
    """Returns the maximum factor by which a normalizer with a given table lengthens a text.

    Lengths are in bytes; the factor is at least 1. Returns None if the table is invalid.

    Args:
        content: the bytes of the table (for the format, see this module's docstring).
    """
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
    leaves = _leaves(units)
    if leaves is None:
        return None
    positions, depths = leaves
    if len(positions) == 0:
        return 1.0
    if positions.max() >= len(texts):
        return None
    letters = np.frombuffer(texts, dtype=np.uint8)
    if np.any(letters[positions] & 0xC0 == 0x80):  # inside a character
        return None
    ends = np.flatnonzero(letters == 0)
    lengths = ends[np.searchsorted(ends, positions)] - positions
    return max(1.0, float((lengths / depths).max()))


def _leaves(units: _Units) -> tuple[_Units, _Units] | None:
    """Returns two arrays, with one number for each replacement in a trie.

    The first array contains the position of the replacement text in the table's replacement texts,
    in bytes. The second contains the minimum number of bytes that this text replaces. Returns None
    if a path in the trie leads to a position outside the trie.

    Args:
        units: the units of the trie, as integers.
    """
    bases = _follow(np.zeros(1, dtype=np.int64), units[:1])
    seen = np.zeros(len(units), dtype=bool)
    positions: list[Any] = []
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
            positions.append(units[leaf] & _VALUE)
            depths.append(np.full(len(leaf), depth, dtype=np.int64))
            following.append(base)
        bases = np.concatenate(following)
    return np.concatenate(positions), np.concatenate(depths)


def _follow(nodes: _Units, units: _Units) -> _Units:
    """Returns the base of each of the given nodes of a trie.

    The base is a number that gives the positions of a node's children: the child for the byte b is
    at position base XOR b.

    Args:
        nodes: positions of the nodes in the trie.
        units: the units at these positions.
    """
    return nodes ^ ((units >> 10) << ((units & 0x200) >> 6))
