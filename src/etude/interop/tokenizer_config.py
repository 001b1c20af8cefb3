"""Check for contradictions between `tokenizer_config.json` and the tokenizer that was read.

Where the two differ, some classes of `transformers` follow `tokenizer_config.json`, and would
produce other token ids than Étude.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from etude.errors import Problem

NAME = "tokenizer_config.json"
VERBATIM_CLASSES = (
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
)
"""Classes of `transformers` that use the settings of `tokenizer.json` unchanged."""
SHARED_SETTINGS = {
    "do_lower_case": ("normalizer", "BertNormalizer", "lowercase"),
    "strip_accents": ("normalizer", "BertNormalizer", "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", "BertNormalizer", "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
}
"""Fields of the config, each with the component, class and key of the same tokenizer setting."""


def contradictions(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> list[Problem]:
    """Returns a problem for each setting in `tokenizer_config.json` that contradicts the tokenizer.

    Args:
        folder: the folder with both files.
        config: the fields of `tokenizer_config.json`. If there is no `tokenizer.json`, the key
            `added_tokens` has the content of `added_tokens.json`.
        backend: the tokenizer, read from `tokenizer.json` or from vocabulary files.
    """
    has_tokenizer_json = (folder / "tokenizer.json").is_file()
    problems = list(_check_added_tokens(folder, config, backend))
    if has_tokenizer_json and config.get("tokenizer_class") in (None, *VERBATIM_CLASSES):
        return problems
    spec = json.loads(backend.to_str())
    for field, (slot, kind, key) in SHARED_SETTINGS.items():
        stated = config.get(field)
        parts = [part for part in _flatten(spec[slot]) if part["type"] == kind and key in part]
        actual = [part["lowercase"] if part[key] is None else part[key] for part in parts]
        if stated is None or not actual:
            continue
        if not isinstance(stated, bool):
            problems.append(Problem(f"{folder / NAME}, {field}", "true or false", stated))
        elif stated not in actual:
            expected = f"the tokenizer's own setting, {json.dumps(actual[0])}"
            problems.append(Problem(f"{folder / NAME}, {field}", expected, stated))
    return problems


def _check_added_tokens(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> Iterator[Problem]:
    """Yields a problem for each added token in the config that has another id, or none, in the
    tokenizer.

    For the arguments, see `contradictions`.
    """
    added_by_id = config.get("added_tokens_decoder") or {}
    tokens = [
        (f"{NAME}, added_tokens_decoder", key, token.get("content"))
        for key, token in (added_by_id.items() if isinstance(added_by_id, dict) else ())
        if isinstance(token, dict)
    ]
    added = config.get("added_tokens") or {}
    tokens += [("added_tokens.json", str(number), name) for name, number in added.items()]
    known = {str(n): each.content for n, each in backend.get_added_tokens_decoder().items()}
    for where, number, name in tokens:
        if known.get(number) != name:
            expected = "an added token that the tokenizer contains with the same id"
            hint = "to add it, load the tokenizer with transformers, then use save_pretrained"
            yield Problem(f"{folder}/{where}, {number}", expected, name, hint)


def _flatten(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yields a component of a tokenizer and, if it is a sequence, each component in the sequence.

    Sequences inside a sequence are flattened, too.

    `part` is the component (a normalizer or pre-tokenizer), as an object of `tokenizer.json`; None
    yields nothing.
    """
    if part is not None:
        yield part
        for inner in part.get("normalizers", part.get("pretokenizers", [])):
            yield from _flatten(inner)
