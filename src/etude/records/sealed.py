"""JSON files that show by a hash of their own content whether they are as they were written.

The hash stands in the file itself, under `seal`. It detects accidents: a changed digit, half a
file, a value edited by hand. It is no protection against forgery, as anybody can compute it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records.files import read_json, write_json
from etude.records.opening import Kind

SEAL = "seal"


def digest(value: Any) -> str:
    """The sha256 of a value as JSON has it, 64 hex digits; the order of keys does not matter."""
    plain = json.loads(json.dumps(value))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_sealed(path: Path, value: Mapping[str, Any], kind: Kind) -> None:
    """Writes an object as indented JSON, with its hash."""
    write_json(path, {**value, SEAL: digest(value)}, kind)


def read_sealed(path: Path, kind: Kind, hint: str) -> dict[str, Any]:
    """The object in a JSON file, without its hash. A file of an older version has none.

    Args:
        hint: what to do about a file that was changed.

    Raises:
        RequestError: the file is missing, is no JSON object, or was changed since it was written.
    """
    value = read_json(path, kind)
    if not isinstance(value, dict):
        raise RequestError(Problem(str(path), "a JSON object", value, hint))
    stated = value.pop(SEAL, None)
    if stated is not None and stated != digest(value):
        raise RequestError(Problem(str(path), "the content that was written", hint=hint))
    return value


def is_sealed(path: Path, kind: Kind) -> bool:
    """Whether a JSON file has its hash.

    Raises:
        RequestError: the file is missing or is no JSON.
    """
    value = read_json(path, kind)
    return isinstance(value, dict) and SEAL in value
