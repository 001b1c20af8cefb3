"""Where a run lies: its folder, the room for it, who holds it, its log."""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from etude.config import constructors
from etude.config.checks import Checked
from etude.errors import Problem, RequestError
from etude.records.files import sweep_temporaries
from etude.records.lock import RunLock
from etude.records.opening import (
    LOG,
    OF_OTHERS,
    appended,
    folder_in,
    is_there,
    names_in,
    odd_entries,
)
from etude.records.record import DONE, Record
from etude.secrets import Mask, MaskingFormatter
from etude.stopping import on_a_hard_end

WRITTEN_BY_ANYONE = ("evaluations", "predictions", "samples", "figures")
"""Folders of a record that commands write to while they do not hold the run."""
_ABANDONED = 3600.0  # seconds after which a temporary file in them is a killed process's


def current_folder(base: Path, checked: Checked) -> Path:
    """The folder of this run: `base`, or its latest `~n`; a new one for `run.on_existing=again`."""
    count = 1
    while is_there(_numbered(base, count + 1) / "run.json"):
        count += 1
    latest = _numbered(base, count)
    again = checked.run.on_existing == "again" and is_there(latest / "run.json")
    return _numbered(base, count + 1) if again and Record.read(latest).status in DONE else latest


def _numbered(base: Path, count: int) -> Path:
    return base if count == 1 else base.with_name(f"{base.name}~{count}")


def room_for_checkpoints(folder: Path, weights: int) -> None:
    """There is room for a checkpoint and the one that replaces it, before training begins.

    Args:
        folder: the run's; may not exist.
        weights: bytes of the model's; an optimizer with two moments takes twice as much.

    Raises:
        RequestError: says how much is needed.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    there = any(name.startswith("step-") for name in names_in(folder / "checkpoints"))
    needed = 3 * weights * (1 if there else 2)
    free = shutil.disk_usage(existing).free
    if free < needed:
        expected = f"{-(-needed // 2**20)} MiB free for " + (
            "a checkpoint" if there else "two checkpoints"
        )
        raise RequestError(Problem("run.root", expected, f"{existing}: {free / 2**20:.0f} MiB"))


def cache_folder(checked: Checked) -> Path:
    """Where prepared data lies: `run.cache`, `$ETUDE_CACHE`, or `~/.cache/etude`."""
    stated = checked.run.cache
    return Path(os.path.expanduser(stated)) if stated else constructors.cache_folder()


@contextmanager
def claimed(folder: Path, *, wait: bool, force: bool = False) -> Iterator[Record]:
    """Holds the run's folder; leaves no folder behind if nothing was recorded in it.

    Raises:
        RequestError: the folder is there already, and has links or special files in it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = RunLock(folder)
    lock.acquire(wait=wait, force=force)
    try:
        sweep_temporaries(folder)
        must_be_ours(folder)
        sweep_temporaries(folder_in(folder, "checkpoints"))
        for shared in WRITTEN_BY_ANYONE:
            sweep_temporaries(folder / shared, age=_ABANDONED)
        record = Record.read(folder) if is_there(folder / "run.json") else Record(folder)
        with on_a_hard_end(lambda: _interrupted(folder, new)):
            yield record
    finally:
        _take_back(folder, new)
        lock.release()


def must_be_ours(folder: Path) -> None:
    """Refuses to write into a record with links or special files, which could lead elsewhere.

    Programs that write into it with their own functions (Lightning's profiler, matplotlib, loggers)
    follow links.

    Raises:
        RequestError: names them.
    """
    found = list(islice(odd_entries(folder, apart=OF_OTHERS), 8))
    if found:
        raise RequestError(found)


def _take_back(folder: Path, new: list[Path]) -> None:
    """Removes a folder in which nothing was recorded, and those made around it."""
    if not is_there(folder / "run.json"):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another run lies there by now
            for path in new[1:]:
                path.rmdir()


def _interrupted(folder: Path, new: list[Path]) -> None:
    """What stays of a run whose process is ended by force."""
    _take_back(folder, new)
    if is_there(folder / "run.json"):
        record = Record.read(folder)
        if record.info.get("status") == "running":
            record.update(status="interrupted")


@contextmanager
def logging_to(path: Path, mask: Mask | None = None) -> Iterator[None]:
    """Everything that Étude logs also goes to the run's `log.txt`, tracebacks included.

    Args:
        mask: hides what the config took from the environment.
    """
    stream = io.TextIOWrapper(appended(path, LOG), encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s", mask))
    logger = logging.getLogger("etude")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
        stream.close()
