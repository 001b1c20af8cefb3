"""Reports how a start of a run differs from earlier starts and from other runs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude import sources
from etude.config.checks import CheckedConfig
from etude.config.flattening import flatten_config
from etude.config.schema import OUT_OF_SIGNATURE
from etude.errors import RequestError
from etude.records import provenance
from etude.records.record import Record
from etude.secrets import mask_passwords

log = logging.getLogger("etude")

MAX_LISTED, MAX_READ, MAX_SHOWN = 1000, 20, 5
"""Limits on the search for other runs of the same name: the number of folders listed, of latest
runs read, and of differing keys shown.
"""

_reported = True


@contextmanager
def suppress_other_runs() -> Iterator[None]:
    """Context manager in which `report_other_runs` logs nothing; used by sweeps."""
    global _reported
    before, _reported = _reported, False
    try:
        yield
    finally:
        _reported = before


def extension_hashes(checked: CheckedConfig) -> dict[str, str | None]:
    """Returns a dict from the names of the config's extension modules to hashes of their source
    code; the value is None for a module without source files.
    """
    return {name: provenance.module_hash(name) for name in checked.config.extensions}


def source_changes(checked: CheckedConfig, starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the modules (`étude` or extension modules) whose source code differs
    from that at one or more of the given starts of the run.

    Args:
        checked: Checked config of the run.
        starts: Entries in `run.json` of the earlier starts to compare with. Without any, the result
            is empty.
    """
    now = {"étude": sources.source_hash(), **extension_hashes(checked)}
    then = [{"étude": start.get("source"), **start.get("extensions", {})} for start in starts]
    return [name for name in now if any(now[name] != each.get(name) for each in then)]


def report_source(checked: CheckedConfig, starts: Sequence[Mapping[str, Any]]) -> None:
    """Logs a warning if the source code differs from that of the run's first start.

    Args:
        checked: Checked config of the run.
        starts: Entries of the run's earlier starts in `run.json`; only the first is compared.
            Nothing is logged if there are none.
    """
    if changed := source_changes(checked, starts[:1]):
        began = {"étude": starts[0].get("source"), **starts[0].get("extensions", {})}
        now = {"étude": sources.source_hash(), **extension_hashes(checked)}
        packages = [
            f"{name} ({str(began.get(name))[:12]}, now {str(now[name])[:12]})" for name in changed
        ]
        log.warning(
            "the source code of %s has changed since this run started (commit %s; now commit %s): "
            "results of the remaining steps may differ",
            ", ".join(packages),
            starts[0].get("commit") or "unknown",
            provenance.current_commit() or "unknown",
        )


def report_source_of_weights(record: Record) -> None:
    """Logs a warning if the source code of an imported extension module differs from that of the
    run's last start, with which its weights were trained.

    Args:
        record: the run's folder.
    """
    recorded = record.last_start.get("extensions")
    changed = [
        name
        for name, recorded_hash in (recorded if isinstance(recorded, dict) else {}).items()
        if getattr(sys.modules.get(name), "__spec__", None) is not None
        and provenance.module_hash(name) != recorded_hash
    ]
    if changed:
        log.warning(
            "%s: the source code of %s has changed since this run was trained: results may differ",
            record.path,
            ", ".join(changed),
        )


def report_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Logs a warning if the hardware differs from that of the previous start, which can change
    results.

    Args:
        before: Entry of the run's previous start in `run.json`.
        now: Entry of the current start.
    """
    device, processes = before.get("device", now["device"]), before.get("processes", 1)
    on_cpu = all(each.startswith("cpu") for each in now["devices"])
    if now["device"] != device:
        message = "device %s (before: %s): dropout masks and rounding may differ from here on"
        log.warning(message, now["device"], device)
    elif on_cpu and now["threads"] != before.get("threads"):
        message = "continuing with %s threads instead of %s: rounding may differ from this step on"
        log.warning(message, now["threads"], before.get("threads"))
    if now["processes"] != processes:
        message = "%s processes (before: %s): dropout masks and rounding differ from here on"
        log.warning(message, now["processes"], processes)


def report_other_runs(folder: Path, checked: CheckedConfig) -> None:
    """Logs how a new run differs from the most similar other run of the same name.

    An earlier run of the same config, if there is one, is the most similar. Logs nothing if the two
    runs differ only in the seed.

    Args:
        folder: Folder of the new run.
        checked: Checked config of the new run.
    """
    if not _reported:
        return
    new_settings = _settings(flatten_config(checked))
    nearest: tuple[Record, dict[str, tuple[Any, Any]]] | None = None
    others = _other_runs(folder)
    for path in others[:MAX_READ]:
        try:
            record = Record.read(path)
        except RequestError:
            continue
        recorded = record.info.get("config")
        if not isinstance(recorded, dict) or record.status == "running":
            continue  # from an older version without the field, or still training
        differences = _differences(_settings(recorded), new_settings)
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = record, differences
    if nearest is None or set(nearest[1]) == {"seed"}:
        return
    record, differences = nearest
    if not differences:
        changed = source_changes(checked, [record.last_start])
        note = f"; the source code of {', '.join(changed)} has changed since then"
        log.info("new run with the config of %s%s", record.path.name, note if changed else "")
        return
    changes = [
        f"{key} {_abbreviate(old)} -> {_abbreviate(new)}" for key, (old, new) in differences.items()
    ]
    more = f" and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
    count = f"{MAX_LISTED} or more" if len(others) >= MAX_LISTED else str(len(others))
    log.info(
        "new run; %s other run%s the same name. Differences from the most similar one, %s: %s",
        count,
        " has" if len(others) == 1 else "s have",
        record.path.name,
        ", ".join(changes[:MAX_SHOWN]) + more,
    )


def _other_runs(folder: Path) -> list[Path]:
    """Returns the folders of other runs with the same name: first those with the signature of
    `folder`, then the others; in both groups, the latest first.
    """
    folders: list[tuple[bool, float, str]] = []
    signature = folder.name.partition("~")[0]
    with os.scandir(folder.parent) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == folder.name or not entry.is_dir():
                continue
            is_same = entry.name.partition("~")[0] == signature
            folders.append((is_same, entry.stat().st_mtime, entry.path))
            if len(folders) >= MAX_LISTED:
                break
    return [Path(path) for _, _, path in sorted(folders, reverse=True)]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that determine the run's signature (a hash of them), in the form in
    which they are saved in `run.json`.

    Args:
        config: All settings of the run, by key path such as `optimizer.lr`.
    """
    outside = tuple(f"{key}." for key in OUT_OF_SIGNATURE)
    inside = {key: value for key, value in config.items() if not f"{key}.".startswith(outside)}
    settings: dict[str, Any] = json.loads(json.dumps(mask_passwords(inside)))
    return settings


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (old.get(key, _NONE), new.get(key, _NONE))
        for key in dict.fromkeys([*new, *old])
        if old.get(key, _NONE) != new.get(key, _NONE)
    }


_NONE = "(none)"


def _abbreviate(value: Any) -> str:
    """Returns a value as JSON. A text of more than 40 characters is cut after 37 and ends with
    "...".
    """
    text = json.dumps(value) if value != _NONE else _NONE
    return text if len(text) <= 40 else text[:37] + "..."
