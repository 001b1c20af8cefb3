"""What is said of an exception that nothing below the command line reports."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from etude.errors import Problem, described

_SOURCE = Path(__file__).resolve().parents[2]
_NOT_USERS = tuple(
    f"{Path(str(folder)).resolve()}{os.sep}"
    for folder in (
        *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")),
        _SOURCE / "etude",
        _SOURCE / "etude_papers",
        _SOURCE / "hydra_plugins",
    )
)


def fault_of_users_class(error: BaseException, words: Sequence[str]) -> Problem | None:
    """The problem, if code of the user's own raised the exception or may have caused it.

    A class from an extension need not keep what the base class promises, so Étude's code may
    fail on it: then the exception comes from Étude, and the request names an extension.

    Args:
        error: the exception.
        words: of the command.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = str(Path(frame.f_code.co_filename).resolve())
        if _is_users(file):
            where = f"{file}, line {line}"
            return Problem(where, "code that does not raise", hint=_hint(error))
    module = _module_of(getattr(error, "obj", None))
    if module is not None:
        return Problem(module, "a class with all that is used of it", hint=_hint(error))
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "extensions" and value.strip("[] "):
            expected = "classes that do what those they replace do"
            return Problem(key, expected, value, _hint(error))
    return None


def _hint(error: BaseException) -> str:
    return f"{described(error)}; --debug shows where"


def _is_users(file: str) -> bool:
    """Whether a file of code is neither Python's, nor Étude's, nor an installed package's."""
    return Path(file).is_file() and not file.startswith(_NOT_USERS)


def _module_of(value: object) -> str | None:
    """The name of the user's module that an object's class comes from."""
    name = (value if isinstance(value, type) else type(value)).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return name if file and _is_users(str(Path(file).resolve())) else None
