"""Complete lists of arguments for the API reference.

In the source, the docstring of a base class describes the arguments that its subclasses inherit.
The docstring of a subclass does not repeat them, or refers to them: "batch, workers: see
`SyntheticData`". On the site, each class lists all of its arguments with their descriptions.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import reduce
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples?|Notes?):")
_HEADINGS = {
    "Example:": ["Example::", ""],
    "Examples:": ["Examples::", ""],
    "Returns:": [":returns:"],
}
_ENTRY = re.compile(r"    (\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?: \([^)]*\))?:(?: (.*))?")
_WRAPPED_NAMES = re.compile(r"^( {4}[\w*, ]+,)\n {8}", re.MULTILINE)
_UNDESCRIBED = ("self", "cls", "args", "kwargs")
_REFERENCE = re.compile(r"(?:see|as for) `([\w.]+)`(?:[.;] ?)?(.*)")


def complete(described: Any) -> list[str]:
    """Returns the lines of a docstring with a description of each parameter in the signature.

    Examples become code blocks, and the text of "Returns" may contain a colon.

    Args:
        described: a class or a function. A parameter that no docstring describes has no entry.
    """
    lines = _lines(described)
    arguments = dict(_entries(described, "Args"))
    attributes = dict(_entries(described, "Attributes"))  # of a dataclass, also its arguments
    texts = {
        "Args": {
            name: text
            for name, text in descriptions(described).items()
            if name in arguments or name not in attributes
        },
        "Attributes": {name: find_description(described, name) for name in attributes},
    }
    for title, described_names in texts.items():
        entries = []
        for name, text in described_names.items():
            if not text:
                continue
            first, *others = text
            entries += [f"    {name}: {first}", *(f"        {line}" for line in others if line)]
        start, end = _section(lines, title)
        if entries:
            lines = [*lines[:start], "", f"{title}:", *entries, "", *lines[end:]]
    return _as_rst(lines)


def _as_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring, with those headings as RST that napoleon misreads.

    It renders the code of an example as prose, and the text of "Returns" up to a colon as a type.
    """
    return [line for each in lines for line in _HEADINGS.get(each, [each])]


def descriptions(described: Any) -> dict[str, list[str]]:
    """Returns a dict from each parameter in the signature to the lines of its description.

    The lines are empty if neither the docstring nor that of a base class describes the parameter.
    """
    own = dict(_entries(described, "Args"))
    names = [name for name in _parameters(described) if name not in _UNDESCRIBED]
    names += [name for name in own if name not in names]
    return {name: find_description(described, name) for name in names}


def find_description(described: Any, name: str, seen: tuple[Any, ...] = ()) -> list[str]:
    """Returns the lines that describe an argument or an attribute, in a class's docstring or those
    of its bases.

    If the description begins with a reference to another class or function, such as "see `Stored`",
    the description there replaces the reference. `seen` are the objects whose references led here;
    they are not searched again.
    """
    for owner in getattr(described, "__mro__", [described]):
        own = {**dict(_entries(owner, "Attributes")), **dict(_entries(owner, "Args"))}
        text = own.get(name)
        if text is None:
            continue
        reference = _REFERENCE.fullmatch(" ".join(text))
        if reference is None:
            return text
        target = find_object(reference[1], owner)
        seen = (*seen, described, owner)
        elsewhere = [] if target in seen else find_description(target, name, seen)
        return [*elsewhere, *filter(None, [reference[2]])] if elsewhere else text
    return []


def find_object(name: str, owner: Any) -> Any:
    """Returns the object that a docstring names.

    Args:
        name: a dotted name, or a name in the class or module of `owner`, or in any module of Étude.
        owner: the class or function with the docstring.
    """
    module, _, attribute = name.rpartition(".")
    if module.startswith("etude"):
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            return importlib.import_module(name)
    module_of_owner = sys.modules[owner.__module__]
    outer = getattr(module_of_owner, owner.__qualname__.rpartition(".")[0], module_of_owner)
    first, *attributes = name.split(".")
    for scope in [outer, module_of_owner, *_modules()]:
        if first in vars(scope):
            return reduce(getattr, attributes, vars(scope)[first])
    raise LookupError(f"{owner.__module__}.{owner.__qualname__}: there is no {name}")


def _modules() -> Iterator[Any]:
    for name in sorted(sys.modules):
        if name.startswith("etude.") and sys.modules[name] is not None:
            yield sys.modules[name]


def _parameters(described: Any) -> list[str]:
    try:
        return list(inspect.signature(described).parameters)
    except (TypeError, ValueError):
        return []


def _lines(described: Any) -> list[str]:
    own = vars(described) if inspect.isclass(described) else {"__doc__": described.__doc__}
    return inspect.cleandoc(own.get("__doc__") or "").splitlines()


def _section(lines: list[str], title: str) -> tuple[int, int]:
    """Returns the first line of a section, and the line after its end.

    If there is no such section, both are the line before which it is to be inserted.
    """
    starts = [n for n, line in enumerate(lines) if _SECTION.fullmatch(line)]
    for start in starts:
        if lines[start] == f"{title}:":
            end = next((n for n in range(start + 1, len(lines)) if re.match(r"\S", lines[n])), None)
            return start, len(lines) if end is None else end
    where = starts[0] if starts else len(lines)
    return where, where


def _entries(described: Any, title: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each name in a section of a docstring, and the lines that describe it.

    Args:
        described: the class or function with the docstring.
        title: the section: `Args` or `Attributes`.
    """
    if not inspect.isclass(described) and not inspect.isroutine(described):
        return
    lines = _lines(described)
    start, end = _section(lines, title)
    block = "\n".join(lines[start + 1 : end])
    while (joined := _WRAPPED_NAMES.sub(r"\1 ", block)) != block:
        block = joined
    names: list[str] = []
    text: list[str] = []
    for line in [*block.split("\n"), "    end:"]:
        if (entry := _ENTRY.fullmatch(line)) is not None:
            yield from ((name, text) for name in names)
            names, text = re.split(r", *", entry[1]), [entry[2]] if entry[2] else []
        elif line.strip():
            text = [*text, line.removeprefix("        ")]
