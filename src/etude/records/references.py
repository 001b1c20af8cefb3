"""Size of a saved run's config after its references (`${data.sequence_length}`) are expanded.

References are OmegaConf's interpolations. Thirty values, each with two references to the next one,
expand to 2^30 values. So the size is computed before the expansion, and each value is visited only
once. A reference can be a key path from the root or, with leading dots, relative to the value. It
can also call a resolver: `oc.env`, `oc.select`, `oc.dict.keys`, `oc.dict.values`, `oc.decode` of an
environment variable, or a resolver that a program has registered.
"""

from __future__ import annotations

import re
from typing import Any

from etude.errors import Problem, RequestError

MAX_SIZE = 2**20
"""Maximum number of characters plus number of values; a typical config has 10,000."""
_REFERENCE_SIZE = 1000  # characters counted per reference, as OmegaConf takes milliseconds for it
_MAX_LENGTH = 4096  # characters of a value with references, as OmegaConf parses it slowly
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_DECODED_VARIABLE = re.compile(r"oc\.decode:\s*\$\{oc\.env:[^${}]*\}\s*")
_VARIABLE_SIZE = 4096  # characters assumed for a variable


def check_expanded_size(tree: Any, file: str) -> None:
    """Checks that a config's references are supported and do not make it too large.

    The expanded config may have at most `MAX_SIZE` characters.

    Args:
        tree: nested dictionaries and lists with unresolved references.
        file: file name for errors.

    Raises:
        RequestError: the check fails; the message names the key that causes the failure, if any.
    """
    expected = f"interpolations that expand to at most {MAX_SIZE:,} characters"
    try:
        size = _Sizes(tree, file).of(())
    except RecursionError:
        raise RequestError(
            Problem(file, expected, hint="the interpolations are nested too deeply")
        ) from None
    if size > MAX_SIZE:
        raise RequestError(Problem(file, expected, hint=f"they expand to {size:.1e} characters"))


class _Sizes:
    def __init__(self, tree: Any, file: str) -> None:
        self._tree, self._file = tree, file
        self._known: dict[tuple[str, ...], int] = {}
        self._open: set[tuple[str, ...]] = set()

    def of(self, path: tuple[str, ...]) -> int:
        """Returns the number of characters of a value after all its references are expanded.

        `path` is the key path of the value in the config. The number is an upper estimate: each
        reference adds 1,000 characters, because expanding it takes time.

        Raises:
            RequestError: a reference refers back to itself or is not supported, or a value with
                references is too long.
        """
        if path in self._known:
            return self._known[path]
        if path in self._open:
            raise self._error(path, "an interpolation that does not refer back to itself")
        self._open.add(path)
        size = self._size(_at(self._tree, path), path)
        self._open.remove(path)
        self._known[path] = size
        return size

    def _size(self, value: Any, path: tuple[str, ...]) -> int:
        if isinstance(value, dict):
            return sum(1 + len(str(key)) + self.of((*path, str(key))) for key in value)
        if isinstance(value, list):
            return sum(1 + self.of((*path, str(index))) for index in range(len(value)))
        if not isinstance(value, str) or "${" not in value:
            return 1 + len(str(value))
        if len(value) > _MAX_LENGTH:
            raise self._error(
                path, f"at most {_MAX_LENGTH:,} characters in a value with interpolations"
            )
        return self._expanded_size(value, path)

    def _expanded_size(self, text: str, path: tuple[str, ...]) -> int:
        text = _DECODED_VARIABLE.sub("oc.env:DECODED", text)
        size = 1 + len(text)
        while match := _REFERENCE.search(text):
            content = match[1].strip()
            size += _REFERENCE_SIZE + self._reference(content, path)
            # a nested reference must be plain text, as it is part of the outer key
            text = text[: match.start()] + self._substitute(content, path) + text[match.end() :]
            if len(text) > _MAX_LENGTH:
                break
        if "${" in text:
            expected = "interpolations ${...} that end with } and contain no other braces"
            raise self._error(path, expected)
        return size

    def _reference(self, content: str, path: tuple[str, ...]) -> int:
        resolver, colon, arguments = content.partition(":")
        if not colon:
            return self.of(_target(content, path))
        resolver = resolver.strip()
        if resolver == "oc.env":
            return _VARIABLE_SIZE + len(arguments)
        if resolver in ("oc.select", "oc.dict.keys", "oc.dict.values"):
            return len(arguments) + self.of(_target(arguments.partition(",")[0].strip(), path))
        if resolver.startswith("oc."):
            allowed = "oc.env, oc.select, oc.dict.keys, oc.dict.values, or oc.decode with oc.env"
            raise self._error(
                path, f"a resolver that is allowed in saved runs: {allowed}", resolver
            )
        return _VARIABLE_SIZE + len(arguments)  # OmegaConf rejects unregistered resolvers

    def _substitute(self, content: str, path: tuple[str, ...]) -> str:
        if ":" in content:
            return "_"
        value = _at(self._tree, _target(content, path))
        if isinstance(value, str) and "${" in value:
            return "_"
        return str(value) if isinstance(value, str | int | float) else "_"

    def _error(self, path: tuple[str, ...], expected: str, value: Any = None) -> RequestError:
        where = f"{self._file}: {'.'.join(path)}"
        problem = Problem(where, expected) if value is None else Problem(where, expected, value)
        return RequestError(problem)


def _target(reference: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the key path that a reference refers to.

    `reference` is the text of the reference, and `path` is the key path of the value that contains
    it. Leading dots make a reference relative to `path`.
    """
    keys_text = reference.lstrip(".")
    dots = len(reference) - len(keys_text)
    keys = tuple(key for key in re.split(r"[.\[\]]+", keys_text) if key)
    return (*path[: max(0, len(path) - dots)], *keys) if dots else keys


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """Returns the value at the key path `path` of `tree` (nested dictionaries and lists).

    Returns None if the key path does not exist.
    """
    for key in path:
        if isinstance(tree, dict):
            names = (name for name in tree if str(name) == key)  # keys may be numbers
            tree = tree[key] if key in tree else tree.get(next(names, None))
        elif isinstance(tree, list):
            tree = tree[int(key)] if key.isdecimal() and int(key) < len(tree) else None
        else:
            return None
    return tree
