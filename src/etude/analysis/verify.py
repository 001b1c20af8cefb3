"""Whether records are what training wrote: everything that can be hashed or recomputed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from etude.config.checks import check
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError
from etude.records.config_file import portable, read_config
from etude.records.files import sha256_file
from etude.records.lock import is_held
from etude.records.metrics import lines, rows
from etude.records.opening import METRICS, OF_OTHERS, names_in, odd_entries, opened
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

    Checked are that there are no links or special files, `run.json`, the signature as recomputed
    from `config.yaml`, the tokenizer's fingerprint, each checkpoint's hashes, that the steps of
    `metrics.jsonl` increase, and, once a run is finished, the hash of that file and that the
    results of `run.json` stand in it. Samples, figures and the log are for reading, and nothing is
    known of them.

    Args:
        folder: the record's, wherever it was moved.
        trust: modules that its config may name beside Étude's.
    """
    verdict = Verdict(folder)
    if is_held(folder):
        verdict.held = True
        return verdict
    verdict.faults += [_within(problem, folder) for problem in _odd(folder)]
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
        found = Tokenizer.load(record.path / "tokenizer.json", links=False).fingerprint
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
        with opened(path, METRICS) as file:
            yield from _line_faults(lines(file), must_be_whole=must_be_whole)
    except FileNotFoundError as error:
        if must_be_whole:
            yield f"metrics.jsonl: {error.strerror}"
    except RequestError as error:
        yield from _said(error, path.parent)


def _line_faults(read: Iterable[bytes], *, must_be_whole: bool) -> Iterator[str]:
    before: float | None = None
    for number, line in enumerate(read, start=1):
        if not line.endswith(b"\n"):
            if must_be_whole:
                yield f"metrics.jsonl, line {number}: cut short"
            return
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
        found = sha256_file(record.path / "metrics.jsonl", METRICS)
        if found != expected:
            yield f"metrics.jsonl is {found[:12]}, run.json says {str(expected)[:12]}"
    best = dict(record.info.get("best") or {})
    last: dict[str, Any] = {}
    of_best: dict[str, Any] = {}
    for last in rows(record.path / "metrics.jsonl"):
        if last["step"] == best.get("step"):
            of_best = last
    results = [("final", record.info.get("final") or {}, last), ("best", best, of_best)]
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
    try:
        there = record.checkpoints()
    except RequestError as error:
        verdict.faults += _said(error, record.path)
        return
    for _, folder in there:
        try:
            verify_checkpoint(folder)
        except RequestError as error:
            verdict.faults += _said(error, record.path)
    whole = {folder.name for _, folder in there}
    for name in names_in(record.path / "checkpoints"):
        if name.startswith("step-") and name not in whole:
            verdict.faults.append(f"checkpoints/{name}: no MANIFEST.json")
    if done:
        try:
            record.checkpoint("best")
        except RequestError as error:
            verdict.faults.append(f"the best checkpoint is gone: {error.problems[0].hint}")


def _said(error: RequestError, folder: Path) -> list[str]:
    """The problems with paths from the record's folder on."""
    return [_within(problem, folder) for problem in error.problems]


def _within(problem: Problem, folder: Path) -> str:
    return str(problem).replace(f"{folder}/", "")


def _odd(folder: Path) -> list[Problem]:
    """Links and special files in the record, the first few of them, and what cannot be read."""
    try:
        return list(islice(odd_entries(folder, apart=OF_OTHERS), 8))
    except OSError as error:
        expected = "a folder that can be read"
        return [Problem(str(error.filename), expected, hint=error.strerror)]
