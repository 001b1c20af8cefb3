"""Model of a disk that loses unflushed data, to simulate power cuts.

A file has its content at its last `fsync`, or none. A folder lists its names at its own last
`fsync`. This is the minimum that a file system guarantees (POSIX, `fsync`). Real file systems
preserve more, in any combination: see `draw`.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Records flushes and renames below a folder.

    Args:
        root: Folder on the simulated disk, which has been flushed.
        patch: Restores `os.fsync` after the test.
        before: Called before each flush and each rename below `root`.
    """

    def __init__(
        self, root: Path, patch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None
    ) -> None:
        self.root, self.before = root, before
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # open files: their inodes' numbers are not used again
        self._busy = False
        for name in ("fsync", "rename", "replace"):
            patch.setattr(os, name, self._watched(getattr(os, name)))
        self._flush(os.open(root, os.O_RDONLY), root)

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(first: Any, *others: Any, **named: Any) -> None:
            is_flush = isinstance(first, int)
            at = first if is_flush else named.get("src_dir_fd")
            path = Path("" if at is None else os.readlink(f"/proc/self/fd/{at}"))
            path = path if is_flush else path / first
            inside = not self._busy and path.is_relative_to(self.root)
            if inside:
                self._busy = True
                self.before()
                self._busy = False
            call(first, *others, **named)
            if inside and is_flush:
                self._flush(os.dup(first), path)

        return watched

    def _flush(self, descriptor: int, path: Path) -> None:
        self._held.append(descriptor)
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self._names[inode] = {each.name: each.inode() for each in os.scandir(path)}
        else:
            self._contents[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    def after_a_power_cut(self, place: Path, draw: random.Random | None = None) -> None:
        """Writes the state after a power cut to `place`.

        Args:
            draw: Decides whether each file and folder is as last flushed or as it is now; None
                uses the flushed state of all.
        """
        now: dict[int, Path] = {}  # what has a name, wherever
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder, name)
                now[path.lstat().st_ino] = path
        self._write(self.root.stat().st_ino, self.root, place, now, draw)

    def _write(
        self,
        inode: int,
        path: Path | None,
        place: Path,
        now: dict[int, Path],
        draw: random.Random | None,
    ) -> None:
        kept = draw is not None and path is not None and draw.random() < 0.5
        if inode not in self._names and (path is None or not path.is_dir()):
            flushed = self._contents.get(inode, b"")
            place.write_bytes(path.read_bytes() if kept and path is not None else flushed)
            return
        place.mkdir()
        names = self._names.get(inode, {})
        if kept and path is not None:
            names = {each.name: each.inode() for each in os.scandir(path)}
        for name, child in names.items():
            if child in now or child in self._names or child in self._contents:
                self._write(child, now.get(child), place / name, now, draw)
            else:  # removed, and never flushed
                (place / name).touch()


def listing(place: Path) -> tuple[tuple[str, bytes], ...]:
    """Returns the content of a folder, to compare it with another."""
    found = []
    for path in sorted(place.rglob("*")):
        is_file = stat.S_ISREG(path.lstat().st_mode)
        found.append((str(path.relative_to(place)), path.read_bytes() if is_file else b"/"))
    return tuple(found)
