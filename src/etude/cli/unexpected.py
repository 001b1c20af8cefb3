"""Finds out whether the user's own code may have caused an unexpected exception."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from etude.errors import Problem, summarize_exception

_SOURCE = Path(__file__).resolve().parents[2]
_INSTALLED_FOLDERS = tuple(
    f"{Path(str(folder)).resolve()}{os.sep}"
    for folder in (
        *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")),
        _SOURCE / "etude",
        _SOURCE / "etude_papers",
        _SOURCE / "hydra_plugins",
    )
)


def find_user_fault(error: BaseException, words: Sequence[str]) -> Problem | None:
    """Returns a problem that names the user's code, if this code may have caused an exception.

    Returns None if the user's code is not involved.

    If the user's code raised the exception, the traceback contains this code. But a user's class
    may also lack a method that Étude calls. The traceback then contains only Étude's code. In this
    case, the object that caused the error, or the override `extensions`, shows that the user's
    class may be the cause.

    Args:
        error: the exception.
        words: the arguments of the command.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = str(Path(frame.f_code.co_filename).resolve())
        if _is_user_file(file):
            where = f"{file}, line {line}"
            return Problem(where, "code that raises no exception", hint=_hint(error))
    module = _module_of(getattr(error, "obj", None))
    if module is not None:
        expected = "a class with all attributes and methods that Étude uses"
        return Problem(module, expected, hint=_hint(error))
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "extensions" and value.strip("[] "):
            expected = "modules whose classes have all methods and attributes that Étude uses"
            return Problem(key, expected, value, _hint(error))
    return None


def _hint(error: BaseException) -> str:
    return f"{summarize_exception(error)}; --debug shows the traceback"


def _is_user_file(file: str) -> bool:
    """Returns whether a source file is not part of Python, Étude or an installed package."""
    return Path(file).is_file() and not file.startswith(_INSTALLED_FOLDERS)


def _module_of(value: object) -> str | None:
    """Returns the name of the module that defines a class, or the class of an object.

    Returns None if the module is not the user's, but part of Python, Étude or an installed package.
    """
    name = (value if isinstance(value, type) else type(value)).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return name if file and _is_user_file(str(Path(file).resolve())) else None
