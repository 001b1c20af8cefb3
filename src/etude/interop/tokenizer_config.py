"""Where `tokenizer_config.json` says otherwise than the tokenizer that was read: `transformers`
follows the first in some of its classes, and the ids would be others.
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
"""Classes that take `tokenizer.json` for these as it is."""
SHARED_SETTINGS = {
    "do_lower_case": ("normalizer", "BertNormalizer", "lowercase"),
    "strip_accents": ("normalizer", "BertNormalizer", "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", "BertNormalizer", "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
}
"""A field, and the part of a tokenizer that says the same."""


def contradictions(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> list[Problem]:
    """What the folder states otherwise than its tokenizer does.

    Args:
        config: of `tokenizer_config.json`; `added_tokens` is the content of `added_tokens.json`,
            where there is no `tokenizer.json`.
        backend: the tokenizer, of `tokenizer.json` or of vocabulary files.
    """
    whole = (folder / "tokenizer.json").is_file()
    problems = list(_check_added_tokens(folder, config, backend))
    if whole and config.get("tokenizer_class") in (None, *VERBATIM_CLASSES):
        return problems
    spec = json.loads(backend.to_str())
    for field, (slot, kind, key) in SHARED_SETTINGS.items():
        said = config.get(field)
        parts = [part for part in _flatten(spec[slot]) if part["type"] == kind and key in part]
        found = [part["lowercase"] if part[key] is None else part[key] for part in parts]
        if said is None or not found:
            continue
        if not isinstance(said, bool):
            problems.append(Problem(f"{folder / NAME}, {field}", "true or false", said))
        elif said not in found:
            expected = f"what the tokenizer does, {json.dumps(found[0])}"
            problems.append(Problem(f"{folder / NAME}, {field}", expected, said))
    return problems


def _check_added_tokens(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> Iterator[Problem]:
    """Added tokens that the tokenizer does not have under their ids."""
    listed = config.get("added_tokens_decoder") or {}
    places = [
        (f"{NAME}, added_tokens_decoder", key, token.get("content"))
        for key, token in (listed.items() if isinstance(listed, dict) else ())
        if isinstance(token, dict)
    ]
    added = config.get("added_tokens") or {}
    places += [("added_tokens.json", str(number), name) for name, number in added.items()]
    known = {str(n): each.content for n, each in backend.get_added_tokens_decoder().items()}
    for place, number, name in places:
        if known.get(number) != name:
            expected = "an added token that the tokenizer has under this id"
            hint = "transformers' save_pretrained writes a tokenizer.json that has it"
            yield Problem(f"{folder}/{place}, {number}", expected, name, hint)


def _flatten(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, and those that it is a sequence of."""
    if part is not None:
        yield part
        for inner in part.get("normalizers", part.get("pretokenizers", [])):
            yield from _flatten(inner)
