"""What a `tokenizer.json` may consist of: parts that are known, with values that stay bounded.

A tokenizer can come from anybody, and a small file can ask for endless work: a normalizer that
replaces each letter by a megabyte, a regular expression that backtracks for ever, a template that
puts a million tokens around a text. So each part's type and fields are looked up here, and all
others are refused by name before the `tokenizers` library sees them.

What an accepted tokenizer costs: a text grows by a factor of at most `GROWTH` in the normalizer's
replacements (64 in a `Precompiled` table), by 64 tokens in the template, and each alternative of a
regular expression has at most 3 repetitions, none of them of a group of varying length, so that
matching takes polynomial time.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.records.files import each_key_once

GROWTH = 16
_PARTS, _PIECES, _ADDED = 32, 64, 2**16
_WORD, _NAME, _TOKEN = 64, 1024, 2**16  # characters of an affix, a special token, a token
_IDS = 2**24
_OBJECTS = 2**18
_TABLE, _ENTRY = 4 * 2**20, 64  # of `Precompiled`: characters of it, bytes that one letter becomes
_REPETITIONS, _CHOICES = 3, 6
_PATTERN = 4096


def must_be_known(text: str, file: str) -> None:
    """Refuses a `tokenizer.json` with parts that are not known, or that could take endless work.

    Args:
        text: its content.
        file: its name, for errors.

    Raises:
        RequestError: names each part that is refused.
    """
    if text.count("{") > _OBJECTS:  # counted first, as a million take seconds to read
        raise RequestError(Problem(file, f"at most {_OBJECTS:,} opening braces"))
    try:
        spec = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        expected = "a tokenizer.json of the tokenizers library"
        raise RequestError(Problem(file, expected, hint=str(error))) from error
    if problems := list(islice(_problems(spec), 8)):
        raise RequestError(replace(each, where=f"{file}: {each.where}") for each in problems)


_Check = Callable[[Any], str | None]
"""Says what was expected of a value; None for one that is right."""


def _flag(value: Any) -> str | None:
    return None if value is None or isinstance(value, bool) else "true, false or null"


def _word(value: Any) -> str | None:
    right = value is None or (isinstance(value, str) and len(value) <= _WORD)
    return None if right else f"at most {_WORD} characters"


def _name(value: Any) -> str | None:
    right = value is None or (isinstance(value, str) and len(value) <= _NAME)
    return None if right else f"at most {_NAME} characters"


def _count(largest: int) -> _Check:
    def check(value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        right = value is None or (whole and 0 <= value <= largest)
        return None if right else f"a whole number from 0 to {largest:,}"

    return check


def _one_of(*values: str) -> _Check:
    def check(value: Any) -> str | None:
        return None if value is None or value in values else f"one of {', '.join(values)}"

    return check


def _fraction(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if value is None or (number and 0 <= value <= 1) else "a number from 0 to 1"


def _pair(value: Any) -> str | None:
    right = isinstance(value, list) and len(value) == 2 and _name(value[0]) is None
    return None if right and _count(_IDS)(value[1]) is None else "a token and its id"


def _pattern(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) != 1:
        return "one of String and Regex"
    ((kind, text),) = value.items()
    if kind not in ("String", "Regex") or not isinstance(text, str):
        return "one of String and Regex"
    if not 0 < len(text) <= _PATTERN:
        return f"1 to {_PATTERN:,} characters"
    return bounded(text) if kind == "Regex" else None


def _table(value: Any) -> str | None:
    """Of `Precompiled`: a trie of letters, and what each becomes, zeros between."""
    if not isinstance(value, str) or len(value) > _TABLE:
        return f"at most {_TABLE:,} characters of base 64"
    try:
        content = base64.b64decode(value, validate=True)
    except ValueError:
        return "base 64"
    size = int.from_bytes(content[:4], "little")
    if len(content) < 4 or size % 4 or 4 + size > len(content):
        return "a trie and what follows it"
    longest = max(map(len, content[4 + size :].split(b"\0")))
    return None if longest <= _ENTRY else f"at most {_ENTRY} bytes for one letter"


def _template(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > _PIECES:
        return f"a list of at most {_PIECES} pieces"
    for piece in value:
        if not isinstance(piece, dict) or not set(piece) <= {"SpecialToken", "Sequence"}:
            return "pieces that are a SpecialToken or a Sequence"
    return None


def _specials(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > _PIECES:
        return f"at most {_PIECES} special tokens"
    for each in value.values():
        lists = [each.get("ids"), each.get("tokens")] if isinstance(each, dict) else [None]
        if not all(isinstance(one, list) and len(one) <= 8 for one in lists):
            return "special tokens of at most 8 ids each"
    return None


def _vocabulary(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "tokens and their ids"
    if not all(isinstance(number, int) and 0 <= number < _IDS for number in value.values()):
        return f"ids up to {_IDS - 1:,}"
    return None if max(map(len, value), default=0) <= _TOKEN else _TOO_LONG


_TOO_LONG = f"tokens of at most {_TOKEN:,} characters"


def _scores(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > _IDS:
        return "a list of tokens and scores"
    pairs = (one for one in value if isinstance(one, list) and len(one) == 2)
    if sum(isinstance(one[0], str) for one in pairs) < len(value):
        return "a list of tokens and scores"
    return None if max((len(one[0]) for one in value), default=0) <= _TOKEN else _TOO_LONG


def _listed(value: Any) -> str | None:
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
        "Sequence": {"normalizers": _listed},
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
        "FixedLength": {"length": _count(2**20)},
        "Sequence": {"pretokenizers": _listed},
        **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")},
        "UnicodeScripts": {},
    },
    "post_processor": {
        "ByteLevel": _BYTE_LEVEL,
        "BertProcessing": _FRAME,
        "RobertaProcessing": _FRAME,
        "TemplateProcessing": {"single": _template, "pair": _template, "special_tokens": _specials},
        "Sequence": {"processors": _listed},
    },
    "decoder": {
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "WordPiece": {"prefix": _word, "cleanup": _flag},
        "BPEDecoder": {"suffix": _word},
        "CTC": {"pad_token": _word, "word_delimiter_token": _word, "cleanup": _flag},
        "Strip": {"content": _word, "start": _count(_WORD), "stop": _count(_WORD)},
        "Replace": _REPLACE,
        "Sequence": {"decoders": _listed},
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
            "merges": _listed,
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
"""The types of each part and their fields."""

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
"""Neither is carried out: `Tokenizer` takes both back."""


def _problems(spec: Any) -> Iterator[Problem]:
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        yield Problem("model", "a tokenizer.json of the tokenizers library")
        return
    known = (*KNOWN, *_UNUSED, "added_tokens")
    for key in set(spec) - set(known):
        yield Problem(key, "a part that is known", hint=nearest(key, known))
    for slot in KNOWN:
        parts = list(_flat(slot, spec.get(slot), slot))
        if len(parts) > _PARTS:
            yield Problem(slot, f"at most {_PARTS} parts", len(parts))
            continue
        for where, part in parts:
            yield from _part_problems(slot, where, part)
        yield from _growth_problems(slot, [part for _, part in parts])
    added = spec.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > _ADDED:
        yield Problem("added_tokens", f"a list of at most {_ADDED:,} tokens")
        return
    for number, token in enumerate(added):
        yield from _field_problems(f"added_tokens[{number}]", token, _ADDED_FIELDS)


def _flat(slot: str, part: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """A part and what a sequence holds, each with its place."""
    if part is None:
        return
    yield where, part
    inner = part.get(_INNER.get(slot, "")) if isinstance(part, dict) else None
    if isinstance(inner, list) and depth < _PARTS:
        for number, each in enumerate(inner[: _PARTS + 1]):
            yield from _flat(slot, each, f"{where}.{_INNER[slot]}[{number}]", depth + 1)


def _part_problems(slot: str, where: str, part: Any) -> Iterator[Problem]:
    kinds = KNOWN[slot]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None and slot == "model" and isinstance(part, dict):  # older files do not say it
        kind = next((name for name, fields in kinds.items() if set(part) <= set(fields)), None)
    if kind not in kinds:
        expected = f"one of {', '.join(kinds)}"
        yield Problem(f"{where}.type", expected, kind)
        return
    yield from _field_problems(where, part, {"type": _name, **kinds[kind]})


def _field_problems(where: str, found: Any, fields: Mapping[str, _Check]) -> Iterator[Problem]:
    if not isinstance(found, dict):
        yield Problem(where, "an object")
        return
    for key, value in found.items():
        if key not in fields:
            yield Problem(f"{where}.{key}", "a field that is known", hint=nearest(key, fields))
        elif (expected := fields[key](value)) is not None:
            yield Problem(f"{where}.{key}", expected)


def _growth_problems(slot: str, parts: list[Any]) -> Iterator[Problem]:
    """By how much all replacements together may lengthen a text."""
    growth = 1
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "Replace":
            growth *= _growth(part)
    if growth > GROWTH:
        expected = f"replacements that make a text at most {GROWTH} times as long"
        yield Problem(slot, expected, growth)
    tables = [p for p in parts if isinstance(p, dict) and p.get("type") == "Precompiled"]
    if len(tables) > 1:
        yield Problem(slot, "at most one Precompiled", len(tables))


def _growth(part: Mapping[str, Any]) -> int:
    pattern, content = part.get("pattern"), part.get("content")
    if not isinstance(pattern, dict) or not isinstance(content, str):
        return 1  # reported as a field
    literal = pattern.get("String")
    if isinstance(literal, str) and literal:
        return max(1, -(-len(content) // len(literal)))
    return 1 + len(content)  # an expression may match nothing, between any two letters


_ESCAPED = "sSwWdDhHbBAzZnrtfv"
_GROUP = re.compile(r"\((?:\?(?:[imsx-]*:|=|!|<=|<!|>))?")
_OPTIONS = re.compile(r"\(\?[imsx-]+\)")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)", re.DOTALL
)
_REPEAT = re.compile(r"(?:[*+?]|\{(\d*)(,?)(\d*)\})[?+]?")


def bounded(pattern: str) -> str | None:
    """Says why a regular expression could take endless time to match; None if it could not.

    Accepted are alternatives of letters, classes, escapes and groups, of which only classes and
    fixed texts are repeated: what GPT-2's, Llama's, Qwen's and DeepSeek's tokenizers split with.
    """
    branches = [[(0, 0)]]  # for each open group its alternatives: repetitions, choices
    atom = ""  # what a repetition would be of: "", "one" or "group"
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if found := _OPTIONS.match(pattern, at):
            atom = ""
        elif found := _GROUP.match(pattern, at):
            if pattern.startswith("(?", at) and len(found[0]) == 1:
                return "groups that are known"
            branches.append([(0, 0)])
            if len(branches) > 8:
                return "at most 8 groups within each other"
            atom = ""
        elif letter == ")":
            inner = branches.pop()
            if not branches:
                return "a regular expression"
            choices = max(c for _, c in inner) + (len(inner) > 1)
            _add(branches, max(r for r, _ in inner), choices)
            fixed = choices == 0 and all(r == 0 for r, _ in inner)
            atom, at = "one" if fixed else "group", at + 1
            continue
        elif letter == "|":
            branches[-1].append((0, 0))
            atom, at = "", at + 1
            continue
        elif found := _REPEAT.match(pattern, at):
            if not atom:
                return "a regular expression"
            optional = letter == "?"
            if atom == "group" and not optional:
                return "no repeated groups of varying length"
            low, comma, high = found[1], found[2], found[3]
            if letter == "{" and max(int(low or 0), int(high or 0)) > 256:
                return "at most 256 repetitions by number"
            exact = letter == "{" and not comma
            _add(branches, int(not optional and not exact), int(optional))
            atom = ""
        elif letter == "[":
            end = _class_end(pattern, at)
            if end is None:
                return "classes that are closed"
            atom, at = "one", end
            continue
        elif letter == "\\":
            found = _ESCAPE.match(pattern, at)
            if found is None or not _known_escape(found[0]):
                return "escapes that are known"
            atom = "one"
        else:
            atom, at = "one", at + 1
            continue
        at = found.end()
    if len(branches) != 1:
        return "a regular expression"
    repetitions, choices = (max(each[i] for each in branches[0]) for i in (0, 1))
    if repetitions > _REPETITIONS:
        return f"at most {_REPETITIONS} repetitions in an alternative"
    return None if choices <= _CHOICES else f"at most {_CHOICES} optional parts in an alternative"


def _add(branches: list[list[tuple[int, int]]], repetitions: int, choices: int) -> None:
    before = branches[-1][-1]
    branches[-1][-1] = (before[0] + repetitions, before[1] + choices)


def _known_escape(text: str) -> bool:
    letter = text[1]
    return len(text) > 2 or letter in _ESCAPED or not letter.isalnum()


def _class_end(pattern: str, at: int) -> int | None:
    """Where a class that opens at `at` ends; classes stand within classes."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
            continue
        if pattern[at] == "[":
            depth += 1
            if pattern.startswith(("[]", "[^]"), at):  # the first bracket is a letter
                at += pattern.startswith("[^", at) + 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
        if depth == 0:
            return at
    return None
