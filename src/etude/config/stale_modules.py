"""Detects imported modules of the user whose source files were edited after the import.

Python imports a module once. A run that is trained afterwards, as in a notebook, would use the old
code, and its record would contain the hash of the new file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType

from etude.errors import Problem

_contents: dict[str, tuple[ModuleSpec, bytes]] = {}
"""The spec of each module that was checked, and the content of its file at its first check.

`importlib.reload` gives a module another spec.
"""


def stale_modules(named: Sequence[str], where: str) -> Iterator[Problem]:
    """Yields a problem for each imported module whose file has changed since the import.

    Args:
        named: names of modules; submodules are checked, too.
        where: key of the config, for messages.
    """
    for name, module in sorted(sys.modules.items()):
        is_named = any(name == each or name.startswith(f"{each}.") for each in named)
        if is_named and _is_stale(name, module):
            expected = "a module whose file has not changed since it was imported"
            hint = f"run importlib.reload(sys.modules[{name!r}]), or restart Python"
            yield Problem(where, expected, name, hint)


def _is_stale(name: str, module: ModuleType) -> bool:
    spec = module.__spec__
    file = Path(spec.origin) if spec is not None and spec.origin is not None else None
    if spec is None or file is None or not file.is_file():
        return False
    content = file.read_bytes()
    if name in _contents and _contents[name][0] is spec:
        return _contents[name][1] != content
    if _differs_from_bytecode(file):
        return True
    _contents[name] = spec, content
    return False


def _differs_from_bytecode(file: Path) -> bool:
    """Returns whether a source file was edited after Python saved the bytecode of its import.

    The bytecode's header contains the time and the size of the source (PEP 552).
    """
    with suppress(OSError, NotImplementedError):
        header = Path(cache_from_source(str(file))).read_bytes()[:16]
        flags, time, size = (int.from_bytes(header[i : i + 4], "little") for i in (4, 8, 12))
        now = file.stat()
        saved = int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF
        return flags == 0 and (time, size) != saved
    return False
