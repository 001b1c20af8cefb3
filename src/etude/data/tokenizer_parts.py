"""Validation of `tokenizer.json`, which accepts only supported components with bounded values.

A tokenizer may come from an untrusted source, and a small file can require endless work: a
normalizer that replaces each character by a megabyte, a regular expression with catastrophic
backtracking, a template that adds a million tokens to a text. So the type and the fields of each
component are checked here, and unsupported types and fields are rejected by name before the
`tokenizers` library reads them.

Cost of an accepted tokenizer: the normalizer and the pre-tokenizer together lengthen a text at most
by a factor of `GROWTH`; the same limit holds for the decoders. A `Precompiled` table may lengthen
the text once more by this factor; for rare characters, Unicode normalization may do so, too. A
template adds at most 64 tokens. Regular expressions match in linear time (see
`etude.data.expressions`).
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from etude.data.charsmap import growth as table_growth
from etude.data.expressions import find_problem, shortest_match
from etude.errors import Problem, RequestError, nearest
from etude.records.files import unique_keys_object

GROWTH = 16
_PARTS, _PIECES, _ADDED = 32, 64, 2**17
_WORD, _NAME, _TOKEN = 64, 1000, 2**16  # characters of an affix, a special token, a token
_PIECE = 256  # characters of a unigram model's token: all lengths are tried at each position
_ALL_ADDED = 4 * 10**6  # characters of all added tokens
_IDS = 2**24
_SIGNS = {"{": 2**18, "[": 2**21, ",": 2**22}
"""Maximum count of each sign in a file: a bracket for each merge or score, a comma for each value.
"""
_TABLE = 4 * 2**20  # characters of `Precompiled`'s table


def check_parts(text: str, file: str) -> None:
    """Checks that a `tokenizer.json` has only supported components with bounded cost.

    Args:
        text: content of the file.
        file: name of the file, for messages.

    Raises:
        RequestError: contains the first 8 problems.
    """
    for sign, most in _SIGNS.items():  # counted first, since parsing many millions takes minutes
        if text.count(sign) > most:
            expected = f"at most {most:,} occurrences of {sign} in the file"
            raise RequestError(Problem(file, expected))
    try:
        spec = json.loads(text, object_pairs_hook=unique_keys_object)
    except (ValueError, RecursionError) as error:
        expected = "a tokenizer.json of the `tokenizers` library"
        raise RequestError(Problem(file, expected, hint=str(error))) from error
    if problems := list(islice(_problems(spec), 8)):
        raise RequestError(replace(each, where=f"{file}: {each.where}") for each in problems)


_Check = Callable[[Any], str | None]
"""Function that returns None for a valid value, otherwise what was expected, for a message."""


def _flag(value: Any) -> str | None:
    return None if value is None or isinstance(value, bool) else "true, false or null"


def _word(value: Any) -> str | None:
    is_valid = value is None or (isinstance(value, str) and len(value) <= _WORD)
    return None if is_valid else f"a text of at most {_WORD} characters, or null"


def _name(value: Any) -> str | None:
    is_valid = value is None or (isinstance(value, str) and len(value) <= _NAME)
    return None if is_valid else f"a text of at most {_NAME:,} characters, or null"


def _count(largest: int) -> _Check:
    check = _number(0, largest)
    return lambda value: None if value is None else check(value)


def _number(least: int, largest: int) -> _Check:
    def check(value: Any) -> str | None:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        is_valid = is_integer and least <= value <= largest
        expected = f"a whole number from {least} to {largest:,}"
        return None if is_valid else expected if least < largest else f"{least}"

    return check


def _one_of(*values: str) -> _Check:
    def check(value: Any) -> str | None:
        return None if value is None or value in values else f"one of {', '.join(values)}"

    return check


def _fraction(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if value is None or (is_number and 0 <= value <= 1) else "a number from 0 to 1"


def _pair(value: Any) -> str | None:
    is_valid = isinstance(value, list) and len(value) == 2 and _name(value[0]) is None
    is_valid = is_valid and _count(_IDS)(value[1]) is None
    return None if is_valid else "a list of two elements: a token and its id"


def _pattern(value: Any) -> str | None:
    expected = "an object with a single key, String or Regex, whose value is a text"
    if not isinstance(value, dict) or len(value) != 1:
        return expected
    ((kind, text),) = value.items()
    if kind not in ("String", "Regex") or not isinstance(text, str):
        return expected
    if kind == "Regex":
        return find_problem(text)
    return None if 0 < len(text) <= _NAME else f"a text of 1 to {_NAME:,} characters"


def _table(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > _TABLE:
        return f"a base64 text of at most {_TABLE:,} characters"
    try:
        content = base64.b64decode(value, validate=True)
    except ValueError:
        return "a valid base64 text"
    growth = table_growth(content)
    if growth is None:
        return "a valid SentencePiece table, without references to positions outside the table"
    return (
        None
        if growth <= GROWTH
        else f"a table whose replacements are at most {GROWTH} times as long as the replaced texts"
    )


def _template(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > _PIECES:
        return f"a template: a list of at most {_PIECES} pieces"
    texts = []
    for piece in value:
        if not isinstance(piece, dict) or not set(piece) <= {"SpecialToken", "Sequence"}:
            return "a template whose pieces have only the keys SpecialToken and Sequence"
        if isinstance(text := piece.get("Sequence"), dict):
            texts.append(text.get("id"))
    most = max(map(texts.count, texts), default=0)
    expected = "a template in which each text (Sequence) occurs at most once"
    return None if most <= 1 else expected


def _specials(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > _PIECES:
        return f"an object with at most {_PIECES} special tokens"
    for each in value.values():
        lists = [each.get("ids"), each.get("tokens")] if isinstance(each, dict) else [None]
        if not all(isinstance(one, list) and len(one) <= 8 for one in lists):
            return "special tokens, each with a list of at most 8 ids and one of at most 8 tokens"
    return None


def _vocabulary(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "an object with tokens as keys and their ids as values"
    if not all(isinstance(number, int) and 0 <= number < _IDS for number in value.values()):
        return f"ids that are whole numbers from 0 to {_IDS - 1:,}"
    return None if max(map(len, value), default=0) <= _TOKEN else _TOO_LONG


_TOO_LONG = f"tokens of at most {_TOKEN:,} characters"


def _scores(value: Any) -> str | None:
    expected = "a list of pairs, each of a token and its score"
    if not isinstance(value, list) or len(value) > _IDS:
        return expected
    pairs = (one for one in value if isinstance(one, list) and len(one) == 2)
    if sum(isinstance(one[0], str) for one in pairs) < len(value):
        return expected
    longest = max((len(one[0]) for one in value), default=0)
    return None if longest <= _PIECE else f"tokens of at most {_PIECE:,} characters"


def _list(value: Any) -> str | None:
    return None if isinstance(value, list) else "a list"


_BYTE_LEVEL: dict[str, _Check] = {
    "add_prefix_space": _flag,
    "trim_offsets": _flag,
    "use_regex": _flag,
}
_METASPACE: dict[str, _Check] = {
    "replacement": _word,
    "str_rep": _word,
    "add_prefix_space": _flag,
    "prepend_scheme": _one_of("always", "never", "first"),
    "split": _flag,
}
_REPLACE: dict[str, _Check] = {"pattern": _pattern, "content": _word}
_BEHAVIOR = _one_of(
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"
)  # fmt: skip
_FRAME: dict[str, _Check] = {
    "sep": _pair,
    "cls": _pair,
    "trim_offsets": _flag,
    "add_prefix_space": _flag,
}

KNOWN: dict[str, dict[str, dict[str, _Check]]] = {
    "normalizer": {
        "BertNormalizer": {
            "clean_text": _flag,
            "handle_chinese_chars": _flag,
            "strip_accents": _flag,
            "lowercase": _flag,
        },
        "Strip": {"strip_left": _flag, "strip_right": _flag},
        "Precompiled": {"precompiled_charsmap": _table},
        "Replace": _REPLACE,
        "Prepend": {"prepend": _word},
        "Sequence": {"normalizers": _list},
        **{name: {} for name in ("StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase")},
        "ByteLevel": {},
    },
    "pre_tokenizer": {
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "Split": {"pattern": _pattern, "behavior": _BEHAVIOR, "invert": _flag},
        "Punctuation": {"behavior": _BEHAVIOR},
        "Digits": {"individual_digits": _flag},
        "CharDelimiterSplit": {"delimiter": _word},
        "FixedLength": {"length": _number(1, 2**20)},
        "Sequence": {"pretokenizers": _list},
        **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")},
        "UnicodeScripts": {},
    },
    "post_processor": {
        "ByteLevel": _BYTE_LEVEL,
        "BertProcessing": _FRAME,
        "RobertaProcessing": _FRAME,
        "TemplateProcessing": {"single": _template, "pair": _template, "special_tokens": _specials},
        "Sequence": {"processors": _list},
    },
    "decoder": {
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "WordPiece": {"prefix": _word, "cleanup": _flag},
        "BPEDecoder": {"suffix": _word},
        "CTC": {"pad_token": _word, "word_delimiter_token": _word, "cleanup": _flag},
        "Strip": {"content": _word, "start": _count(_WORD), "stop": _number(0, 0)},
        "Replace": _REPLACE,
        "Sequence": {"decoders": _list},
        "ByteFallback": {},
        "Fuse": {},
    },
    "model": {
        "BPE": {
            "dropout": _fraction,
            "unk_token": _name,
            "continuing_subword_prefix": _word,
            "end_of_word_suffix": _word,
            "fuse_unk": _flag,
            "byte_fallback": _flag,
            "ignore_merges": _flag,
            "vocab": _vocabulary,
            "merges": _list,
        },
        "WordPiece": {
            "unk_token": _name,
            "continuing_subword_prefix": _word,
            "max_input_chars_per_word": _count(1000),
            "vocab": _vocabulary,
        },
        "WordLevel": {"vocab": _vocabulary, "unk_token": _name},
        "Unigram": {"unk_id": _count(_IDS), "vocab": _scores, "byte_fallback": _flag},
    },
}
"""Supported types of each component, and the checks of their fields."""

_INNER = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_ADDED_FIELDS: dict[str, _Check] = {
    "id": _count(_IDS),
    "content": _name,
    **{name: _flag for name in ("single_word", "lstrip", "rstrip", "normalized", "special")},
}
_UNUSED = ("version", "truncation", "padding")
"""Keys without effect: `Tokenizer` resets truncation and padding."""


def _problems(spec: Any) -> Iterator[Problem]:
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        expected = "an object with the type and the vocabulary of the tokenizer's model"
        yield Problem("model", expected)
        return
    known = (*KNOWN, *_UNUSED, "added_tokens")
    for key in set(spec) - set(known):
        expected = "a key of tokenizer.json that Étude supports"
        yield Problem(key, expected, hint=nearest(key, known))
    for slot in KNOWN:
        parts = list(_iterate_parts(slot, spec.get(slot), slot))
        if len(parts) > _PARTS:
            yield Problem(slot, f"at most {_PARTS} components, not {len(parts)}")
            continue
        for where, part in parts:
            yield from _part_problems(slot, where, part)
        yield from _repeated_problems(slot, [_kind(part) for _, part in parts])
    yield from _growth_problems(spec)
    yield from _prefix_problems(spec["model"])
    added = spec.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > _ADDED:
        yield Problem("added_tokens", f"a list of at most {_ADDED:,} tokens")
        return
    for number, token in enumerate(added):
        yield from _field_problems(f"added_tokens[{number}]", token, _ADDED_FIELDS)
    names = (token.get("content") for token in added if isinstance(token, dict))
    characters = sum(len(name) for name in names if isinstance(name, str))
    if characters > _ALL_ADDED:
        expected = f"at most {_ALL_ADDED:,} characters in all tokens together, not {characters:,}"
        yield Problem("added_tokens", expected)


def _iterate_parts(slot: str, part: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields a component and, if it is a sequence, all components in it, as pairs.

    A pair is (key path in the file, JSON value).

    Args:
        slot: key of `tokenizer.json` that contains the component, such as `normalizer`.
        part: the component's JSON value; None yields nothing.
        where: key path of the component in the file.
        depth: number of sequences around the component.
    """
    if part is None:
        return
    yield where, part
    inner = part.get(_INNER.get(slot, "")) if isinstance(part, dict) else None
    if isinstance(inner, list) and depth < _PARTS:
        for number, each in enumerate(inner[: _PARTS + 1]):
            yield from _iterate_parts(slot, each, f"{where}.{_INNER[slot]}[{number}]", depth + 1)


def _part_problems(slot: str, where: str, part: Any) -> Iterator[Problem]:
    kinds = KNOWN[slot]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None and slot == "model" and isinstance(part, dict):  # older files have no type
        kind = next((name for name, fields in kinds.items() if set(part) <= set(fields)), None)
    if not isinstance(kind, str) or kind not in kinds:
        expected = f"one of {', '.join(kinds)}"
        yield Problem(f"{where}.type", expected, kind)
        return
    yield from _field_problems(where, part, {"type": _name, **kinds[kind]})


def _field_problems(where: str, part: Any, fields: Mapping[str, _Check]) -> Iterator[Problem]:
    if not isinstance(part, dict):
        yield Problem(where, "a JSON object")
        return
    for key, value in part.items():
        if key not in fields:
            supported = "a field that Étude supports"
            yield Problem(f"{where}.{key}", supported, hint=nearest(key, fields))
        elif (expected := fields[key](value)) is not None:
            yield Problem(f"{where}.{key}", expected)


_AT_MOST = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Lowercase"), 2),
    **dict.fromkeys(("ByteLevel", "BertNormalizer", "Precompiled", "Metaspace"), 1),
    **dict.fromkeys(("BertProcessing", "RobertaProcessing", "TemplateProcessing"), 1),
    **dict.fromkeys(("CTC", "BPEDecoder", "WordPiece"), 1),
}
"""Maximum number of components of each type that may lengthen a text.

`_growth` limits all other components.
"""


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _repeated_problems(slot: str, kinds: list[str]) -> Iterator[Problem]:
    for kind, most in _AT_MOST.items():
        if (count := kinds.count(kind)) > most:
            noun = "component" if most == 1 else "components"
            yield Problem(slot, f"at most {most} {noun} of type {kind}, not {count}")


def _growth_problems(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields a problem if components together may lengthen a text by more than `GROWTH`.

    Args:
        spec: content of `tokenizer.json`.
    """
    for slots in (("normalizer", "pre_tokenizer"), ("decoder",)):
        parts = [part for slot in slots for _, part in _iterate_parts(slot, spec.get(slot), slot)]
        if len(parts) > 2 * _PARTS:
            return  # already reported
        growth = 1
        for number, part in enumerate(parts):
            if isinstance(part, dict):
                growth *= _growth(part, "Precompiled" in map(_kind, parts[number:]))
        if growth > GROWTH:
            expected = f"components that together make a text at most {GROWTH} times as long, "
            yield Problem(" and ".join(slots), f"{expected}not {growth} times")


_FACTORS = {"ByteLevel": 2, "Metaspace": 2, "BertNormalizer": 3, "CTC": 2, "BPEDecoder": 2}
"""Factors by which components lengthen a text.

Bytes become two-byte letters, letters become words, and some components insert spaces between
letters.
"""


def _growth(part: Mapping[str, Any], table: bool) -> int:
    """Returns the maximum factor by which a component lengthens a text.

    Args:
        part: the component.
        table: whether the component is followed by a `Precompiled` table; see `_size`.
    """
    kind = _kind(part)
    if kind == "Prepend":
        return 1 + _size(part.get("prepend"), table)
    if kind != "Replace":
        return _FACTORS.get(kind, 1)
    pattern, size = part.get("pattern"), _size(part.get("content"), table)
    if not isinstance(pattern, dict):
        return 1  # reported as a field
    literal, expression = pattern.get("String"), pattern.get("Regex")
    if isinstance(literal, str) and literal:
        return max(1, -(-size // len(literal)))
    shortest = shortest_match(expression) if isinstance(expression, str) else 0
    # An expression that may match the empty string matches between any two characters.
    return max(1, -(-size // shortest)) if shortest else 1 + size


def _size(content: Any, table: bool) -> int:
    """Returns the maximum length, in characters, of a replacement text after later components.

    Args:
        content: the replacement text; 0 is returned if it is not a string.
        table: whether a `Precompiled` table follows, which may replace any non-ASCII character by
            up to `GROWTH` characters; each such character then counts as `GROWTH`.
    """
    if not isinstance(content, str):
        return 0
    content = content[: _WORD + 1]
    most = GROWTH if table else 1
    return sum(
        1 if letter.isascii() else max(most, len(unicodedata.normalize("NFKD", letter)))
        for letter in content
    )


def _prefix_problems(model: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields a problem if the second token of a merge lacks `continuing_subword_prefix`.

    The library removes this prefix without checking that the token begins with it.

    Args:
        model: the model in `tokenizer.json`.
    """
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if not isinstance(prefix, str) or not prefix or not isinstance(merges, list):
        return
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list) and len(parts) == 2 and isinstance(parts[1], str)
        if is_pair and not parts[1].startswith(prefix):
            expected = f"a merge whose second token begins with the prefix {prefix}"
            yield Problem(f"model.merges[{number}]", expected, merge)
            return
