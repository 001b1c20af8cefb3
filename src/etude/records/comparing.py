"""What is different between runs: their configs key by key, and how they went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etude.config.flat import TARGET
from etude.records.facts import MISSING, ClassName, best, config_facts, fact, metric_facts
from etude.records.record import Record
from etude.records.tables import cell, print_columns

_FACTS = ("status", "step", "parameters", "tokens", "seconds")


def config_differences(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The keys of the config whose values differ, with each run's value or `MISSING`."""
    configs = [config_facts(record) for record in records]
    found = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, MISSING) for config in configs]
        if any(not _same(value, values[0]) for value in values[1:]):
            found[key] = values
    for key in dict.fromkeys(key for record in records for key in record.config):
        if key.endswith(f".{TARGET}") and key.removesuffix(f".{TARGET}") not in found:
            values = [record.config.get(key, MISSING) for record in records]
            if any(value != values[0] for value in values[1:]):  # one file, edited in between
                found[key] = values
    return found


def results(records: Sequence[Record]) -> dict[str, list[Any]]:
    """How each run went: status, step, size, time, best and final metrics."""
    found: dict[str, list[Any]] = {key: [fact(record, key) for record in records] for key in _FACTS}
    bests = [best(record) for record in records]
    for metric in dict.fromkeys(one["metric"] for one in bests if one):
        fits = [one if one.get("metric") == metric else {} for one in bests]
        found[f"best/{metric}"] = [one.get("value", MISSING) for one in fits]
        found["best/step"] = [one.get("step", MISSING) for one in bests]
    finals = [metric_facts(record) for record in records]
    for key in sorted({key for final in finals for key in final}):
        found[key] = [final.get(key, MISSING) for final in finals]
    return found


def names(records: Sequence[Record]) -> list[str]:
    """A short name for each run that none of the others has: that part of its label which is not
    in all labels, if that is enough.
    """
    labels = [record.label or str(record.info.get("name", "")) for record in records]
    words = [label.split() for label in labels]
    common = set.intersection(*map(set, words)) if words else set()
    short = [" ".join(word for word in each if word not in common) for each in words]
    if len(set(short)) == len(short) > 1 and all(short):
        return short
    if len(set(labels)) < len(labels):
        titles = [(str(record.info.get("name", "")), record.label) for record in records]
        labels = [" ".join(part for part in title if part) for title in titles]
    if len(set(labels)) < len(labels):
        labels = [
            f"{label} {record.path.name[:8]}" for label, record in zip(labels, records, strict=True)
        ]
    return labels


def as_json(records: Sequence[Record]) -> dict[str, Any]:
    """All that differs, as one value: a list entry a run, null where a run has no such key."""
    return {
        "runs": [
            {"run": fact(record, "run"), "path": str(record.path), "label": record.label}
            for record in records
        ],
        "config": _plain(config_differences(records)),
        "metrics": _plain(results(records)),
    }


def print_diff(first: Record, second: Record, *, as_text: bool = True) -> None:
    """Two runs side by side: what differs in their configs, then how they went."""
    pair = (first, second)
    if not as_text:
        print(json.dumps(as_json(pair), indent=1, ensure_ascii=False))
        return
    differences = config_differences(pair)
    rows = [_row(key, values) for key, values in differences.items()]
    head = ["config", *(str(fact(record, "run")) for record in pair)]
    print_columns(head, rows or [["(no difference)", "", ""]])
    print()
    rows = [[*_row(key, found), _change(key, *found)] for key, found in results(pair).items()]
    print_columns(["metrics", *head[1:], "change"], rows)


def print_comparison(records: Sequence[Record]) -> None:
    """Several runs: a table of what differs in their configs, one of how they went."""
    numbers = [str(index) for index in range(1, len(records) + 1)]
    rows = [
        [number, str(fact(record, "run")), record.label, record.status]
        for number, record in zip(numbers, records, strict=True)
    ]
    print_columns(["", "run", "label", "status"], rows)
    for title, values in (("config", config_differences(records)), ("metrics", results(records))):
        values.pop("status", None)
        print()
        if not values:
            print(f"{title}: no difference")
        elif len(values) >= len(records):
            print_columns([title, *numbers], [_row(key, found) for key, found in values.items()])
        else:
            cells = [_row(key, found) for key, found in values.items()]
            print_columns(
                ["", *(row[0] for row in cells)],
                [[n, *(row[i] for row in cells)] for i, n in enumerate(numbers, start=1)],
            )


def _row(key: str, values: Sequence[Any]) -> list[str]:
    return [key, *(_cell(key, value) for value in values)]


def _cell(key: str, value: Any) -> str:
    if value is MISSING:
        return "-"
    return "null" if value is None else cell(key, value)


def _change(key: str, before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) for value in (before, after))
    if not numbers or before == after:
        return ""
    metric = "/" in key and key != "best/step"
    return f"{after - before:+.5f}" if metric else f"{after - before:+,.7g}"


def _plain(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        key: [None if value is MISSING else value for value in found]
        for key, found in values.items()
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, ClassName) or isinstance(other, ClassName):  # one without its file's name
        return str(one).replace("_", "").casefold() == str(other).replace("_", "").casefold()
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)
