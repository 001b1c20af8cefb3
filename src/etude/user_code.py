"""Finds the user's own code in the traceback of an exception."""

from __future__ import annotations

import inspect
import os
import sysconfig
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

from etude.sources import PACKAGE_FOLDER

_INSTALLED_FOLDERS = tuple(
    f"{Path(str(folder)).resolve()}{os.sep}"
    for folder in (
        *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")),
        PACKAGE_FOLDER,
        PACKAGE_FOLDER.parent / "etude_papers",
        PACKAGE_FOLDER.parent / "hydra_plugins",
    )
)


def is_user_file(file: str) -> bool:
    """Returns whether a source file is not part of Python, Étude or an installed package."""
    path = Path(file).resolve()
    return path.is_file() and not str(path).startswith(_INSTALLED_FOLDERS)


def find_user_line(error: BaseException) -> str | None:
    """Returns the file and line of the innermost call in the user's code, such as `a.py, line 3`.

    If no call is in the user's code, but Étude's innermost call is a method of an object of the
    user's class, returns the file and line of the class: it may lack a method, or define it with
    other arguments. Otherwise returns None.
    """
    if isinstance(error, SyntaxError) and error.filename and is_user_file(error.filename):
        return f"{error.filename}, line {error.lineno}"
    frames = list(traceback.walk_tb(error.__traceback__))[::-1]
    for frame, line in frames:
        if is_user_file(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).resolve()}, line {line}"
    for frame, _ in frames:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE_FOLDER):
            return _class_line(type(frame.f_locals.get("self")))
    return None


def _class_line(kind: type) -> str | None:
    """Returns the file and line of a user's class; None for other classes."""
    try:
        file, (_, line) = inspect.getfile(kind), inspect.getsourcelines(kind)
    except (OSError, TypeError):  # a class of Python or without a source file
        return None
    return f"{Path(file).resolve()}, line {line}" if is_user_file(file) else None


def code_content(code: CodeType) -> list[Any]:
    """Returns JSON values that state what a code object computes, without its position in the file.

    Two code objects with equal values do the same in one version of Python.
    """

    def constant(value: Any) -> Any:
        if isinstance(value, CodeType):
            return code_content(value)
        if isinstance(value, frozenset):
            return sorted(map(repr, value))
        return [constant(each) for each in value] if isinstance(value, tuple) else repr(value)

    constants = [constant(each) for each in code.co_consts]
    names = [list(each) for each in (code.co_names, code.co_varnames, code.co_freevars)]
    return [code.co_code.hex(), constants, *names, code.co_flags]
