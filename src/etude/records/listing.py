"""`etude runs list` and `show`: selects, sorts and prints runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from etude.console import BOLD, print_styled
from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable
from etude.records.filters import Filter
from etude.records.record import Record
from etude.records.record_fields import (
    MISSING,
    best_validation,
    check_keys_exist,
    field_value,
    latest_metrics,
    monitored_metric,
    order_metrics,
    positive_class_note,
)
from etude.records.registry import read_records, record_folders, report_damaged
from etude.records.text_tables import format_best, format_cell, metric_grid, print_columns
from etude.records.times import TIME_KEYS, format_duration, format_short_time, format_time, to_local

COLUMNS = ("run", "status", "started", "duration", "step", "best", "label")


@dataclass(frozen=True)
class Query:
    """Conditions that select saved runs, the order of these runs, and their maximum number.

    Attributes:
        root: folder of all runs, such as `experiments`.
        name: name of the runs; None selects runs of all names.
        filters: conditions that a run must all fulfil.
        statuses: accepted statuses; empty accepts all.
        sort: key whose value determines the order; None sorts by path.
        descending: whether the largest value comes first. Runs without the key are last in either
            order.
        limit: maximum number of runs; None selects all.
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
        rows: for each selected run, in order, the value that the argument `take` of `select_runs`
            returned.
        damaged: errors of the runs that could not be read.
    """

    rows: list[Any] = field(default_factory=list)
    damaged: list[RequestError] = field(default_factory=list)


def select_runs(query: Query, take: Callable[[Record], Any], keys: Sequence[str] = ()) -> Selection:
    """Calls the function `take` for each run that `query` selects, and returns its results.

    Runs are read one at a time and not retained, as there may be many thousands of them.

    Args:
        query: runs to select.
        take: function that is called with each selected run; its results are the `rows` of the
            selection.
        keys: keys that must exist in at least one run, in addition to the keys of `query`.

    Raises:
        RequestError: the folder or the name does not exist, or a key exists in no run.
    """
    selection = Selection()
    chosen: list[tuple[Any, Any]] = []
    for record in _records(query, selection.damaged):
        try:
            if query.statuses and record.status not in query.statuses:
                continue
            if all(condition.matches(record) for condition in query.filters):
                order = None if query.sort is None else field_value(record, query.sort)
                order = to_local(order) if query.sort in TIME_KEYS else order
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
        columns: keys to print (see `record_fields`). With the default columns, JSON output
            contains all that `full_summary` returns; with other columns, only these.
        as_json: whether to print unrounded values as JSON.

    Raises:
        RequestError: the folder, the name or a key does not exist.
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
            print(f"no runs in {query.root}; to train a run: `etude train experiment=debug`")
    report_damaged(selection.damaged)


def full_summary(record: Record) -> dict[str, Any]:
    """Returns a dictionary of all fields of a run's `run.json`.

    The keys `run` (`<name>/<signature>`), `path`, `status` and `step`, with their current values,
    are added.
    """
    return {
        "run": field_value(record, "run"),
        "path": str(record.path),
        **record.info,
        "status": record.status,
        "step": record.step,
    }


def print_run(record: Record, *, as_json: bool = False) -> None:
    """Prints a run's description, results and files.

    Args:
        record: the run.
        as_json: whether to print one JSON object instead of text: all fields of `full_summary`, the
            config, and the paths of the checkpoints by step.

    Raises:
        RequestError: `run.json` lacks a required field.
    """
    if as_json:
        checkpoints = {str(step): str(path) for step, path in record.checkpoints()}
        summary = full_summary(record) | {"config": record.config, "checkpoints": checkpoints}
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    try:
        sections = _sections(record)
    except (KeyError, TypeError, IndexError) as error:
        where = str(record.path / "run.json")
        raise RequestError(
            Problem(where, "all fields that training saves", hint=f"damaged: {error!r}")
        ) from error
    for number, (title, fields) in enumerate(sections.items()):
        present = [(key, str(value)) for key, value in fields if value not in (None, "")]
        lines = list(_metric_lines(record)) if title == "metrics" else []
        if present or lines:
            print("\n" * (number > 0), end="")
            print_styled((title, BOLD))
            _print_fields(present)
            print("".join(f"  {line}\n" for line in lines), end="")


def _print_fields(fields: Sequence[tuple[str, str]]) -> None:
    width = max([10, *(len(key) for key, _ in fields)])
    for key, value in fields:
        # continuation lines are indented, to differ from fields
        indent = "\n" + " " * (width + 4)
        print(f"  {printable(key, line=True):<{width}}  {indent.join(value.splitlines())}")


def _metric_lines(record: Record) -> Iterator[str]:
    """Yields lines of text with a run's latest metrics.

    The last line names the positive class, if the metrics refer to one.
    """
    metrics = record.info.get("final") or latest_metrics(record)
    if not metrics:
        return
    yield f"{'latest':<10}  at step {record.latest.get('step', record.step)}"
    keys = order_metrics(metrics, monitored_metric(record))
    cells = [(key, format_cell(key, metrics[key])) for key in keys]
    yield from metric_grid(cells, shutil.get_terminal_size().columns - 2)
    if note := positive_class_note(record.config, metrics):
        yield note


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
    """Returns rows sorted by their first item.

    If `descending` is false, numbers come before all other values, which are compared as strings.
    If `descending` is true, the order is reversed. Rows whose first item is missing are last in
    either order.
    """

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
    if column in TIME_KEYS and value is not None and sys.stdout.isatty():
        return format_short_time(value)
    if column == "best" and value is not None:
        metric = str(best_validation(record).get("metric")).removeprefix("val/")
        return f"{format_cell(column, value)} {metric}"
    return "" if value is MISSING else format_cell(column, value)


def _as_json(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    if tuple(columns) == COLUMNS:
        return full_summary(record)
    values = ((column, field_value(record, column)) for column in columns)
    return {column: None if value is MISSING else value for column, value in values}


def _sections(record: Record) -> dict[str, list[tuple[str, Any]]]:
    """Returns the fields of a run that `etude runs show` prints.

    The result is a dictionary from the title of each section to pairs of a field's name and its
    value.
    """
    info = record.info
    best = best_validation(record)
    start = info["starts"][-1]
    vocabulary = info["tokenizer"]
    return {
        "run": [
            ("run", record.path),
            ("status", record.status),
            ("label", record.label or "(no overrides)"),
            ("error", info.get("error")),
            ("diverged", info.get("diverged")),
            ("tags", ", ".join(info.get("tags", []))),
            ("notes", info.get("notes")),
        ],
        "metrics": [("best", format_best(best).removeprefix("best ") if best else None)],
        "training": [
            ("steps", f"{record.step} of {info['total_steps']}"),
            ("tokens", f"{info['tokens']:,}" if "tokens" in info else None),
            ("duration", format_duration(info["seconds"]) if "seconds" in info else None),
            ("started", format_time(field_value(record, "started"))),
            ("finished", format_time(info.get("finished"))),
            ("starts", len(info["starts"])),
            ("trained on", f"{start['host']}, torch {start['versions']['torch']}"),
            ("source", f"{start['source']}, commit {start['commit'] or 'unknown'}"),
        ],
        "model and data": [
            ("parameters", f"{info['parameters']:,}"),
            ("data", info["data"]["fingerprint"]),
            (
                "tokenizer",
                f"{vocabulary['size']} tokens, {vocabulary['fingerprint'][:12]}"
                if vocabulary["size"]
                else "none (numeric data)",
            ),
        ],
        "identity": [
            ("signature", info["signature"]),
            ("group", info["group"]),
            ("seed", info["seed"]),
        ],
        "files": [("checkpoint", path) for _, path in record.checkpoints()],
    }
