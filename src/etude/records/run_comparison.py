"""Comparison of runs: config differences by key, and results side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etude.config.flattening import TARGET
from etude.records.record import Record
from etude.records.record_fields import (
    MISSING,
    ClassName,
    best_validation,
    config_values,
    field_value,
    latest_metrics,
)
from etude.records.text_tables import format_cell, format_metric, print_columns

_KEYS = ("status", "step", "parameters", "tokens", "seconds")


def config_differences(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Returns the config values that are not equal in all runs.

    The result is a dictionary from each such key to a list with the value of each run. A run
    without the key has the value `MISSING`.
    """
    configs = [config_values(record) for record in records]
    differences = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, MISSING) for config in configs]
        if any(not _are_equal(value, values[0]) for value in values[1:]):
            differences[key] = values
    for key in dict.fromkeys(key for record in records for key in record.config):
        if key.endswith(f".{TARGET}") and key.removesuffix(f".{TARGET}") not in differences:
            values = [record.config.get(key, MISSING) for record in records]
            if any(value != values[0] for value in values[1:]):  # same file, later edited
                differences[key] = values
    return differences


def results(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Returns a dictionary from the key of each result to a list with the value of each run.

    The keys are `status`, `step`, `parameters` (their number), `tokens`, `seconds`,
    `best/<metric>` and `best/step` for the best validation, and the name of each metric for its
    latest value. A value that a run lacks is `MISSING` or None.
    """
    values: dict[str, list[Any]] = {
        key: [field_value(record, key) for record in records] for key in _KEYS
    }
    entries = [best_validation(record) for record in records]
    for metric in dict.fromkeys(entry["metric"] for entry in entries if entry):
        matching = [entry if entry.get("metric") == metric else {} for entry in entries]
        values[f"best/{metric}"] = [entry.get("value", MISSING) for entry in matching]
        values["best/step"] = [entry.get("step", MISSING) for entry in entries]
    finals = [latest_metrics(record) for record in records]
    for key in sorted({key for final in finals for key in final}):
        values[key] = [final.get(key, MISSING) for final in finals]
    return values


def label_without_seed(record: Record) -> str:
    """Returns the overrides that distinguish a run from its experiment file, without the seed."""
    return " ".join(part for part in record.label.split() if not part.startswith("seed="))


def short_run_names(records: Sequence[Record], *, without_seed: bool = False) -> list[str]:
    """Returns a short, unique name for each run.

    A name consists of those overrides in the run's label that some of the other runs do not have.
    If these names are not unique, each name is the whole label, with the run's name and signature
    if necessary.

    Args:
        records: the runs.
        without_seed: whether overrides `seed=...` are left out, as in names of groups of runs that
            differ only in their seeds.
    """
    labels = [label_without_seed(each) if without_seed else each.label for each in records]
    runs = list(zip(records, labels, strict=True))
    labels = [label or str(record.info.get("name", "")) for record, label in runs]
    words = [label.split() for label in labels]
    common = set.intersection(*map(set, words)) if words else set()
    short = [" ".join(word for word in parts if word not in common) for parts in words]
    if len(set(short)) == len(short) > 1 and all(short):
        return short
    if len(set(labels)) < len(labels):
        titles = [(str(record.info.get("name", "")), label) for record, label in runs]
        labels = [" ".join(part for part in title if part) for title in titles]
    if len(set(labels)) < len(labels):
        labels = [
            f"{label} {record.path.name[:8]}" for label, record in zip(labels, records, strict=True)
        ]
    return labels


def as_json(records: Sequence[Record]) -> dict[str, Any]:
    """Returns a dictionary for JSON with the runs, their config differences and their results.

    The keys are `runs`, `config` and `metrics`. `runs` is a list of dictionaries with the `run`
    (`<name>/<signature>`), `path` and `label` of each run. `config` (differences) and `metrics`
    (results) are dictionaries from keys to lists with the value of each run; None if the run lacks
    the key.
    """
    return {
        "runs": [
            {"run": field_value(record, "run"), "path": str(record.path), "label": record.label}
            for record in records
        ],
        "config": _without_missing(config_differences(records)),
        "metrics": _without_missing(results(records)),
    }


def print_diff(first: Record, second: Record, *, as_text: bool = True) -> None:
    """Prints two runs side by side: config differences, then results.

    Args:
        first: the first run.
        second: the second run.
        as_text: whether to print tables. If false, JSON is printed instead.
    """
    pair = (first, second)
    if not as_text:
        print(json.dumps(as_json(pair), indent=1, ensure_ascii=False))
        return
    differences = config_differences(pair)
    rows = [_row(key, values) for key, values in differences.items()]
    head = ["config", *(str(field_value(record, "run")) for record in pair)]
    print_columns(head, rows or [["(no difference)", "", ""]])
    print()
    rows = [[*_row(key, values), _change(key, *values)] for key, values in results(pair).items()]
    print_columns(["metrics", *head[1:], "change"], rows)


def print_comparison(records: Sequence[Record]) -> None:
    """Prints two tables about several runs: config differences and results."""
    numbers = [str(index) for index in range(1, len(records) + 1)]
    rows = [
        [number, str(field_value(record, "run")), record.label, record.status]
        for number, record in zip(numbers, records, strict=True)
    ]
    print_columns(["", "run", "label", "status"], rows)
    for title, values in (("config", config_differences(records)), ("metrics", results(records))):
        values.pop("status", None)
        print()
        if not values:
            print(f"{title}: no difference")
        elif len(values) >= len(records):
            print_columns([title, *numbers], [_row(key, row) for key, row in values.items()])
        else:
            cells = [_row(key, row) for key, row in values.items()]
            print_columns(
                ["", *(row[0] for row in cells)],
                [[n, *(row[i] for row in cells)] for i, n in enumerate(numbers, start=1)],
            )


def _row(key: str, values: Sequence[Any]) -> list[str]:
    return [key, *(_cell(key, value) for value in values)]


def _cell(key: str, value: Any) -> str:
    if value is MISSING:
        return "-"
    return "null" if value is None else format_cell(key, value)


def _change(key: str, before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) for value in (before, after))
    if not numbers or before == after:
        return ""
    metric = "/" in key and key != "best/step"
    return format_metric(after - before, 5, sign=True) if metric else f"{after - before:+,.7g}"


def _without_missing(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        key: [None if value is MISSING else value for value in row] for key, row in values.items()
    }


def _are_equal(first: Any, second: Any) -> bool:
    if isinstance(first, ClassName) or isinstance(second, ClassName):  # the chosen file is unknown
        return str(first).replace("_", "").casefold() == str(second).replace("_", "").casefold()
    if isinstance(first, bool) is not isinstance(second, bool):
        return False
    return bool(first == second)
