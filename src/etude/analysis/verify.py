"""Whether records are what training wrote: everything that can be hashed or recomputed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from etude.analysis import stored
from etude.config.checks import check
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError
from etude.records import integrity
from etude.records.config_file import portable, read_config
from etude.records.files import sha256_file
from etude.records.gaps import missing_row
from etude.records.lock import is_held
from etude.records.manifest import verify as verify_checkpoint
from etude.records.metrics import lines, rows
from etude.records.opening import METRICS, OF_OTHERS, PATCH, names_in, odd_entries, opened
from etude.records.record import Record
from etude.records.signature import group, signature


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
    """Reads every file of a record that a result depends on.

    Checked are that there are no links or special files; the hashes of each field of `run.json`, of
    `config.yaml`, `overrides.yaml`, `tokenizer.json`, patches of the source, checkpoints,
    evaluations and predictions; the signature as recomputed from `config.yaml`, the tokenizer's
    fingerprint, that the steps of `metrics.jsonl` increase and that no row is missing, and, once a
    run is finished, the hash of that file and that the results of `run.json` stand in it. Samples,
    figures and the log are for reading, and nothing is known of them.

    This detects accidents, not forgery. A record of an older version has fewer hashes; what it
    lacks is noted as not hashed.

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
    _check_hashes(record, verdict)
    _check_signature(record, verdict, trust)
    _check_tokenizer(record, verdict)
    verdict.faults += metrics_faults(record, ended=done)
    _check_checkpoints(record, verdict, done)
    for fault, note in stored.checked(record):
        verdict.faults += [fault] if fault else []
        verdict.notes += [note] if note else []
    return verdict


def accept(folder: Path, trust: Sequence[str] = ()) -> list[str]:
    """Takes what was edited by hand in a record as it is now, if no result depends on it.

    Accepted are `tags` and `notes` in `run.json`, and what leaves the signature of `config.yaml`
    and the fingerprint of `tokenizer.json` as they were. The record's holder calls this.

    Args:
        trust: modules that its config may name beside Étude's.

    Returns:
        What was changed, in words.

    Raises:
        RequestError: names each change that is of a result or would make another run.
    """
    record = Record.read(folder)
    found = Verdict(folder)
    _check_signature(record, found, trust)
    _check_tokenizer(record, found)
    expected = "edits on which no result depends"
    if reasons := [*found.faults, *found.notes]:
        raise RequestError(Problem(str(folder), expected, hint=reason) for reason in reasons)
    return record.accept()


def _check_hashes(record: Record, verdict: Verdict) -> None:
    """The fields of `run.json`, the files that it has hashes of, and what was accepted as it is."""
    verdict.faults += integrity.faults(record.info, record.path)
    verdict.notes += integrity.edits(record.info, record.path)
    if not integrity.is_hashed(record.info):
        verdict.notes.append("written by an older version: run.json and config.yaml not hashed")
    for each in record.info.get("accepted", []):
        if isinstance(each, dict):
            verdict.notes.append(f"accepted on {str(each.get('time'))[:10]}: {_listed(each)}")
    for patch in _patches(record):
        file, expected = str(patch.get("file")), patch.get("sha256")
        try:
            if not fnmatchcase(file, PATCH.name) or Path(file).name != file:
                raise FileNotFoundError
            found = sha256_file(record.path / file, PATCH)
        except (FileNotFoundError, ValueError):  # the latter of a name that no file can have
            found = "no such file"
        except RequestError as error:
            verdict.faults += _said(error, record.path)
            continue
        if found != expected:
            verdict.faults.append(f"{file} is {found[:12]}, run.json says {str(expected)[:12]}")


def _listed(accepted: dict[str, Any]) -> str:
    changed = accepted.get("changed")
    return ", ".join(map(str, changed)) if isinstance(changed, list) else str(changed)


def _patches(record: Record) -> Iterator[dict[str, Any]]:
    """What each start says of the patches that it wrote, each file once."""
    seen = set()
    for start in record.info.get("starts", []):
        for patch in start.get("patches", []) if isinstance(start, dict) else []:
            if isinstance(patch, dict) and patch.get("file") not in seen:
                seen.add(patch.get("file"))
                yield patch


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
            break  # with another signature the group is another one, too
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
    told = told or list(_gap_faults(record))
    return told or (list(_result_faults(record)) if ended else [])


def _gap_faults(record: Record) -> Iterator[str]:
    """The first row that is missing: up to the last one, and of a finished run to its end."""
    steps = [row["step"] for row in rows(record.metrics.path)]
    last = steps[-1] if steps else 0
    ended = record.info.get("status") == "finished"
    reached = max(last, record.info.get("step", 0)) if ended else last
    if (missing := missing_row(record.info, steps, reached)) is not None:
        yield f"metrics.jsonl: the row of step {missing} is missing"


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
    if fault := integrity.file_fault(record.info, record.path, integrity.METRICS):
        yield fault.text
    best = dict(record.info.get("best") or {})
    last: dict[str, Any] = {}
    of_best: dict[str, Any] = {}
    for last in rows(record.path / "metrics.jsonl"):
        if last["step"] == best.get("step"):
            of_best = last
    results = [("final", record.info.get("final") or {}, last), ("best", best, of_best)]
    for name, stated, row in results:
        for key, value in stated.items():
            of_row = str(stated.get("metric")) if name == "best" and key == "value" else key
            if of_row in row and row[of_row] != value:
                yield f"run.json has {name} {key} {value}, metrics.jsonl {row[of_row]}"
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
            manifest = verify_checkpoint(folder)
        except RequestError as error:
            verdict.faults += _said(error, record.path)
            continue
        rows = manifest.get("metrics") if folder == there[-1][1] and not done else None
        if rows is not None and not record.metrics.begins_with(rows):
            told = f"metrics.jsonl does not begin with the rows of checkpoints/{folder.name}"
            verdict.faults.append(told)
        name = integrity.manifest_name(folder)
        if done and integrity.is_hashed(record.info) and name not in record.info["sha256"]:
            verdict.notes.append(f"checkpoints/{folder.name}: not hashed in run.json")
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
