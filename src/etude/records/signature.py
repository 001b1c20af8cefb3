"""Signature of a run: a hash of everything in its config that can change its result.

It is the sha256 of canonical JSON (sorted keys, no spaces, UTF-8). The first 12 hex digits name the
run's folder; `run.json` contains all 64 digits. The group of a run is the same hash without the
seed, so that runs that differ only in their seeds can be averaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 12


def canonical_json(value: Any) -> str:
    """Returns a value as JSON in a canonical form: equal values give equal texts.

    Keys are sorted, and there are no spaces.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_of(value: Any) -> str:
    """Returns the sha256 of the canonical JSON of a value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def signature(identity: Mapping[str, Any]) -> str:
    """Returns the signature of a run, a hash of `identity`, as 64 hexadecimal digits.

    Args:
        identity: the values of the run's config that can change the result.

    Example:
        >>> signature({"seed": 1, "model": {}}) == signature({"model": {}, "seed": 1})
        True
    """
    return sha256_of(identity)


def group(identity: Mapping[str, Any]) -> str:
    """Returns the group of a run: 12 hex digits of the hash of `identity` without the seed.

    Runs that differ only in their seeds have the same group. `identity` is as for `signature`.
    """
    return sha256_of({key: value for key, value in identity.items() if key != "seed"})[:DIGITS]
