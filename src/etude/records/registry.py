"""Finding runs by path, signature or name, from the files alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from etude.errors import Problem, RequestError, nearest
from etude.records.record import Record


def scan(root: Path) -> Iterator[Record]:
    """Every readable record below `root`: a root, a name's folder, or one run. Sorted by path.

    Damaged records are passed over here; `Record.read` says what is wrong with one.
    """
    if (root / "run.json").is_file():
        folders = [root]
    else:
        found = {path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/run.json")}
        folders = sorted(
            folder
            for folder in found
            if not any(part.startswith(("_", ".")) for part in folder.relative_to(root).parts)
        )
    for folder in folders:
        try:
            yield Record.read(folder)
        except RequestError:
            continue


def find(run: str, root: Path, *, unfinished: bool = False) -> Record:
    """The record that RUN names: a path, a signature prefix, or a name (its latest finished run).

    Args:
        run: what was typed.
        root: where names and prefixes are looked up.
        unfinished: a name without a finished run means its latest run.

    Raises:
        RequestError: nothing fits, or a prefix fits several; lists the nearest or the candidates.
    """
    path = Path(os.path.expanduser(run))
    if (path / "run.json").is_file():
        return Record.read(path)
    if not root.is_dir():
        raise RequestError(Problem("RUN", "a run; there is no folder of runs yet", str(root)))
    records = list(scan(root))
    if re.fullmatch(r"[0-9a-f]{4,}(~\d+)?", run):
        fitting = [r for r in records if r.path.name.startswith(run)]
        exact = [r for r in fitting if r.path.name == run]
        if len(exact or fitting) == 1:
            return (exact or fitting)[0]
        if fitting:
            listed = ", ".join(f"{r.path.parent.name}/{r.path.name}" for r in fitting[:6])
            raise RequestError(Problem("RUN", "a prefix of one run only", run, f"fits {listed}"))
    named = [r for r in records if r.path.parent.name == run]
    finished = [r for r in named if r.status == "finished"]
    if finished:
        return max(finished, key=lambda record: str(record.info.get("finished", "")))
    if named and unfinished:
        return max(named, key=lambda record: str(record.info.get("starts", [{}])[-1].get("time")))
    if named:
        states = ", ".join(f"{r.path.name} {r.status}" for r in named[:6])
        raise RequestError(Problem("RUN", "a name with a finished run", run, f"there: {states}"))
    choices = {r.path.parent.name for r in records} | {r.path.name for r in records}
    raise RequestError(
        Problem(
            f"RUN in {root}", "a path, a signature prefix or a name", run, nearest(run, choices)
        )
    )
