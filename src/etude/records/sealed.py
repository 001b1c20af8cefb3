"""JSON files that contain a hash of their own content, so that changes are detected.

The hash is the value of the key `seal`. It detects accidents: a changed digit, a partial file, a
value edited by hand. It does not protect against forgery, as anyone can compute it.
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
    """Returns the sha256 of a value in JSON, as 64 hexadecimal digits.

    The order of keys has no effect.
    """
    normalized = json.loads(json.dumps(value))
    text = json.dumps(normalized, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_sealed(path: Path, value: Mapping[str, Any], kind: Kind) -> None:
    """Writes an object to a file as indented JSON, together with the hash of the object.

    `kind` is as for `etude.records.files.write_text`.
    """
    write_json(path, {**value, SEAL: digest(value)}, kind)


def read_sealed(path: Path, kind: Kind, hint: str) -> dict[str, Any]:
    """Returns the object in a JSON file, without its hash.

    Files of older versions contain no hash and are not checked.

    Args:
        path: path of the file.
        kind: the `Kind` of the file, with its size limit.
        hint: hint in the error message for a changed file.

    Raises:
        RequestError: the file is missing, is not a JSON object, or was changed.
    """
    value = read_json(path, kind)
    if not isinstance(value, dict):
        raise RequestError(Problem(str(path), "a JSON object", value, hint))
    stated = value.pop(SEAL, None)
    if stated is not None and stated != digest(value):
        raise RequestError(Problem(str(path), "the content that Étude saved", hint=hint))
    return value


def is_sealed(path: Path, kind: Kind) -> bool:
    """Returns whether a JSON file contains a hash of its content.

    Raises:
        RequestError: the file is missing or is not JSON.
    """
    value = read_json(path, kind)
    return isinstance(value, dict) and SEAL in value
