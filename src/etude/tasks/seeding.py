"""Random numbers as a function of (seed, step, micro-batch, rank), and of nothing else.

Dropout masks then do not depend on what ran before: a continued run draws what an uninterrupted
one would have drawn.
"""

from __future__ import annotations

import hashlib
import struct

INITIALISATION = -1
"""The `step` of the weights' initialisation."""


def seed_for(seed: int, step: int, micro: int = 0, rank: int = 0) -> int:
    """A 63-bit seed, unrelated for any two different arguments (BLAKE2b)."""
    key = struct.pack("<qqqq", seed, step, micro, rank)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
