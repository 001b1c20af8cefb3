"""What a start of a run reports: how it differs from earlier starts, and from other runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude import sources
from etude.config.checks import Checked
from etude.config.flat import flat_config
from etude.config.schema import OUT_OF_SIGNATURE
from etude.errors import RequestError
from etude.records import provenance
from etude.records.record import Record
from etude.secrets import without_passwords

log = logging.getLogger("etude")

LISTED, READ, KEYS = 1000, 20, 5
"""Of the other runs of a name: how many are looked for, how many of the latest are read, and how
many differences of the nearest are shown. The cost has a bound however many there are."""

_reported = True


@contextmanager
def without_other_runs() -> Iterator[None]:
    """Within, `report_other_runs` is silent: the jobs of a sweep differ from each other anyway."""
    global _reported
    before, _reported = _reported, False
    try:
        yield
    finally:
        _reported = before


def extension_hashes(checked: Checked) -> dict[str, str | None]:
    """A hash of the source of each of the user's modules."""
    return {name: provenance.module_hash(name) for name in checked.config.extensions}


def source_changes(checked: Checked, starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the packages whose source is not that of one of these starts."""
    now = {"étude": sources.source_hash(), **extension_hashes(checked)}
    then = [{"étude": start.get("source"), **start.get("extensions", {})} for start in starts]
    return [name for name in now if any(now[name] != each.get(name) for each in then)]


def report_source(checked: Checked, starts: Sequence[Mapping[str, Any]]) -> None:
    """Warns in one line of a source that is not the one which began the run."""
    if changed := source_changes(checked, starts[:1]):
        began = {"étude": starts[0].get("source"), **starts[0].get("extensions", {})}
        now = {"étude": sources.source_hash(), **extension_hashes(checked)}
        told = [
            f"{name} ({str(began.get(name))[:12]}, now {str(now[name])[:12]})" for name in changed
        ]
        log.warning(
            "the source of %s differs from that which began this run (commit %s; now commit %s): "
            "the rest may be trained differently",
            ", ".join(told),
            starts[0].get("commit") or "unknown",
            provenance.commit() or "unknown",
        )


def report_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warns of what makes the rest of a run another than it would have been where it began.

    Args:
        before, now: starts of the run.
    """
    device, processes = before.get("device", now["device"]), before.get("processes", 1)
    on_cpu = all(each.startswith("cpu") for each in now["devices"])
    if now["device"] != device:
        message = "%s now, %s before: dropout may differ from here on, and how sums are rounded"
        log.warning(message, now["device"], device)
    elif on_cpu and now["threads"] != before.get("threads"):
        message = "%s threads now, %s before: sums are rounded differently from here on"
        log.warning(message, now["threads"], before.get("threads"))
    if now["processes"] != processes:
        message = (
            "%s processes now, %s before: dropout differs from here on, and how sums are rounded"
        )
        log.warning(message, now["processes"], processes)


def report_other_runs(folder: Path, checked: Checked) -> None:
    """Says in one line that a new run's name has runs with other settings, and what differs from
    the nearest of them. Runs that differ in their seed alone are not mentioned.

    Args:
        folder: of the new run.
    """
    if not _reported:
        return
    ours = _settings(flat_config(checked))
    nearest: tuple[Record, dict[str, tuple[Any, Any]]] | None = None
    others = _others(folder)
    for path in others[:READ]:
        try:
            record = Record.read(path)
        except RequestError:
            continue
        recorded = record.info.get("config")
        if not isinstance(recorded, dict) or record.status == "running":
            continue  # written before the field was; trained beside this one
        differences = _differences(_settings(recorded), ours)
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = record, differences
    if nearest is None or set(nearest[1]) <= {"seed"}:
        return
    record, differences = nearest
    shown = [f"{key} {_shown(old)} -> {_shown(new)}" for key, (old, new) in differences.items()]
    more = f" and {len(shown) - KEYS} more" if len(shown) > KEYS else ""
    count = f"{LISTED} or more" if len(others) >= LISTED else str(len(others))
    log.info(
        "a new run: %s other%s of this name; from the nearest, %s, it differs in %s",
        count,
        "" if len(others) == 1 else "s",
        record.path.name,
        ", ".join(shown[:KEYS]) + more,
    )


def _others(folder: Path) -> list[Path]:
    """Other runs of the name, the latest first."""
    found: list[tuple[float, str]] = []
    signature = folder.name.partition("~")[0]
    with os.scandir(folder.parent) as entries:
        for entry in entries:
            if entry.name.startswith((".", signature)) or not entry.is_dir():
                continue
            found.append((entry.stat().st_mtime, entry.path))
            if len(found) >= LISTED:
                break
    return [Path(path) for _, path in sorted(found, reverse=True)]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run what it is, by key path, as it is written in `run.json`."""
    outside = tuple(f"{key}." for key in OUT_OF_SIGNATURE)
    kept = {key: value for key, value in config.items() if not f"{key}.".startswith(outside)}
    settings: dict[str, Any] = json.loads(json.dumps(without_passwords(kept)))
    return settings


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (old.get(key, _NONE), new.get(key, _NONE))
        for key in dict.fromkeys([*new, *old])
        if old.get(key, _NONE) != new.get(key, _NONE)
    }


_NONE = "(none)"


def _shown(value: Any) -> str:
    """A value in few characters, control characters escaped."""
    text = json.dumps(value) if value != _NONE else _NONE
    return text if len(text) <= 40 else text[:37] + "..."
