"""Provenance of a run: package versions, commit, and a hash of Étude's source."""

from __future__ import annotations

import importlib.util
import platform
import socket
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from etude import sources
from etude.records.patches import write_patches
from etude.secrets import Mask
from etude.sources import PACKAGE_FOLDER, hash_of

_PACKAGES = ("etude", "torch", "pytorch-lightning", "hydra-core", "tokenizers", "numpy")


def timestamp() -> str:
    """Returns the local time in ISO 8601 with its UTC offset."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def module_hash(name: str) -> str | None:
    """Returns the hash of the source of a user's module, without importing the module.

    The hash is 12 hex digits. For a package, it covers all Python files below the package's folder.
    Returns None if the module or its source does not exist.
    """
    files = _module_files(name)
    return None if files is None else hash_of(*files)


def _module_files(name: str) -> tuple[Path, list[Path]] | None:
    """Returns the folder of a module's source, and the paths of its Python files.

    Returns None if the module or its source does not exist.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    package = spec.submodule_search_locations is not None
    return origin.parent, sorted(origin.parent.rglob("*.py")) if package else [origin]


@cache
def current_commit() -> str | None:
    """Returns the commit of Étude's Git checkout; None if Étude is not in a checkout or git fails.

    The commit is shortened to 12 hex digits. A `+` is appended if tracked files have
    uncommitted changes.
    """
    if not (PACKAGE_FOLDER.parents[1] / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    completed = subprocess.run(
        ["git", "-C", str(PACKAGE_FOLDER), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return completed.stdout.strip()


def write_source_patches(record: Path, modules: Sequence[str], mask: Mask) -> list[dict[str, Any]]:
    """Writes patches of uncommitted changes in the source of Étude and of the user's modules.

    Args:
        record: the run's folder.
        modules: names of the user's modules.
        mask: object that masks secrets in the patches.

    Returns:
        A dictionary for each patch, as returned by `write_patches`. The record saves the list in
        the entry of the current start, in the field `starts` of `run.json`.
    """
    sources = [("etude", PACKAGE_FOLDER)]
    for name in modules:
        files = _module_files(name)
        if files is not None:
            sources.append((name, files[0]))
    return write_patches(record, sources, mask)


def start_entry(step: int) -> dict[str, Any]:
    """Returns a dictionary that describes the start of a run at the optimizer step `step`.

    Its keys are `time`, `step`, `host`, `python` (version), `versions` (of packages, by name; None
    for a missing package), `commit` (of Étude's checkout) and `source` (hash of Étude's source). It
    becomes an entry of the field `starts` of `run.json`.
    """
    return {
        "time": timestamp(),
        "step": step,
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": current_commit(),
        "source": sources.source_hash(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
