"""Hashes of source files, in particular of Étude's own source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parent
"""Folder of the package `etude`."""


@cache
def source_hash() -> str:
    """Returns a hash of all Python files of the package `etude`, as 12 hex digits."""
    return hash_of(PACKAGE_FOLDER, sorted(PACKAGE_FOLDER.rglob("*.py")))


def hash_of(folder: Path, files: Sequence[Path]) -> str:
    """Returns the first 12 hex digits of the SHA-256 hash of the paths and contents of files.

    Args:
        folder: folder to which the hashed paths are relative.
        files: the files, which are in `folder`. Their order changes the hash.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
