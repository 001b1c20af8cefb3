"""Random seeds as a pure function of (seed, step, micro-batch, rank).

Dropout masks therefore don't depend on earlier steps: a continued run draws the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import struct

import torch

INITIALISATION = -1
"""Value of `step` for the seed of the weight initialisation."""


def seed_for(seed: int, step: int, micro: int = 0, rank: int = 0) -> int:
    """Returns the 63-bit random seed of a micro-batch, a BLAKE2b hash of the arguments.

    Args:
        seed: the run's seed.
        step: index of the optimizer step, or `INITIALISATION` for the seed of the initial weights.
        micro: index of the micro-batch in the step.
        rank: rank of the process.
    """
    key = struct.pack("<qqqq", seed, step, micro, rank)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the global random number generators from which dropout on `device` draws.

    Takes less time than `torch.manual_seed`, which, if CUDA was never used, formats a stack trace
    and queues the seed at each call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
