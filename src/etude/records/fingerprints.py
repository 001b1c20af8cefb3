"""Cache of data fingerprints, valid until one of the data's files changes.

A fingerprint is a hash of the data's content; computing it takes as long as reading the data. The
cache stores it with the size, times and inode of each file and folder that was read. A change in
any of these means that the content may have changed; an inode's change time cannot be set back.
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
"""Minimum age in nanoseconds of a file's last change. After a more recent change, the file may
change again within the same tick of the file system's clock, so that its times stay the same.
"""


def cached_fingerprint(cache: Path, data: Mapping[str, Any]) -> str | None:
    """Returns the cached fingerprint of data; None if there is none or if a file has changed.

    Args:
        cache: folder of prepared data, which contains the cached fingerprints.
        data: the value of the config's key `data`, in the form that is hashed into the run's
            signature (a hash of the config).
    """
    try:
        entry = json.loads(_cache_file(cache, data).read_text(encoding="utf-8"))
        fingerprint, files = str(entry["fingerprint"]), dict(entry["files"])
        unchanged = all(_stamp(path) == stamp for path, stamp in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return fingerprint if unchanged else None


def cache_fingerprint(
    cache: Path, data: Mapping[str, Any], fingerprint: str, files: Iterable[Path]
) -> None:
    """Writes the fingerprint of data to the cache, unless one of `files` has changed in the last 2
    seconds.

    Args:
        cache: folder of prepared data, to which the fingerprint is written.
        data: the value of the config's key `data`, as for `cached_fingerprint`.
        fingerprint: the fingerprint of the data.
        files: all files that were read, and the folders that were searched for them.
    """
    now = time.time_ns()
    try:
        stamps = {os.path.abspath(path): _stamp(path) for path in files}
        if any(max(stamp[1:3]) > now - _SETTLED for stamp in stamps.values()):
            return
        file = _cache_file(cache, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"fingerprint": fingerprint, "files": stamps})
    except OSError:  # the fingerprint is computed again next time
        return


def _cache_file(cache: Path, data: Mapping[str, Any]) -> Path:
    """Returns the path of the file that stores the fingerprint of data.

    The arguments are those of `cached_fingerprint`. The path also depends on the version of Étude's
    source and on the working directory.
    """
    key = sha256_of([data, source_hash(), os.getcwd()])[:DIGITS]
    return cache / "fingerprints" / f"{key}.json"


def _stamp(path: str | Path) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
