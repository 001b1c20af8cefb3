"""Config keys by which runs are grouped, and by which the groups differ."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etude.console import NOTICES
from etude.records.record import Record
from etude.records.record_fields import MISSING, field_value
from etude.records.run_comparison import config_differences
from etude.records.signature import sha256_of
from etude.records.text_tables import format_cell

log = logging.getLogger(NOTICES)


def without_duplicates(records: Sequence[Record]) -> list[Record]:
    """Returns the runs without duplicates, which are runs with the same config and seed.

    Of several duplicates, only the last is kept, and a warning names the others. A run that was
    trained again, linked or copied is not an independent seed, and would make the confidence
    interval too narrow.
    """
    counted: dict[str, Record] = {}
    replaced: list[Path] = []
    for record in records:
        identity = str(record.info.get("signature") or record.path.resolve())
        if identity in counted:
            replaced.append(counted.pop(identity).path)
        counted[identity] = record
    if replaced:
        paths = ", ".join(map(str, replaced[:5])) + (", ..." if len(replaced) > 5 else "")
        log.warning(f"ignored {paths}: another selected run has the same config and seed")
    return list(counted.values())


def warn_repeated_seeds(groups: Iterable[Sequence[Record]]) -> None:
    """Warns about runs of one group with the same seed, and names the keys in which they differ.

    Such runs are not independent seeds: they make the number of runs too large, and the confidence
    interval mixes the effect of the keys with that of the seed.
    """
    differing: dict[str, None] = {}
    for records in groups:
        seeds = [field_value(record, "seed") for record in records]
        if len(set(seeds)) < len(seeds):
            differing |= dict.fromkeys(key for key in config_differences(records) if key != "seed")
    if differing:
        keys = ", ".join([*differing][:5]) + (", ..." if len(differing) > 5 else "")
        log.warning(
            f"some groups contain several runs with the same seed, which differ in {keys}; these "
            "runs are not independent seeds (group by these keys too, or select runs that agree in "
            "them)"
        )


def group_key(record: Record, by: Sequence[str]) -> str:
    """Returns a string that identifies the group of a run: it is equal for all runs of the group.

    The runs of a group have the same values of the config keys `by`. If `by` is empty, they have
    the same config except for the seed.
    """
    if by:
        return sha256_of([str(field_value(record, key)) for key in by])
    return str(record.info.get("group") or record.path)


def distinguishing_keys(heads: Sequence[Record], by: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a dict for each group of runs: the config keys by which it differs, with their
    values.

    The dicts have the same keys and the order of `heads`. The value of a missing key is the marker
    `MISSING`. With `by`, the keys are those of `by`.

    Args:
        heads: one run of each group.
        by: keys that the runs are grouped by; empty if they are grouped by the whole config.
    """
    if by:
        return [{key: field_value(record, key) for key in by} for record in heads]
    differing = config_differences(heads)
    differing.pop("seed", None)
    # Components that differ also differ in their arguments. These are shown only if they differ
    # between two groups with the same component, too.
    parts = [key for key in differing if any(other.startswith(f"{key}.") for other in differing)]
    shown = [
        key
        for key in differing
        if all(
            _distinguishes(differing[key], differing[part])
            for part in parts
            if key.startswith(f"{part}.")
        )
    ]
    return [{key: differing[key][index] for key in shown} for index in range(len(heads))]


def _distinguishes(values: Sequence[Any], parts: Sequence[Any]) -> bool:
    """Returns whether any two groups have the same component but different values of its argument.

    A component is an object in the config, such as `model.position`. An argument is a config key of
    this object, such as `model.position.base`.

    Args:
        values: value of the argument in each group.
        parts: name of the component's config file or class in each group, such as `rotary`. The
            component is the same if this name is equal.
    """
    values_of_part: dict[str, set[str]] = {}
    for value, part in zip(values, parts, strict=True):
        values_of_part.setdefault(str(part), set()).add(str(value))
    return any(len(several) > 1 for several in values_of_part.values())


def table_value(value: Any) -> Any:
    """Converts a config value to a value for a data frame.

    Lists and dicts become text. The marker of a missing key becomes None.
    """
    if value is MISSING:
        return None
    return str(value) if isinstance(value, list | dict | str) else value


def format_value(key: str, value: Any) -> str:
    """Returns the value of a config key as text, for a table.

    Args:
        key: the config key, which can determine the format of the value.
        value: the value; the marker `MISSING` is shown as `-`, and None as `null`.
    """
    return "-" if value is MISSING else format_cell(key, value) or "null"


def short_key(key: str) -> str:
    """Returns the last component of a dotted key."""
    return key.rpartition(".")[2] or key
