"""The JSON files of released folders: `config.json` and its kin, and the index of split weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records.files import each_key_once, whole_number
from etude.records.opening import Kind, read_bytes

RELEASED = Kind("*.json", 16 * 2**20)
"""Links are followed, as the hub's cache consists of them."""


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RequestError: there is no such file, it is not a regular one or is too large, is no JSON
            object, or states a key of an object twice.
    """
    try:
        content = read_bytes(file, RELEASED, links=True).decode()
        values = json.loads(content, object_pairs_hook=each_key_once, parse_int=whole_number)
    except FileNotFoundError as error:
        raise RequestError(Problem(str(file), "a JSON file", hint="it is not there")) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(Problem(str(file), "valid JSON", hint=str(error))) from error
    if not isinstance(values, dict):
        raise RequestError(Problem(str(file), "a JSON object", values))
    return values
