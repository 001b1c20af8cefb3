"""A hash of Étude's own source: the same source, the same hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
"""The package's folder."""


@cache
def source_hash() -> str:
    """Of the package's Python files, 12 hex digits."""
    return hash_of(SOURCE, sorted(SOURCE.rglob("*.py")))


def hash_of(folder: Path, files: Sequence[Path]) -> str:
    """Of the names of some files below a folder, and what they contain; 12 hex digits."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
