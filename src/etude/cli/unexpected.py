"""Finds out whether the user's own code may have caused an unexpected exception."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from etude.errors import Problem, summarize_exception
from etude.user_code import find_user_line, is_user_file


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
    if (where := find_user_line(error)) is not None:
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


def _module_of(value: object) -> str | None:
    """Returns the name of the module that defines a class, or the class of an object.

    Returns None if the module is not the user's, but part of Python, Étude or an installed package.
    """
    name = (value if isinstance(value, type) else type(value)).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return name if file and is_user_file(file) else None
