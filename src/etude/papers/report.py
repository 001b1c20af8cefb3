"""What a reproduction leaves: the table on the screen, `report.md`, and `result.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pydantic import TypeAdapter, ValidationError

from etude.errors import Problem, RequestError
from etude.papers.claims import Cell, Paper, Reading
from etude.papers.verdict import Verdict, judge, overall
from etude.records import provenance
from etude.records.files import read_json
from etude.sweeps.job import place_of

FORMAT = 1
COLUMNS = ("cell", "published", "ours", "tolerance", "control", "verdict")


def rows(paper: Paper, readings: Mapping[str, Reading]) -> list[list[str]]:
    """The paper's table, one row a cell in the order of `COLUMNS`."""
    return [
        [
            cell.key,
            "in words" if cell.published is None else _with_unit(f"{cell.published:.4g}", cell),
            _with_unit(_mean(reading.values), cell) if reading else "",
            _with_unit(str(cell.tolerance), cell)
            if cell.tolerance.has_unit
            else str(cell.tolerance),
            _with_unit(_mean(reading.controls), cell) if reading else "",
            str(judge(cell, reading)),
        ]
        for cell, reading in ((cell, readings.get(cell.key)) for cell in paper.cells)
    ]


def verdict_of(paper: Paper, readings: Mapping[str, Reading]) -> Verdict:
    """The whole paper's verdict."""
    return overall([judge(cell, readings.get(cell.key)) for cell in paper.cells])


def result(
    name: str,
    paper: Paper,
    settings: Mapping[str, Any],
    readings: Mapping[str, Reading],
    runs: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """The content of `result.json`: what was measured, with what, and how it was judged.

    Args:
        runs: those that were read, arm by arm.
    """
    where = {key: value for key, value in provenance.start(0).items() if key != "step"}
    return {
        "format": FORMAT,
        "paper": name,
        "verdict": str(verdict_of(paper, readings)),
        "cells": {
            cell.key: {
                "published": cell.published,
                "tolerance": str(cell.tolerance),
                "verdict": str(judge(cell, readings.get(cell.key))),
            }
            for cell in paper.cells
        },
        "seeds": list(paper.seeds),
        "measure": dict(settings),
        "readings": {key: asdict(reading) for key, reading in readings.items()},
        "overrides": dict(paper.runs),
        "runs": {
            arm: [{"place": place_of(str(run.path)), **_of(run)} for run in several]
            for arm, several in runs.items()
        },
        "measured": where,
    }


def read_verdict(path: Path, paper: Paper, settings: Mapping[str, Any]) -> Verdict:
    """What the readings in a `result.json` say to the paper's cells as they are today.

    Readings of other settings or seeds are none of this measurement: not run.

    Raises:
        RequestError: the file is damaged, or a newer Étude wrote it.
    """
    if not path.is_file():
        return Verdict("not run")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RequestError(Problem(str(path), f"a result of format {FORMAT}"))
    now = (dict(settings), list(paper.seeds), dict(paper.runs))
    if (found.get("measure"), found.get("seeds"), found.get("overrides", {})) != now:
        return Verdict("not run", why="settings changed")
    root = path.parents[2]
    for several in found.get("runs", {}).values():
        for run in several:
            if not _is_there(root / str(run.get("place")), run):
                return Verdict("not run", why=f"{run.get('place')} is gone or has changed")
    try:
        readings = TypeAdapter(dict[str, Reading]).validate_python(found.get("readings"))
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"])
        raise RequestError(Problem(f"{path}: readings", "numbers a cell", hint=reason)) from error
    return verdict_of(paper, readings)


def _of(run: Any) -> dict[str, Any]:
    info = run.summary
    return {"seed": info["seed"], "seconds": info["seconds"], "parameters": info["parameters"]} | {
        "metrics": _digest(run.path)
    }


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()


def _is_there(folder: Path, told: Mapping[str, Any]) -> bool:
    try:
        return _digest(folder) == told.get("metrics")
    except OSError:
        return False


def markdown(name: str, paper: Paper, found: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The text of `report.md`.

    Args:
        name: the paper's.
        paper: what was claimed.
        found: the content of `result.json`.
        figures: file names in `figures/`.
    """
    readings = TypeAdapter(dict[str, Reading]).validate_python(found["readings"])
    where = found["measured"]
    settings = {key: value for key, value in found["measure"].items() if key != "_target_"}
    told = "".join(f"{key} {value}, " for key, value in settings.items() if not paper.runs)
    parts = [
        f"# {paper.title}",
        f"{paper.claim}.",
        f"{paper.citation} <{paper.link}>",
        f"**Verdict: {found['verdict']}.**",
        _table(COLUMNS, rows(paper, readings)),
        "`ours` and `control` are means over the seeds, with the standard deviation between them. "
        "The control is a case in which the claim must not be found. Where the paper has only "
        "words, the threshold is ours: such a match supports the words, no printed number.",
        *(f"![{Path(figure).stem}](figures/{figure})" for figure in figures),
        "## Cells",
        *(_cell(cell) for cell in paper.cells),
        "## Measured",
        *_runs(found),
        f"Seeds {', '.join(map(str, found['seeds']))}; {told}"
        f"commit {where['commit'] or 'unknown'}, source {where['source']}, "
        f"torch {where['versions']['torch']}, {where['time']}.",
        f"```\netude reproduce {name}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _runs(found: Mapping[str, Any]) -> list[str]:
    """The commands, and what each run took."""
    if not found["overrides"]:
        return []
    lines = []
    for arm, overrides in found["overrides"].items():
        several = found["runs"].get(arm, [])
        lines.append(
            [
                arm,
                f"`etude train {' '.join(overrides)}`",
                f"{several[0]['parameters']:,}" if several else "",
                f"{fmean(run['seconds'] for run in several):.0f} s" if several else "not run",
                " ".join(f"`{run['place'].rpartition('/')[2]}`" for run in several),
            ]
        )
    head = ("run", "command, beside the seed", "parameters", "each took", "records")
    return [_table(head, lines)]


def _cell(cell: Cell) -> str:
    return "\n".join(
        (
            f"**`{cell.key}`**: {cell.says}.",
            f"- read: {cell.read}",
            f"- tolerance {cell.tolerance}: {cell.because}",
            f"- control: {cell.control}",
        )
    )


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.1g}" if len(values) > 1 else ""
    return f"{fmean(values):.4g}{spread}"


def _with_unit(text: str, cell: Cell) -> str:
    return f"{text} {cell.unit}".strip()
