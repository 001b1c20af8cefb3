"""Whether records are what training wrote: everything that can be hashed or recomputed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.config.checks import check
from etude.data.tokenizer import Tokenizer
from etude.errors import RequestError
from etude.records.config_file import portable, read_config
from etude.records.lock import is_held
from etude.records.record import Record
from etude.records.signature import group, signature
from etude.training.checkpoints import verify as verify_checkpoint


@dataclass
class Verdict:
    """What was found of one record.

    Attributes:
        folder: the record's.
        faults: what is not as it was written; empty for a sound record.
        notes: what could not be checked, and why.
        held: a live process is writing it, so nothing was looked at.
    """

    folder: Path
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held: bool = False

    def __str__(self) -> str:
        if self.held:
            return "not looked at: a process is training it"
        said = "; ".join(self.faults) if self.faults else "ok"
        return said + (f" ({'; '.join(self.notes)})" if self.notes else "")


def verify(folder: Path, trust: Sequence[str] = ()) -> Verdict:
    """Reads every file of a record that training relies on.

    Checked are `run.json`, the signature as recomputed from `config.yaml`, the tokenizer's
    fingerprint, each checkpoint's hashes, that the steps of `metrics.jsonl` increase, and, once a
    run is finished, the hash of that file and that the results of `run.json` stand in it. Samples,
    figures and the log are for reading, and nothing is known of them.

    Args:
        folder: the record's, wherever it was moved.
        trust: modules that its config may name beside Étude's.
    """
    verdict = Verdict(folder)
    if is_held(folder):
        verdict.held = True
        return verdict
    try:
        record = Record.read(folder)
    except RequestError as error:
        verdict.faults += _said(error, folder)
        return verdict
    done = record.status == "finished"
    _check_signature(record, verdict, trust)
    _check_tokenizer(record, verdict)
    verdict.faults += metrics_faults(record, ended=done)
    _check_checkpoints(record, verdict, done)
    return verdict


def _check_signature(record: Record, verdict: Verdict, trust: Sequence[str]) -> None:
    stated = record.info.get("signature")
    try:
        config = read_config(record.path / "config.yaml")
        foreign = [name for name in config.extensions if name not in trust]
        if foreign:
            verdict.notes.append(f"signature not recomputed: --trust {' '.join(foreign)}")
            return
        identity = check(portable(config), trust=list(trust)).identity
    except RequestError as error:
        verdict.faults += _said(error, record.path)
        return
    for key, expected in (("signature", signature(identity)), ("group", group(identity))):
        if (found := record.info.get(key)) != expected:
            told = str(found)[:12]
            verdict.faults.append(f"config.yaml gives the {key} {expected[:12]}, run.json {told}")
    if stated and record.info.get("seed") != config.seed:
        verdict.faults.append(f"config.yaml has seed {config.seed}, run.json another")


def _check_tokenizer(record: Record, verdict: Verdict) -> None:
    stated = record.info.get("tokenizer", {}).get("fingerprint")
    try:
        found = Tokenizer.load(record.path / "tokenizer.json").fingerprint
    except RequestError as error:
        verdict.faults += _said(error, record.path)
        return
    if found != stated:
        verdict.faults.append(f"tokenizer.json is {found[:12]}, run.json says {str(stated)[:12]}")


def metrics_faults(record: Record, *, ended: bool) -> list[str]:
    """What of `metrics.jsonl` is not as training wrote it.

    Args:
        ended: nothing will be added, so it is whole and `run.json` knows of its results.
    """
    told = list(_row_faults(record.path / "metrics.jsonl", must_be_whole=ended))
    return told or (list(_result_faults(record)) if ended else [])


def _row_faults(path: Path, *, must_be_whole: bool) -> Iterator[str]:
    """Lines that are no rows, and steps that do not increase; the first of each."""
    try:
        content = path.read_bytes()
    except OSError as error:
        if must_be_whole:
            yield f"metrics.jsonl: {error.strerror}"
        return
    *lines, rest = content.split(b"\n")
    if rest and must_be_whole:
        yield f"metrics.jsonl, line {len(lines) + 1}: cut short"
    before: float | None = None
    for number, line in enumerate(lines, start=1):
        step = _step_of(line)
        if step is None:
            yield f"metrics.jsonl, line {number}: no row with a step"
            return
        if before is not None and step <= before:
            yield f"metrics.jsonl, line {number}: step {step} after step {before}"
            return
        before = step


def _result_faults(record: Record) -> Iterator[str]:
    """Where the results of a finished run are not those of its metrics."""
    expected = record.info.get("metrics_sha256")
    if expected is not None:  # records of older versions have none
        found = hashlib.sha256((record.path / "metrics.jsonl").read_bytes()).hexdigest()
        if found != expected:
            yield f"metrics.jsonl is {found[:12]}, run.json says {str(expected)[:12]}"
    rows = record.rows()
    at_step = {row["step"]: row for row in rows}
    best = dict(record.info.get("best") or {})
    results = [("final", record.info.get("final") or {}, rows[-1] if rows else {})]
    results.append(("best", best, at_step.get(best.get("step"), {})))
    for name, stated, row in results:
        for key, value in stated.items():
            if key in row and row[key] != value:
                yield f"run.json has {name} {key} {value}, metrics.jsonl {row[key]}"
                return


def _step_of(line: bytes) -> int | None:
    try:
        row: Any = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _check_checkpoints(record: Record, verdict: Verdict, done: bool) -> None:
    there = record.checkpoints()
    for _, folder in there:
        try:
            verify_checkpoint(folder)
        except RequestError as error:
            verdict.faults += _said(error, record.path)
    whole = {folder.name for _, folder in there}
    for folder in sorted((record.path / "checkpoints").glob("step-*")):
        if folder.name not in whole:
            verdict.faults.append(f"checkpoints/{folder.name}: no MANIFEST.json")
    if done:
        try:
            record.checkpoint("best")
        except RequestError as error:
            verdict.faults.append(f"the best checkpoint is gone: {error.problems[0].hint}")


def _said(error: RequestError, folder: Path) -> list[str]:
    """The problems with paths from the record's folder on."""
    return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
