"""Runs for the eye: tables on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError, nearest
from etude.records.record import Record
from etude.records.registry import scan

COLUMNS = ("run", "status", "label", "step", "val/loss", "best", "seconds")


def print_list(root: Path, name: str | None) -> None:
    """All runs below `root`, or those called `name`.

    Raises:
        RequestError: no such folder, or no such name.
    """
    if not root.is_dir():
        raise RequestError(Problem("--root", "a folder of runs", str(root)))
    records = list(scan(root))
    if name is not None:
        names = {record.path.parent.name for record in records}
        if name not in names:
            raise RequestError(Problem("NAME", "the name of a run", name, nearest(name, names)))
        records = [record for record in records if record.path.parent.name == name]
    if not records:
        print(f"no runs under {root}; `etude train experiment=debug` makes one")
        return
    print_table(COLUMNS, [_columns(record) for record in records])


def _columns(record: Record) -> list[str]:
    info = record.info
    best = info.get("best") or {}
    status = record.status
    step = info.get("step", 0)
    if status == "running":  # `run.json` knows the last checkpoint's
        step = max([step, *(row.get("step", 0) for row in record.rows()[-1:])])
    return [
        f"{record.path.parent.name}/{record.path.name}",
        status,
        record.label,
        f"{step}/{info.get('total_steps', '?')}",
        _number(info.get("final", {}).get("val/loss")),
        _number(best.get("value")),
        _number(info.get("seconds"), digits=0),
    ]


def print_run(record: Record) -> None:
    """What a run is, how it went, and where its files are.

    Raises:
        RequestError: `run.json` lacks something that every run has.
    """
    try:
        facts = _facts(record)
    except (KeyError, TypeError, IndexError) as error:
        where = str(record.path / "run.json")
        raise RequestError(Problem(where, "what every run has", hint=f"{error!r}")) from error
    shown = [(key, value) for key, value in facts if value not in (None, "")]
    width = max(len(key) for key, _ in shown)
    for key, value in shown:
        said = f"{value:.5f}" if isinstance(value, float) else value
        print(f"{key:<{width}}  {said}")


def _facts(record: Record) -> list[tuple[str, Any]]:
    info = record.info
    best = info.get("best") or {}
    start = info["starts"][-1]
    facts: list[tuple[str, Any]] = [
        ("run", record.path),
        ("status", record.status),
        ("label", record.label or "(as in the experiment file)"),
        ("signature", info["signature"]),
        ("group", info["group"]),
        ("seed", info["seed"]),
        ("parameters", f"{info['parameters']:,}"),
        ("steps", f"{info['step']} of {info['total_steps']}"),
        ("tokens", f"{info['tokens']:,}" if "tokens" in info else None),
        ("starts", len(info["starts"])),
        ("trained on", f"{start['host']}, torch {start['versions']['torch']}"),
        ("source", f"{start['source']}, commit {start['commit'] or 'unknown'}"),
        ("data", info["data"]["fingerprint"]),
        (
            "tokenizer",
            f"{info['tokenizer']['size']} tokens, {info['tokenizer']['fingerprint'][:12]}",
        ),
        *info.get("final", {}).items(),
        ("best", f"{best['metric']} {best['value']:.5f} at step {best['step']}" if best else None),
        ("error", info.get("error")),
        ("diverged", info.get("diverged")),
        ("tags", ", ".join(info.get("tags", []))),
        ("notes", info.get("notes")),
    ]
    return [*facts, *(("checkpoint", path) for _, path in record.checkpoints())]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; in a pipe, columns two spaces apart and nothing cut."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _number(value: Any, digits: int = 5) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""
