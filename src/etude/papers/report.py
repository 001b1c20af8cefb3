"""What a reproduction leaves: the table on the screen, `report.md`, and `result.json`."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from statistics import stdev
from typing import Any

from pydantic import TypeAdapter, ValidationError

from etude.errors import Problem, RequestError
from etude.escaping import markdown as escaped
from etude.escaping import markdown_code
from etude.papers import claims
from etude.papers.claims import Cell, Paper, ProtocolFigure, Reading, Tolerance
from etude.papers.verdict import Verdict, judge, judge_protocol, mean, overall
from etude.records import provenance
from etude.records.files import read_json, sha256_file
from etude.records.opening import METRICS, RESULT, is_there
from etude.records.record import DONE, Record
from etude.records.tables import markdown_table
from etude.sweeps.job import place_of

FORMAT = 1
_NAMED = 6
"""Records of an arm that the report names; `result.json` has all."""
COLUMNS = (
    "cell", "published", "ours", "tolerance", "control", "matches the paper",
    "by this protocol", "matches the protocol",
)  # fmt: skip


def rows(paper: Paper, readings: Mapping[str, Reading]) -> list[list[str]]:
    """The paper's table, one row a cell in the order of `COLUMNS`."""
    return [_row(cell, readings.get(cell.key)) for cell in paper.cells]


def _row(cell: Cell, reading: Reading | None) -> list[str]:
    known = cell.protocol
    return [
        cell.key,
        "in words" if cell.published is None else _with_unit(f"{cell.published:g}", cell),
        _with_unit(_mean(reading.values), cell) if reading else "",
        _told(cell.tolerance, cell),
        _with_unit(_mean(reading.controls), cell) if reading else "",
        str(judge(cell, reading)),
        "" if known is None else _expected(known, cell),
        str(judge_protocol(cell, reading) or ""),
    ]


def _told(tolerance: Tolerance, cell: Cell) -> str:
    return _with_unit(str(tolerance), cell) if tolerance.has_unit else str(tolerance)


def _expected(known: ProtocolFigure, cell: Cell) -> str:
    number = "" if known.expected is None else f"{known.expected:g} "
    return number + _told(known.tolerance, cell)


def verdict_of(paper: Paper, readings: Mapping[str, Reading]) -> Verdict:
    """The whole paper's verdict."""
    return overall([judge(cell, readings.get(cell.key)) for cell in paper.cells])


def protocol_verdict_of(paper: Paper, readings: Mapping[str, Reading]) -> Verdict | None:
    """The same against what these settings have given elsewhere; None where no cell says that."""
    found = [judge_protocol(cell, readings.get(cell.key)) for cell in paper.cells]
    known = [verdict for verdict in found if verdict is not None]
    return overall(known) if known else None


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
    where = {k: v for k, v in provenance.start(0).items() if k not in ("step", "host")}
    where["devices"] = sorted({_device(run) for several in runs.values() for run in several})
    told = {key: asdict(reading) for key, reading in readings.items()}
    return {
        "format": FORMAT,
        "paper": name,
        "verdict": str(verdict_of(paper, readings)),
        "protocol": str(protocol_verdict_of(paper, readings) or ""),
        "cells": {
            cell.key: {
                "published": cell.published,
                "tolerance": str(cell.tolerance),
                "verdict": str(judge(cell, readings.get(cell.key))),
                "protocol": str(judge_protocol(cell, readings.get(cell.key)) or ""),
            }
            for cell in paper.cells
        },
        "seeds": list(paper.seeds),
        "measure": dict(settings),
        "readings": told,
        "sha256": _sha256(told),
        "overrides": dict(paper.runs),
        "experiments": claims.experiments(paper),
        "runs": {
            arm: [{"place": place_of(str(run.path)), **_of(run)} for run in several]
            for arm, several in runs.items()
        },
        "measured": where,
    }


def read_verdicts(
    path: Path, paper: Paper, settings: Mapping[str, Any]
) -> tuple[Verdict, Verdict | None]:
    """What a `result.json` whose runs are there says to the paper's cells as they are today; see
    `verdicts_in`.

    Raises:
        RequestError: the file is damaged, or a newer Étude wrote it.
    """
    if not is_there(path):
        return Verdict("not run"), None
    found = read_json(path, RESULT)
    _check_format(found, str(path))
    root = path.parents[2]
    for run in _listed(found, str(path)):
        if not _is_there(root / run["place"], run):
            return Verdict("not run", why=f"{run['place']} is gone or has changed"), None
    return verdicts_in(found, str(path), paper, settings)


def _check_format(found: Any, name: str) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RequestError(Problem(name, f"a result of format {FORMAT}"))


def _listed(found: Any, name: str) -> list[dict[str, str]]:
    """The runs that a result says it was read from."""
    kind = dict[str, list[dict[str, Any]]]
    try:
        listed = [
            run
            for each in TypeAdapter(kind).validate_python(found.get("runs")).values()
            for run in each
        ]
        return [{"place": str(run["place"]), "metrics": str(run["metrics"])} for run in listed]
    except (ValidationError, KeyError) as error:
        expected = "the place and the digest of each run"
        raise RequestError(Problem(f"{name}: runs", expected)) from error


def verdicts_in(
    found: Any, name: str, paper: Paper, settings: Mapping[str, Any]
) -> tuple[Verdict, Verdict | None]:
    """What the readings in the content of a `result.json` say to the paper's cells as they are
    today: whether they match the paper, and whether the protocol.

    Readings of other settings or seeds are none of this measurement: not run.

    Args:
        name: of the file.

    Raises:
        RequestError: it is damaged, or a newer Étude wrote it.
    """
    readings = readings_in(found, name, paper, settings)
    if isinstance(readings, Verdict):
        return readings, None
    return verdict_of(paper, readings), protocol_verdict_of(paper, readings)


def readings_in(
    found: Any, name: str, paper: Paper, settings: Mapping[str, Any]
) -> dict[str, Reading] | Verdict:
    """The readings in the content of a `result.json`, or why they are none of this measurement; see
    `verdicts_in`.
    """
    _check_format(found, name)
    now = (dict(settings), list(paper.seeds), dict(paper.runs), claims.experiments(paper))
    then = tuple(found.get(key) for key in ("measure", "seeds", "overrides", "experiments"))
    if then != now:
        return Verdict("not run", why="settings changed")
    if paper.runs and not _listed(found, name):
        return Verdict("not run")
    if found.get("sha256") != _sha256(found.get("readings")):
        return Verdict("not run", why="the readings have been changed")
    try:
        return TypeAdapter(dict[str, Reading]).validate_python(found.get("readings"))
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"])
        raise RequestError(Problem(f"{name}: readings", "numbers a cell", hint=reason)) from error


def _of(run: Any) -> dict[str, Any]:
    info = run.summary
    return {"seed": info["seed"], "seconds": info["seconds"], "parameters": info["parameters"]} | {
        "metrics": _digest(run.path)
    }


def _sha256(readings: Any) -> str:
    """Of the numbers: what was read by nobody is told from what was."""
    return hashlib.sha256(json.dumps(readings, sort_keys=True).encode()).hexdigest()


def _device(run: Any) -> str:
    """What the run's latest start was on."""
    starts = run.summary.get("starts") or [{}]
    return str(starts[-1].get("device") or "an unknown device")


def _digest(folder: Path) -> str:
    return sha256_file(folder / "metrics.jsonl", METRICS)


def _is_there(folder: Path, told: Mapping[str, Any]) -> bool:
    try:
        return _digest(folder) == told.get("metrics") and Record.read(folder).status in DONE
    except (OSError, RequestError):
        return False


def markdown(name: str, paper: Paper, found: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The text of `report.md`.

    The paper's own words are Markdown; what comes from records is shown as it is.

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
    told += f"commit {where['commit'] or 'unknown'}, source {where['source']}, "
    told += "".join(f"{device}, " for device in where["devices"])
    told += f"torch {where['versions']['torch']}, {where['time']}."
    parts = [
        f"# {paper.title}",
        f"{paper.claim}.",
        f"{paper.citation} <{paper.link}>",
        f"**Matches the paper: {found['verdict']}.**"
        + (f" **Matches the protocol: {found['protocol']}.**" if found["protocol"] else ""),
        markdown_table(COLUMNS, [[*map(escaped, row)] for row in rows(paper, readings)]),
        "`ours` and `control` are means over the seeds, with the standard deviation between them. "
        "The control is a case in which the claim must not be found. `published` is what the paper "
        "prints, or what follows from its words (see `read`). Where it has only words, the "
        "threshold is ours: such a match supports the words, no printed number. `by this protocol` "
        "is what these settings, or the nearest to them, have given elsewhere, where it is known.",
        *(f"![{Path(figure).stem}](figures/{figure})" for figure in figures),
        "## Cells",
        *(_cell(cell) for cell in paper.cells),
        *(["## What was found out", paper.notes] if paper.notes else []),
        "## Measured",
        *_runs(found, paper.config_dir),
        escaped(f"Seeds {', '.join(map(str, found['seeds']))}; {told}"),
        f"```\n{command(name, paper.config_dir)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def command(name: str, config_dir: Path | None) -> str:
    """What is typed to measure a paper."""
    return " ".join(["etude reproduce", name, *_own(config_dir)])


def _own(config_dir: Path | None) -> list[str]:
    return [] if config_dir is None else ["--config-dir", shlex.quote(str(config_dir))]


def _runs(found: Mapping[str, Any], config_dir: Path | None) -> list[str]:
    """The commands, and what each run took."""
    own = _own(config_dir)
    if not found["overrides"]:
        return []
    lines = []
    for arm, overrides in found["overrides"].items():
        several = found["runs"].get(arm, [])
        names = [markdown_code(run["place"].rpartition("/")[2]) for run in several]
        left = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        lines.append(
            [
                escaped(arm),
                markdown_code(" ".join(["etude train", *own, *overrides])),
                _span([run["parameters"] for run in several], "{:,}"),
                _span([run["seconds"] for run in several], "{:.0f}") + " s"
                if several
                else "not run",
                " ".join([*names[:_NAMED], *left]),
            ]
        )
    head = ("run", "command, beside the seed", "parameters", "each took", "records")
    return [markdown_table(head, lines)]


def _span(values: Sequence[float], form: str) -> str:
    """The least and the largest of what the runs of an arm tell."""
    ends = [form.format(end) for end in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(ends))


def _cell(cell: Cell) -> str:
    lines = [
        f"**`{cell.key}`**: {cell.says}.",
        f"- read: {cell.read}",
        f"- tolerance {cell.tolerance}: {cell.because}",
        f"- control: {cell.control}",
    ]
    if cell.protocol is not None:
        told = _expected(cell.protocol, cell)
        lines.append(f"- by this protocol {told}: {cell.protocol.read}; {cell.protocol.because}")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = mean(values)
    if len(values) == 1 or not isfinite(middle):
        return f"{middle:.4g}"
    spread = float(f"{stdev(values):.1g}")
    places = max(0, -int(f"{spread:e}".partition("e")[2]))  # as many as the spread's first digit
    if not spread or places > 5:
        return f"{middle:.{2 if spread else 4}g} ± {spread:g}"
    return f"{middle:.{places}f} ± {spread:g}"


def _with_unit(text: str, cell: Cell) -> str:
    return f"{text} {cell.unit}".strip()
