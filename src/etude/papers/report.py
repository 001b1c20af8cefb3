"""Output of a reproduction: the printed table, `report.md` and `result.json`."""

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
from etude.records.opening import METRICS, RESULT, path_exists
from etude.records.record import FINAL_STATUSES, Record
from etude.records.text_tables import markdown_table
from etude.sweeps.job import relative_path

FORMAT = 1
OTHERS = "Comparison with results of others, measured with these or similar settings"
_MOST_NAMES = 6
"""Largest number of run folders that the report names for an arm; `result.json` contains all."""
COLUMNS = (
    "cell", "published", "ours", "tolerance", "control", "matches the paper",
    "by this protocol", "matches the protocol",
)  # fmt: skip


def rows(paper: Paper, readings: Mapping[str, Reading]) -> list[list[str]]:
    """Returns the rows of the printed table, one row for each value that is compared.

    Args:
        paper: the paper.
        readings: dict from the key of each compared value to its measured values. A value that is
            missing in it is shown as not run.

    Returns:
        The rows; each row is a list with one text for each column in `COLUMNS`.
    """
    return [_row(cell, readings.get(cell.key)) for cell in paper.cells]


def _row(cell: Cell, reading: Reading | None) -> list[str]:
    protocol = cell.protocol
    return [
        cell.key,
        "in words" if cell.published is None else _with_unit(f"{cell.published:g}", cell),
        _with_unit(_mean_text(reading.values), cell) if reading else "",
        _tolerance_text(cell.tolerance, cell),
        _with_unit(_mean_text(reading.controls), cell) if reading else "",
        str(judge(cell, reading)),
        "" if protocol is None else _protocol_text(protocol, cell),
        str(judge_protocol(cell, reading) or ""),
    ]


def _tolerance_text(tolerance: Tolerance, cell: Cell) -> str:
    return _with_unit(str(tolerance), cell) if tolerance.has_unit else str(tolerance)


def _protocol_text(protocol: ProtocolFigure, cell: Cell) -> str:
    number = "" if protocol.expected is None else f"{protocol.expected:g} "
    return number + _tolerance_text(protocol.tolerance, cell)


def verdict_of(paper: Paper, readings: Mapping[str, Reading]) -> Verdict:
    """Returns the verdict on the whole paper: whether all measured values match its table.

    Args:
        paper: the paper.
        readings: dict from the key of each value in the paper's table to its measured values. A
            value that is missing in it counts as not run.
    """
    return overall([judge(cell, readings.get(cell.key)) for cell in paper.cells])


def protocol_verdict_of(paper: Paper, readings: Mapping[str, Reading]) -> Verdict | None:
    """Compares the measured values with results that other people got with the same settings.

    Returns the verdict; None if the paper file contains no such results. See
    `etude.papers.claims.ProtocolFigure`.

    Args:
        paper: the paper.
        readings: dict from the key of each value in the paper's table to its measured values. A
            value that is missing in it counts as not run.
    """
    judged = [judge_protocol(cell, readings.get(cell.key)) for cell in paper.cells]
    verdicts = [verdict for verdict in judged if verdict is not None]
    return overall(verdicts) if verdicts else None


def result(
    name: str,
    paper: Paper,
    settings: Mapping[str, Any],
    readings: Mapping[str, Reading],
    runs: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Returns the content of `result.json`: measured values, settings, environment and verdicts.

    Args:
        name: name of the paper.
        paper: the paper.
        settings: settings of the measurement: the class and arguments in the paper's `measure`.
        readings: dict from the key of each value in the paper's table to its measured values.
        runs: the runs that were read, by the name of their arm. An arm is a named group of the
            paper's runs.
    """
    where = {k: v for k, v in provenance.start_entry(0).items() if k not in ("step", "host")}
    where["devices"] = sorted({_device(run) for several in runs.values() for run in several})
    values = {key: asdict(reading) for key, reading in readings.items()}
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
        "readings": values,
        "sha256": _sha256(values),
        "overrides": dict(paper.runs),
        "experiments": claims.experiments(paper),
        "runs": {
            arm: [{"place": relative_path(str(run.path)), **_run_entry(run)} for run in several]
            for arm, several in runs.items()
        },
        "measured": where,
    }


def read_verdicts(
    path: Path, paper: Paper, settings: Mapping[str, Any]
) -> tuple[Verdict, Verdict | None]:
    """Reads a `result.json`, and compares its measured values with the current paper file.

    Args:
        path: path of the `result.json`, which may not exist.
        paper: the paper.
        settings: settings of the measurement in the current paper file: the class and arguments in
            `measure`.

    Returns:
        A pair: the verdict of the comparison with the paper, and the verdict of the comparison with
        results of other people (see `judge_result`). If the file is missing, or a run from which
        values were read has changed, the pair is "not run" and None.

    Raises:
        RequestError: If the file is damaged, or was written by a newer Étude.
    """
    if not path_exists(path):
        return Verdict("not run"), None
    content = read_json(path, RESULT)
    _check_format(content, str(path))
    root = path.parents[2]
    for run in _run_entries(content, str(path)):
        if not _is_unchanged(root / run["place"], run):
            return Verdict("not run", why=f"the run {run['place']} is missing or has changed"), None
    return judge_result(content, str(path), paper, settings)


def _check_format(content: Any, name: str) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        expected = f"a result of `etude reproduce` in format {FORMAT}"
        raise RequestError(Problem(name, expected))


def _run_entries(content: Any, name: str) -> list[dict[str, str]]:
    """Returns a dict for each run that a `result.json` lists.

    The dict has two keys: `place`, the run's path, and `metrics`, the hash of the run's metrics.

    Args:
        content: content of `result.json`.
        name: name of the file, for errors.

    Raises:
        RequestError: If the list of runs is invalid.
    """
    kind = dict[str, list[dict[str, Any]]]
    try:
        runs = [
            run
            for arm_runs in TypeAdapter(kind).validate_python(content.get("runs")).values()
            for run in arm_runs
        ]
        return [{"place": str(run["place"]), "metrics": str(run["metrics"])} for run in runs]
    except (ValidationError, KeyError) as error:
        expected = "a list of runs, each with `place` and `metrics`, for each name under `runs`"
        raise RequestError(Problem(f"{name}: runs", expected)) from error


def judge_result(
    content: Any, name: str, paper: Paper, settings: Mapping[str, Any]
) -> tuple[Verdict, Verdict | None]:
    """Compares the measured values in a `result.json` with the values in the current paper file.

    Args:
        content: content of the `result.json`.
        name: name of the file, for errors.
        paper: the paper, as in the current paper file.
        settings: settings of the measurement in the current paper file: the class and arguments in
            `measure`.

    Returns:
        A pair: the verdict of the comparison with the paper, and the verdict of the comparison with
        results of other people (None if the paper file contains no such results). If the values
        were measured with other settings or seeds, the pair is "not run" and None.

    Raises:
        RequestError: If the file is damaged, or was written by a newer Étude.
    """
    readings = readings_in(content, name, paper, settings)
    if isinstance(readings, Verdict):
        return readings, None
    return verdict_of(paper, readings), protocol_verdict_of(paper, readings)


def readings_in(
    content: Any, name: str, paper: Paper, settings: Mapping[str, Any]
) -> dict[str, Reading] | Verdict:
    """Returns the measured values in a `result.json`, as a dict from their keys to `Reading`s.

    If the file was edited, or if the values were measured with other settings, seeds or overrides
    than those that the paper file contains now, returns the verdict "not run" with the reason
    instead. If the paper has runs but the file lists none, the verdict "not run" has no reason.
    See `judge_result` for arguments and errors.
    """
    _check_format(content, name)
    now = (dict(settings), list(paper.seeds), dict(paper.runs), claims.experiments(paper))
    then = tuple(content.get(key) for key in ("measure", "seeds", "overrides", "experiments"))
    if then != now:
        return Verdict("not run", why="settings changed")
    if paper.runs and not _run_entries(content, name):
        return Verdict("not run")
    if content.get("sha256") != _sha256(content.get("readings")):
        return Verdict("not run", why="result.json was edited")
    try:
        return TypeAdapter(dict[str, Reading]).validate_python(content.get("readings"))
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"])
        raise RequestError(
            Problem(
                f"{name}: readings",
                "for each measured value, two lists of numbers: `values` and `controls`",
                hint=reason,
            )
        ) from error


def _run_entry(run: Any) -> dict[str, Any]:
    """Returns the dict that describes a run in `result.json`, without the run's path.

    Its keys are `seed`, `seconds`, `parameters` (their number) and `metrics` (hash of the run's
    metrics).
    """
    info = run.summary
    return {"seed": info["seed"], "seconds": info["seconds"], "parameters": info["parameters"]} | {
        "metrics": _digest(run.path)
    }


def _sha256(readings: Any) -> str:
    """Returns the SHA-256 (hex) of the measured values, by which manual edits are detected."""
    return hashlib.sha256(json.dumps(readings, sort_keys=True).encode()).hexdigest()


def _device(run: Any) -> str:
    """Returns the name of the device that the run used when it was last started or continued."""
    starts = run.summary.get("starts") or [{}]
    return str(starts[-1].get("device") or "an unknown device")


def _digest(folder: Path) -> str:
    return sha256_file(folder / "metrics.jsonl", METRICS)


def _is_unchanged(folder: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return (
            _digest(folder) == entry.get("metrics") and Record.read(folder).status in FINAL_STATUSES
        )
    except (OSError, RequestError):
        return False


def markdown(name: str, paper: Paper, content: Mapping[str, Any], figures: Sequence[str]) -> str:
    """Returns the text of a paper's `report.md`.

    Texts from the paper file are Markdown and stay unchanged. Text from runs is escaped.

    Args:
        name: name of the paper.
        paper: the paper.
        content: content of `result.json`.
        figures: file names in `figures/`.
    """
    readings = TypeAdapter(dict[str, Reading]).validate_python(content["readings"])
    where = content["measured"]
    settings = {key: value for key, value in content["measure"].items() if key != "_target_"}
    details = "".join(f"{key} {value}, " for key, value in settings.items() if not paper.runs)
    details += f"commit {where['commit'] or 'unknown'}, source hash {where['source']}, "
    details += "".join(f"{device}, " for device in where["devices"])
    details += f"torch {where['versions']['torch']}, {where['time']}."
    parts = [
        f"# {paper.title}",
        f"{paper.claim}.",
        f"{paper.citation} <{paper.link}>",
        f"**Comparison with the paper: {content['verdict']}.**"
        + (f" **{OTHERS}: {content['protocol']}.**" if content["protocol"] else ""),
        markdown_table(COLUMNS, [[*map(escaped, row)] for row in rows(paper, readings)]),
        "Each row compares one value from the paper (`cell`). `published` is the number that the "
        "paper prints, or that follows from what it prints; its source is stated below. If the "
        "paper makes its claim only in words, we chose the threshold in `tolerance`; a match then "
        "supports the paper's statement, but not a number in the paper. `ours` is the value that "
        "Étude measured. `control` is the same value in a negative control: a case in which the "
        "claim must not hold. `ours` and `control` are means over the seeds ± the standard "
        "deviation between seeds. `by this protocol` is a result that other people measured with "
        "these settings or similar ones.",
        *(f"![{Path(figure).stem}](figures/{figure})" for figure in figures),
        "## Compared values",
        *(_cell_text(cell) for cell in paper.cells),
        *(["## Notes", paper.notes] if paper.notes else []),
        "## Measurement",
        *_runs_table(content, paper.config_dir),
        escaped(f"Seeds {', '.join(map(str, content['seeds']))}; {details}"),
        f"```\n{command(name, paper.config_dir)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def command(name: str, config_dir: Path | None) -> str:
    """Returns the shell command that measures a paper."""
    return " ".join(["etude reproduce", name, *_config_dir_option(config_dir)])


def _config_dir_option(config_dir: Path | None) -> list[str]:
    return [] if config_dir is None else ["--config-dir", shlex.quote(str(config_dir))]


def _runs_table(content: Mapping[str, Any], config_dir: Path | None) -> list[str]:
    """Returns a list with one Markdown table, which describes a paper's runs.

    The table has a row for each arm, which is a named group of runs. The columns are the name of
    the arm, and the command, number of parameters, duration and folders of its runs. If the paper
    has no runs, the list is empty.

    Args:
        content: content of `result.json`.
        config_dir: folder of custom configs, for the commands; None if there is none.
    """
    option = _config_dir_option(config_dir)
    if not content["overrides"]:
        return []
    table_rows = []
    for arm, overrides in content["overrides"].items():
        runs = content["runs"].get(arm, [])
        names = [markdown_code(run["place"].rpartition("/")[2]) for run in runs]
        others = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
        table_rows.append(
            [
                escaped(arm),
                markdown_code(" ".join(["etude train", *option, *overrides])),
                _span([run["parameters"] for run in runs], "{:,}"),
                _span([run["seconds"] for run in runs], "{:.0f}") + " s" if runs else "not run",
                " ".join([*names[:_MOST_NAMES], *others]),
            ]
        )
    head = ("run", "command (without the seed)", "parameters", "duration of each", "run folders")
    return [markdown_table(head, table_rows)]


def _span(values: Sequence[float], form: str) -> str:
    """Returns the minimum and maximum of the values as text, such as `3 to 5`.

    If both have the same text, such as `3`, returns this text once. If there are no values, returns
    an empty text.

    Args:
        values: the values.
        form: format of a number, such as `{:.0f}`.
    """
    ends = [form.format(end) for end in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(ends))


def _cell_text(cell: Cell) -> str:
    lines = [
        f"**`{cell.key}`**: {cell.says}.",
        f"- source: {cell.read}",
        f"- tolerance {cell.tolerance}: {cell.because}",
        f"- negative control: {cell.control}",
    ]
    if cell.protocol is not None:
        expected = _protocol_text(cell.protocol, cell)
        lines.append(
            f"- result of others with these or similar settings {expected}: "
            f"{cell.protocol.read}; {cell.protocol.because}"
        )
    return "\n".join(lines)


def _mean_text(values: Sequence[float]) -> str:
    """Returns mean and standard deviation of the values as text, such as `0.98 ± 0.01`.

    Both are rounded to the first significant digit of the standard deviation. A single value is
    returned without a deviation. If there are no values, returns an empty text.
    """
    if not values:
        return ""
    average = mean(values)
    if len(values) == 1 or not isfinite(average):
        return f"{average:.4g}"
    spread = float(f"{stdev(values):.1g}")
    decimals = max(0, -int(f"{spread:e}".partition("e")[2]))  # those of the spread's first digit
    if not spread or decimals > 5:
        return f"{average:.{2 if spread else 4}g} ± {spread:g}"
    return f"{average:.{decimals}f} ± {spread:g}"


def _with_unit(text: str, cell: Cell) -> str:
    return f"{text} {cell.unit}".strip()
