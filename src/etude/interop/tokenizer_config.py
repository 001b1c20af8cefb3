"""Where `tokenizer_config.json` says otherwise than `tokenizer.json`: `transformers` follows the
first in some of its classes, and the ids would be others than those of the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from etude.errors import Problem

NAME = "tokenizer_config.json"
AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "LlamaTokenizerFast")
"""Classes that take `tokenizer.json` for these as it is."""
STATED = {
    "do_lower_case": ("normalizer", "BertNormalizer", "lowercase"),
    "add_prefix_space": ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
}
"""A field, and the part of a tokenizer that says the same."""


def contradictions(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> list[Problem]:
    """What the two files of a folder say differently.

    Args:
        config: of `tokenizer_config.json`.
        backend: of `tokenizer.json`.
    """
    if config.get("tokenizer_class") in (None, *AS_IT_IS):
        return []
    spec = json.loads(backend.to_str())
    problems = []
    for field, (slot, kind, key) in STATED.items():
        said = config.get(field)
        found = [part[key] for part in _parts(spec[slot]) if part["type"] == kind and key in part]
        if isinstance(said, bool) and found and said not in found:
            expected = f"what tokenizer.json says, {json.dumps(found[0])}"
            problems.append(Problem(f"{folder / NAME}, {field}", expected, said))
    return problems


def _parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, and those that it is a sequence of."""
    if part is not None:
        yield part
        for inner in part.get("normalizers", part.get("pretokenizers", [])):
            yield from _parts(inner)
