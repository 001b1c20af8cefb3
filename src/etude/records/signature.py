"""A run's identity: a hash of everything in its config that can change its result.

Canonical JSON (sorted keys, no spaces, UTF-8), sha256. The first 12 hex digits name the run's
directory; the whole hash stands in `run.json`. `group` leaves out the seed, so that runs which
differ in nothing else can be averaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 12


def canonical_json(value: Any) -> str:
    """One text for one value, whatever the order in which its keys were written."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_of(value: Any) -> str:
    """The sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def signature(identity: Mapping[str, Any]) -> str:
    """The run's hash, 64 hex digits.

    Example:
        >>> signature({"seed": 1, "model": {}}) == signature({"model": {}, "seed": 1})
        True
    """
    return sha256_of(identity)


def group(identity: Mapping[str, Any]) -> str:
    """The hash without the seed, 12 hex digits: what runs over several seeds have in common."""
    return sha256_of({key: value for key, value in identity.items() if key != "seed"})[:DIGITS]
