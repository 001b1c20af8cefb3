"""`etude runs list` and `show`: selects, sorts and prints runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable
from etude.records.filters import Filter
from etude.records.record import Record
from etude.records.record_fields import MISSING, best_validation, check_keys_exist, field_value
from etude.records.registry import read_records, record_folders, report_damaged
from etude.records.text_tables import format_cell, print_columns

COLUMNS = ("run", "status", "label", "step", "val/loss", "best", "seconds")


@dataclass(frozen=True)
class Query:
    """Selection of runs below a root.

    Attributes:
        root: folder of runs.
        name: name of the runs; None for all.
        filters: conditions that a run must all fulfil.
        statuses: accepted statuses; empty for all.
        sort: key to sort by; None sorts by path.
        descending: whether the largest value comes first. Runs without the key are last in either
            order.
        limit: maximum number of runs.
    """

    root: Path
    name: str | None = None
    filters: Sequence[Filter] = ()
    statuses: Sequence[str] = ()
    sort: str | None = None
    descending: bool = False
    limit: int | None = None


@dataclass
class Selection:
    """Result of `select_runs`.

    Attributes:
        rows: one value per selected record, in order.
        damaged: errors of the records that could not be read.
    """

    rows: list[Any] = field(default_factory=list)
    damaged: list[RequestError] = field(default_factory=list)


def select_runs(query: Query, take: Callable[[Record], Any], keys: Sequence[str] = ()) -> Selection:
    """Returns `take(record)` for each run that `query` selects.

    Records are read one at a time and not retained, as a root may contain many thousands.

    Args:
        query: runs to select.
        take: function that is called with each record.
        keys: further keys that must exist in some run.

    Raises:
        RequestError: there is no such folder or name, or no run has one of the keys.
    """
    selection = Selection()
    chosen: list[tuple[Any, Any]] = []
    for record in _records(query, selection.damaged):
        try:
            if query.statuses and record.status not in query.statuses:
                continue
            if all(condition.matches(record) for condition in query.filters):
                order = field_value(record, query.sort) if query.sort is not None else None
                chosen.append((order, take(record)))
        except RequestError as error:  # a file of the record is damaged
            selection.damaged.append(error)
    requested = [(condition.key, "FILTER") for condition in query.filters]
    requested += [(key, "--columns") for key in keys]
    if query.sort is not None:
        requested.append((query.sort, "--sort"))
    check_keys_exist(requested, _records(query, []))
    if query.sort is not None:
        chosen = _sorted(chosen, descending=query.descending)
    selection.rows = [row for _, row in chosen[: query.limit]]
    return selection


def print_list(query: Query, columns: Sequence[str] = COLUMNS, *, as_json: bool = False) -> None:
    """Prints runs as a table, or as one JSON array.

    Args:
        query: runs to print.
        columns: keys of `record_fields`; JSON with the default columns has all fields.
        as_json: prints complete values as JSON.

    Raises:
        RequestError: there is no such folder, name or key.
    """
    requested = () if tuple(columns) == COLUMNS else columns
    if as_json:
        selection = select_runs(query, partial(_as_json, columns=columns), requested)
        print(json.dumps(selection.rows, indent=1, ensure_ascii=False))
    else:
        selection = select_runs(query, partial(_cells, columns=columns), requested)
        if selection.rows:
            print_columns(columns, selection.rows)
        elif query.filters or query.statuses or selection.damaged:
            print("no matching runs")
        else:
            print(f"no runs in {query.root}; create one with `etude train experiment=debug`")
    report_damaged(selection.damaged)


def full_summary(record: Record) -> dict[str, Any]:
    """Returns all of `run.json`, with the run's name, path, and current status and step."""
    return {
        "run": field_value(record, "run"),
        "path": str(record.path),
        **record.info,
        "status": record.status,
        "step": record.step,
    }


def print_run(record: Record, *, as_json: bool = False) -> None:
    """Prints a run's description, results and files.

    Raises:
        RequestError: `run.json` lacks a required field.
    """
    if as_json:
        checkpoints = {str(step): str(path) for step, path in record.checkpoints()}
        summary = full_summary(record) | {"config": record.config, "checkpoints": checkpoints}
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    try:
        fields = _summary_fields(record)
    except (KeyError, TypeError, IndexError) as error:
        where = str(record.path / "run.json")
        raise RequestError(Problem(where, "all fields of a run", hint=f"{error!r}")) from error
    present = [(key, value) for key, value in fields if value not in (None, "")]
    width = max(len(key) for key, _ in present)
    for key, value in present:
        text = f"{value:.5f}" if isinstance(value, float) else str(value)
        indent = "\n" + " " * (width + 2)  # continuation lines are indented, to differ from fields
        print(f"{printable(key, line=True):<{width}}  {indent.join(text.splitlines())}")


def _records(query: Query, damaged: list[RequestError]) -> Iterator[Record]:
    if not query.root.is_dir():
        raise RequestError(Problem("--root", "a folder of runs", str(query.root)))
    if query.name is None:
        yield from read_records(query.root, damaged)
        return
    existing = list(record_folders(query.root, damaged))
    matching = [folder for folder in existing if folder.parent.name == query.name]
    if not matching:
        hint = nearest(query.name, {folder.parent.name for folder in existing})
        raise RequestError(Problem("NAME", "the name of a run", query.name, hint))
    for folder in matching:
        yield from read_records(folder, damaged)


def _sorted(rows: list[tuple[Any, Any]], *, descending: bool) -> list[tuple[Any, Any]]:
    """Sorts numbers before strings; rows without a value are last in either order."""

    def has_value(value: Any) -> bool:
        return value is not MISSING and value is not None

    def order(row: tuple[Any, Any]) -> tuple[bool, Any]:
        number = isinstance(row[0], int | float)
        return (not number, row[0] if number else str(row[0]))

    present = sorted((row for row in rows if has_value(row[0])), key=order, reverse=descending)
    return present + [row for row in rows if not has_value(row[0])]


def _cells(record: Record, columns: Sequence[str]) -> list[str]:
    return [_cell(record, column) for column in columns]


def _cell(record: Record, column: str) -> str:
    if column == "step":
        return f"{record.step}/{record.info.get('total_steps', '?')}"
    value = field_value(record, column)
    return "" if value is MISSING else format_cell(column, value)


def _as_json(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    if tuple(columns) == COLUMNS:
        return full_summary(record)
    values = ((column, field_value(record, column)) for column in columns)
    return {column: None if value is MISSING else value for column, value in values}


def _summary_fields(record: Record) -> list[tuple[str, Any]]:
    info = record.info
    top = best_validation(record)
    start = info["starts"][-1]
    vocabulary = info["tokenizer"]
    fields: list[tuple[str, Any]] = [
        ("run", record.path),
        ("status", record.status),
        ("label", record.label or "(no overrides)"),
        ("signature", info["signature"]),
        ("group", info["group"]),
        ("seed", info["seed"]),
        ("parameters", f"{info['parameters']:,}"),
        ("steps", f"{record.step} of {info['total_steps']}"),
        ("tokens", f"{info['tokens']:,}" if "tokens" in info else None),
        ("starts", len(info["starts"])),
        ("trained on", f"{start['host']}, torch {start['versions']['torch']}"),
        ("source", f"{start['source']}, commit {start['commit'] or 'unknown'}"),
        ("data", info["data"]["fingerprint"]),
        (
            "tokenizer",
            f"{vocabulary['size']} tokens, {vocabulary['fingerprint'][:12]}"
            if vocabulary["size"]
            else "none (numeric data)",
        ),
        *info.get("final", {}).items(),
        (
            "best",
            f"{top['metric']} {top['value']:.5f} at step {top['step']}" if top else None,
        ),
        ("error", info.get("error")),
        ("diverged", info.get("diverged")),
        ("tags", ", ".join(info.get("tags", []))),
        ("notes", info.get("notes")),
    ]
    return [*fields, *(("checkpoint", path) for _, path in record.checkpoints())]
