"""What data was found to contain, remembered for as long as none of its files is touched.

A fingerprint is a hash of content, and takes as long as reading it. Beside it, the cache keeps the
size, the times and the inode of each file and folder that was looked at. A change of any of these
says that the content may be another; the time of the last change of an inode cannot be set back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from etude.records.files import write_json
from etude.records.signature import DIGITS, sha256_of
from etude.sources import source_hash

_SETTLED = 2 * 10**9
"""Nanoseconds: a file that was changed so shortly before may be changed again within one tick of
the file system's clock."""


def remembered(cache: Path, data: Mapping[str, Any]) -> str | None:
    """The fingerprint of data, if it is known and all files are as they were.

    Args:
        cache: the folder of prepared data.
        data: the config's, as it enters the signature.
    """
    try:
        told = json.loads(_file(cache, data).read_text(encoding="utf-8"))
        fingerprint, files = str(told["fingerprint"]), dict(told["files"])
        as_it_was = all(_stamp(path) == stamp for path, stamp in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return fingerprint if as_it_was else None


def remember(cache: Path, data: Mapping[str, Any], fingerprint: str, files: Iterable[Path]) -> None:
    """Keeps a fingerprint.

    Args:
        files: all files that were read, and the folders that were searched for them.
    """
    now = time.time_ns()
    try:
        stamps = {os.path.abspath(path): _stamp(path) for path in files}
        if any(max(stamp[1:3]) > now - _SETTLED for stamp in stamps.values()):
            return
        file = _file(cache, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"fingerprint": fingerprint, "files": stamps})
    except OSError:  # it is found out again
        return


def _file(cache: Path, data: Mapping[str, Any]) -> Path:
    """One for each description of data, source that reads it, and folder that paths begin in."""
    key = sha256_of([data, source_hash(), os.getcwd()])[:DIGITS]
    return cache / "fingerprints" / f"{key}.json"


def _stamp(path: str | Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
