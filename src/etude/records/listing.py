"""`etude runs list` and `show`: which runs, in which order, which of their facts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable
from etude.records.facts import MISSING, best, fact, must_exist
from etude.records.filters import Filter
from etude.records.record import Record
from etude.records.registry import folders, scan, tell_damaged
from etude.records.tables import cell, print_columns

COLUMNS = ("run", "status", "label", "step", "val/loss", "best", "seconds")


@dataclass(frozen=True)
class Query:
    """What is asked of a folder of runs.

    Attributes:
        root: the folder.
        name: only runs of this name.
        filters: conditions, all of which hold.
        statuses: only runs that stand so; empty takes all.
        sort: the key that decides the order; None keeps that of the paths.
        descending: the largest first. Runs without the key are last either way.
        limit: how many at most.
    """

    root: Path
    name: str | None = None
    filters: Sequence[Filter] = ()
    statuses: Sequence[str] = ()
    sort: str | None = None
    descending: bool = False
    limit: int | None = None


@dataclass
class Found:
    """What `pick` found.

    Attributes:
        rows: what was taken from each record, in order.
        damaged: why the records that could not be read could not.
    """

    rows: list[Any] = field(default_factory=list)
    damaged: list[RequestError] = field(default_factory=list)


def pick(query: Query, take: Callable[[Record], Any], keys: Sequence[str] = ()) -> Found:
    """`take(record)` of the runs that `query` is about.

    Records are read one after the other and not kept: a root may have many thousands.

    Args:
        take: called with each record.
        keys: further keys that some run must have.

    Raises:
        RequestError: no such folder or name, or a key that no run has.
    """
    found = Found()
    chosen: list[tuple[Any, Any]] = []
    for record in _records(query, found.damaged):
        try:
            if query.statuses and record.status not in query.statuses:
                continue
            if all(condition.matches(record) for condition in query.filters):
                order = fact(record, query.sort) if query.sort is not None else None
                chosen.append((order, take(record)))
        except RequestError as error:  # of one of its files
            found.damaged.append(error)
    asked = [(condition.key, "FILTER") for condition in query.filters]
    asked += [(key, "--columns") for key in keys]
    if query.sort is not None:
        asked.append((query.sort, "--sort"))
    must_exist(asked, _records(query, []))
    if query.sort is not None:
        chosen = _sorted(chosen, descending=query.descending)
    found.rows = [row for _, row in chosen[: query.limit]]
    return found


def print_list(query: Query, columns: Sequence[str] = COLUMNS, *, as_json: bool = False) -> None:
    """The runs as a table, or as one JSON array.

    Args:
        query: which.
        columns: keys of `etude.records.facts`; JSON without any has everything.
        as_json: complete values instead of readable ones.

    Raises:
        RequestError: no such folder, name or key.
    """
    asked = () if tuple(columns) == COLUMNS else columns
    if as_json:
        found = pick(query, partial(_as_json, columns=columns), asked)
        print(json.dumps(found.rows, indent=1, ensure_ascii=False))
    else:
        found = pick(query, partial(_cells, columns=columns), asked)
        if found.rows:
            print_columns(columns, found.rows)
        elif query.filters or query.statuses or found.damaged:
            print("no run fits")
        else:
            print(f"no runs under {query.root}; `etude train experiment=debug` makes one")
    tell_damaged(found.damaged)


def everything(record: Record) -> dict[str, Any]:
    """All of `run.json`, with where the run is and how it stands now."""
    return {
        "run": fact(record, "run"),
        "path": str(record.path),
        **record.info,
        "status": record.status,
        "step": record.step,
    }


def print_run(record: Record, *, as_json: bool = False) -> None:
    """What a run is, how it went, and where its files are.

    Raises:
        RequestError: `run.json` lacks something that every run has.
    """
    if as_json:
        checkpoints = {str(step): str(path) for step, path in record.checkpoints()}
        told = everything(record) | {"config": record.config, "checkpoints": checkpoints}
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return
    try:
        facts = _told(record)
    except (KeyError, TypeError, IndexError) as error:
        where = str(record.path / "run.json")
        raise RequestError(Problem(where, "what every run has", hint=f"{error!r}")) from error
    shown = [(key, value) for key, value in facts if value not in (None, "")]
    width = max(len(key) for key, _ in shown)
    for key, value in shown:
        said = f"{value:.5f}" if isinstance(value, float) else str(value)
        further = "\n" + " " * (width + 2)  # a text of several lines begins none as a field does
        print(f"{printable(key, line=True):<{width}}  {further.join(said.splitlines())}")


def _records(query: Query, damaged: list[RequestError]) -> Iterator[Record]:
    if not query.root.is_dir():
        raise RequestError(Problem("--root", "a folder of runs", str(query.root)))
    if query.name is None:
        yield from scan(query.root, damaged)
        return
    there = list(folders(query.root, damaged))
    named = [folder for folder in there if folder.parent.name == query.name]
    if not named:
        hint = nearest(query.name, {folder.parent.name for folder in there})
        raise RequestError(Problem("NAME", "the name of a run", query.name, hint))
    for folder in named:
        yield from scan(folder, damaged)


def _sorted(rows: list[tuple[Any, Any]], *, descending: bool) -> list[tuple[Any, Any]]:
    """Numbers before texts; what is missing last in either direction."""

    def there(value: Any) -> bool:
        return value is not MISSING and value is not None

    def order(row: tuple[Any, Any]) -> tuple[bool, Any]:
        number = isinstance(row[0], int | float)
        return (not number, row[0] if number else str(row[0]))

    present = sorted((row for row in rows if there(row[0])), key=order, reverse=descending)
    return present + [row for row in rows if not there(row[0])]


def _cells(record: Record, columns: Sequence[str]) -> list[str]:
    return [_cell(record, column) for column in columns]


def _cell(record: Record, column: str) -> str:
    if column == "step":
        return f"{record.step}/{record.info.get('total_steps', '?')}"
    value = fact(record, column)
    return "" if value is MISSING else cell(column, value)


def _as_json(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    if tuple(columns) == COLUMNS:
        return everything(record)
    values = ((column, fact(record, column)) for column in columns)
    return {column: None if value is MISSING else value for column, value in values}


def _told(record: Record) -> list[tuple[str, Any]]:
    info = record.info
    found = best(record)
    start = info["starts"][-1]
    vocabulary = info["tokenizer"]
    facts: list[tuple[str, Any]] = [
        ("run", record.path),
        ("status", record.status),
        ("label", record.label or "(as in the experiment file)"),
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
            else "none, it reads numbers",
        ),
        *info.get("final", {}).items(),
        (
            "best",
            f"{found['metric']} {found['value']:.5f} at step {found['step']}" if found else None,
        ),
        ("error", info.get("error")),
        ("diverged", info.get("diverged")),
        ("tags", ", ".join(info.get("tags", []))),
        ("notes", info.get("notes")),
    ]
    return [*facts, *(("checkpoint", path) for _, path in record.checkpoints())]
