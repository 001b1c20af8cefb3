"""Reading of the JSON files of a released model, such as its configs and its index of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records.files import parse_integer, unique_keys_object
from etude.records.opening import Kind, read_bytes

RELEASED = Kind("*.json", 16 * 2**20)
"""Limits on the files that are read. Links are followed, since the Hub's cache contains links."""


def read_object(file: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        RequestError: the file is missing, larger than 16 MiB, not a regular file, not a JSON
            object, or has a duplicate key.
    """
    try:
        content = read_bytes(file, RELEASED, links=True).decode()
        values = json.loads(content, object_pairs_hook=unique_keys_object, parse_int=parse_integer)
    except FileNotFoundError as error:
        raise RequestError(Problem(str(file), "a JSON file", hint="no such file")) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(Problem(str(file), "valid JSON", hint=str(error))) from error
    if not isinstance(values, dict):
        raise RequestError(Problem(str(file), "a JSON object", values))
    return values
