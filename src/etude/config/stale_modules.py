"""Detects imported modules of the user whose source files were edited after the import.

Python imports a module once. A run that is trained afterwards, as in a notebook, would use the old
code, and its record would contain the hash of the new file.
"""

from __future__ import annotations

import importlib.util
import inspect
import marshal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from etude.errors import Problem
from etude.user_code import code_content, is_user_file

_contents: dict[str, tuple[object, bytes]] = {}
"""The spec of each module that was checked, and the content of its file at its first check.

`importlib.reload` gives a module another spec. The spec is None if the module was not imported yet;
it is then imported with this content.
"""


def stale_modules(named: Sequence[str], where: str) -> Iterator[Problem]:
    """Yields a problem for each imported module whose file has changed since the import.

    Args:
        named: names of modules. Their submodules, and the user's modules whose objects they
            contain, are checked, too.
        where: key of the config, for messages.
    """
    for name in named:
        if name not in sys.modules:
            _contents.pop(name, None)
            if (file := _file_of(name)) is not None:
                _contents[name] = None, file.read_bytes()
    for name, module in _reached(named).items():
        if _is_stale(name, module) or _has_old_classes(module):
            expected = "a module whose file has not changed since it was imported"
            hint = f"run importlib.reload(sys.modules[{name!r}]), or restart Python"
            if "." in name or name not in named or hasattr(module, "__path__"):
                hint = "restart Python: other modules contain objects of this module"
            yield Problem(where, expected, name, hint)


def remember_imports(named: Sequence[str]) -> None:
    """Notes which modules have been imported since `stale_modules` has read their files.

    Args:
        named: names of modules.
    """
    for name in named:
        known, content = _contents.get(name, (None, None))
        module = sys.modules.get(name)
        if known is None and content is not None and module is not None:
            _contents[name] = getattr(module, "__spec__", None), content
        elif known is None:
            _contents.pop(name, None)


def _file_of(name: str) -> Path | None:
    with suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            return Path(spec.origin)
    return None


def _reached(named: Sequence[str]) -> dict[str, ModuleType]:
    """Returns the imported modules with these names, their submodules, and the user's modules whose
    objects these contain.
    """
    found: dict[str, ModuleType] = {}
    waiting = [
        name
        for name in sorted(sys.modules)
        if any(name == each or name.startswith(f"{each}.") for each in named)
    ]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in found or not isinstance(module, ModuleType):
            continue
        found[name] = module
        for value in list(vars(module).values()):
            other = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
            file = getattr(sys.modules.get(other), "__file__", None)
            if other != "__main__" and isinstance(file, str) and is_user_file(file):
                waiting.append(other)
    return found


def _module_of(value: Any) -> str:
    """Returns the name of the module that defines a class or a function; empty for other values."""
    is_defined = inspect.isclass(value) or inspect.isfunction(value)
    name = getattr(value, "__module__", "") if is_defined else ""
    return name if isinstance(name, str) else ""


def _is_stale(name: str, module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if origin is None or not Path(origin).is_file() or Path(origin).suffix != ".py":
        return False
    content = Path(origin).read_bytes()
    known, before = _contents.get(name, (spec, content))
    if known is not spec and known is not None:  # imported again
        before = content
    _contents[name] = spec, before
    try:
        code = compile(content, origin, "exec", dont_inherit=True)
        old = compile(before, origin, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return before != content
    return code_content(old) != code_content(code) or _differs_from_memory(module, origin, code)


def _differs_from_memory(module: ModuleType, file: str, code: CodeType) -> bool:
    """Returns whether a module's functions, or the bytecode saved at its import, are not those of
    its file.

    Modules with another loader, such as pytest's, are not checked: it changes their code.

    Args:
        module: the module.
        file: its file.
        code: the code of the file.
    """
    if type(getattr(module.__spec__, "loader", None)) is not SourceFileLoader:
        return False
    # Without bytecode of this version of Python, only the functions in memory are compared
    with suppress(OSError, NotImplementedError, ValueError, EOFError, TypeError):
        saved = Path(importlib.util.cache_from_source(file)).read_bytes()
        if code_content(marshal.loads(saved[16:])) != code_content(code):
            return True
    current = [(each.co_qualname, code_content(each)) for each in _inner(code)]
    return any(
        (function.__code__.co_qualname, code_content(function.__code__)) not in current
        for function in _functions(module)
        if function.__code__.co_filename == file
    )


def _inner(code: CodeType) -> Iterator[CodeType]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value
            yield from _inner(value)


def _functions(module: ModuleType) -> Iterator[Any]:
    """Yields the functions that a module and its classes define."""
    for value in vars(module).values():
        if _module_of(value) == module.__name__:
            members = vars(value).values() if inspect.isclass(value) else [value]
            for member in members:
                function = inspect.unwrap(getattr(member, "__func__", member))
                if inspect.isfunction(function) and function.__name__ != "<lambda>":
                    yield function


def _has_old_classes(module: ModuleType) -> bool:
    """Returns whether a module contains a class of another module that was imported again since."""
    for value in vars(module).values():
        other = sys.modules.get(_module_of(value)) if inspect.isclass(value) else None
        file = getattr(other, "__file__", None)
        if other is None or other is module or not isinstance(file, str) or not is_user_file(file):
            continue
        now = getattr(other, value.__qualname__, value)
        if inspect.isclass(now) and now is not value:
            return True
    return False
