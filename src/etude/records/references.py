"""How much the references in a record's config (`${data.sequence_length}`) make of it.

Thirty lines that name each other twice come to a thousand million values when they are followed,
so the sum is computed first, each reference once. References are those that OmegaConf knows: a key
path from the root or, with leading dots, from the value's own place; `oc.env`, `oc.select`,
`oc.dict.keys`, `oc.dict.values`, `oc.decode` of one of the environment's variables; and resolvers
that a program has registered, which are its own.
"""

from __future__ import annotations

import re
from typing import Any

from etude.errors import Problem, RequestError

LARGEST = 2**20
"""Characters, where each value counts one more; a config has some 10,000."""
_FOLLOWING = 1000  # characters that a reference counts for: it takes OmegaConf milliseconds
_LONGEST = 4096  # of a text with references in it, which OmegaConf parses slowly
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_OF_THE_ENVIRONMENT = re.compile(r"oc\.decode:\s*\$\{oc\.env:[^${}]*\}\s*")
_ENVIRONMENT = 4096  # characters that a variable is taken to have


def must_stay_small(tree: Any, file: str) -> None:
    """Refuses a config that its references make too large, or that has others than are known.

    Args:
        tree: of dictionaries and lists, with its references as they were written.
        file: its name, for errors.

    Raises:
        RequestError: names the key.
    """
    expected = f"references that come to at most {LARGEST:,} characters"
    try:
        size = _Sizes(tree, file).of(())
    except RecursionError:
        raise RequestError(Problem(file, expected, hint="they lead too far")) from None
    if size > LARGEST:
        raise RequestError(Problem(file, expected, hint=f"{size:.1e}"))


class _Sizes:
    def __init__(self, tree: Any, file: str) -> None:
        self._tree, self._file = tree, file
        self._known: dict[tuple[str, ...], int] = {}
        self._open: set[tuple[str, ...]] = set()

    def of(self, path: tuple[str, ...]) -> int:
        """That of the value at a key path with all references followed."""
        if path in self._known:
            return self._known[path]
        if path in self._open:
            raise self._refused(path, "a reference that does not lead back to itself")
        self._open.add(path)
        found = self._size(_at(self._tree, path), path)
        self._open.remove(path)
        self._known[path] = found
        return found

    def _size(self, value: Any, path: tuple[str, ...]) -> int:
        if isinstance(value, dict):
            return sum(1 + len(str(key)) + self.of((*path, str(key))) for key in value)
        if isinstance(value, list):
            return sum(1 + self.of((*path, str(place))) for place in range(len(value)))
        if not isinstance(value, str) or "${" not in value:
            return 1 + len(str(value))
        if len(value) > _LONGEST:
            raise self._refused(path, f"at most {_LONGEST:,} characters with a reference in them")
        return self._followed(value, path)

    def _followed(self, text: str, path: tuple[str, ...]) -> int:
        text = _OF_THE_ENVIRONMENT.sub("oc.env:DECODED", text)
        size = 1 + len(text)
        while found := _REFERENCE.search(text):
            content = found[1].strip()
            size += _FOLLOWING + self._reference(content, path)
            # one that stands in another must be plain text, which the other is looked up by
            text = text[: found.start()] + self._plain(content, path) + text[found.end() :]
            if len(text) > _LONGEST:
                break
        if "${" in text:
            raise self._refused(path, "references that end, without braces in them")
        return size

    def _reference(self, content: str, path: tuple[str, ...]) -> int:
        resolver, colon, arguments = content.partition(":")
        if not colon:
            return self.of(_target(content, path))
        resolver = resolver.strip()
        if resolver == "oc.env":
            return _ENVIRONMENT + len(arguments)
        if resolver in ("oc.select", "oc.dict.keys", "oc.dict.values"):
            return len(arguments) + self.of(_target(arguments.partition(",")[0].strip(), path))
        if resolver.startswith("oc."):
            known = "oc.env, oc.select, oc.dict.keys, oc.dict.values, oc.decode of oc.env"
            raise self._refused(path, f"a resolver that records may use: {known}", resolver)
        return _ENVIRONMENT + len(arguments)  # OmegaConf refuses those that nobody has registered

    def _plain(self, content: str, path: tuple[str, ...]) -> str:
        if ":" in content:
            return "_"
        value = _at(self._tree, _target(content, path))
        if isinstance(value, str) and "${" in value:
            return "_"
        return str(value) if isinstance(value, str | int | float) else "_"

    def _refused(self, path: tuple[str, ...], expected: str, value: Any = None) -> RequestError:
        where = f"{self._file}: {'.'.join(path)}"
        problem = Problem(where, expected) if value is None else Problem(where, expected, value)
        return RequestError(problem)


def _target(reference: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """The key path that a reference in the value at `path` means."""
    plain = reference.lstrip(".")
    dots = len(reference) - len(plain)
    keys = tuple(key for key in re.split(r"[.\[\]]+", plain) if key)
    return (*path[: max(0, len(path) - dots)], *keys) if dots else keys


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """The value there; None where there is none."""
    for key in path:
        if isinstance(tree, dict):
            names = (name for name in tree if str(name) == key)  # a number may be a key
            tree = tree[key] if key in tree else tree.get(next(names, None))
        elif isinstance(tree, list):
            tree = tree[int(key)] if key.isdecimal() and int(key) < len(tree) else None
        else:
            return None
    return tree
