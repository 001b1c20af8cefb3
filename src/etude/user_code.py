"""Tells the user's own source files from those of Python, Étude and installed packages."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[1]
_INSTALLED_FOLDERS = tuple(
    f"{Path(str(folder)).resolve()}{os.sep}"
    for folder in (
        *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")),
        _SOURCE / "etude",
        _SOURCE / "etude_papers",
        _SOURCE / "hydra_plugins",
    )
)


def is_user_file(file: str) -> bool:
    """Returns whether a source file is not part of Python, Étude or an installed package."""
    path = str(Path(file).resolve())
    return Path(path).is_file() and not path.startswith(_INSTALLED_FOLDERS)


def find_user_line(error: BaseException) -> str | None:
    """Returns the line of the user's code that caused an exception, such as `/a/b.py, line 3`.

    Returns None if the user's code is not involved.
    """
    if isinstance(error, SyntaxError) and error.filename and is_user_file(error.filename):
        return f"{error.filename}, line {error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if is_user_file(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).resolve()}, line {line}"
    return None
