"""Verification of run folders: checks of everything that can be hashed or recomputed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from etude.analysis import stored_evaluations
from etude.analysis.measures import measure_faults
from etude.config.checks import check
from etude.data.tokenizer import Tokenizer
from etude.errors import Problem, RequestError
from etude.records import integrity
from etude.records.config_file import read_config, to_portable
from etude.records.files import sha256_file
from etude.records.lock import is_held
from etude.records.manifest import verify_checkpoint as verify_checkpoint
from etude.records.metrics_file import iter_lines, iter_rows
from etude.records.missing_rows import missing_row
from etude.records.opening import (
    FOREIGN_FOLDERS,
    METRICS,
    PATCH,
    list_names,
    open_file,
    special_entries,
)
from etude.records.record import Record
from etude.records.signature import group, signature


@dataclass
class Verification:
    """Result of verifying one run folder.

    Attributes:
        folder: the run folder.
        faults: differences from the run as it was saved; empty for a valid run.
        notes: checks that were not possible, with the reason, and harmless edits.
        held: true if the folder was not checked because a process is training the run.
    """

    folder: Path
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held: bool = False

    def __str__(self) -> str:
        if self.held:
            return "not checked, because a process is training this run"
        text = "; ".join(self.faults) if self.faults else "ok"
        return text + (f" ({'; '.join(self.notes)})" if self.notes else "")


def verify(folder: Path, trust: Sequence[str] = ()) -> Verification:
    """Checks every file of a run folder that a result depends on.

    The folder must contain no links or special files. Hashes are checked of each field of
    `run.json`, and of `config.yaml`, `overrides.yaml`, `tokenizer.json`, source patches,
    checkpoints, evaluations, predictions and measures. The signature is recomputed from
    `config.yaml`, and the tokenizer's fingerprint from its file. The steps of `metrics.jsonl` must
    increase without missing rows. For a finished run, the hash of `metrics.jsonl` is checked, and
    it must contain the results in `run.json`. Samples, figures and the log are not checked.

    The checks detect accidents, not forgery. A run of an older version has fewer hashes; the result
    notes the missing hashes.

    Args:
        folder: the run folder.
        trust: modules outside Étude whose classes the run's config may use.

    Returns:
        The faults and notes.
    """
    verdict = Verification(folder)
    if is_held(folder):
        verdict.held = True
        return verdict
    verdict.faults += [_relative_text(problem, folder) for problem in _special_entries(folder)]
    try:
        record = Record.read(folder)
    except RequestError as error:
        verdict.faults += _problem_texts(error, folder)
        return verdict
    done = record.status == "finished"
    _check_hashes(record, verdict)
    _check_signature(record, verdict, trust)
    _check_tokenizer(record, verdict)
    verdict.faults += metrics_faults(record, ended=done)
    _check_checkpoints(record, verdict, done)
    verdict.faults += measure_faults(folder)
    for fault, note in stored_evaluations.faults_and_notes(record):
        verdict.faults += [fault] if fault else []
        verdict.notes += [note] if note else []
    return verdict


def accept(folder: Path, trust: Sequence[str] = ()) -> list[str]:
    """Accepts manual edits of a run folder that no result depends on: their hashes are updated.

    The accepted edits are changes of `tags` and `notes` in `run.json`, and changes of `config.yaml`
    and `tokenizer.json` that preserve the signature of the config and the fingerprint of the
    tokenizer. The calling process must have the lock of the run.

    Args:
        folder: the run folder.
        trust: modules outside Étude whose classes the run's config may use.

    Returns:
        Descriptions of the accepted changes.

    Raises:
        RequestError: an edit changes a result, or would make the run a different run. The error has
            a problem for each of these edits.
    """
    record = Record.read(folder)
    verdict = Verification(folder)
    _check_signature(record, verdict, trust)
    _check_tokenizer(record, verdict)
    expected = "only edits that no result depends on"
    if reasons := [*verdict.faults, *verdict.notes]:
        raise RequestError(Problem(str(folder), expected, hint=reason) for reason in reasons)
    return record.accept()


def _check_hashes(record: Record, verdict: Verification) -> None:
    """Compares files of a run with their hashes in `run.json`, and adds the results to `verdict`.

    A changed file is a fault. A harmless or accepted edit is a note.
    """
    verdict.faults += integrity.describe_changes(record.info, record.path)
    verdict.notes += integrity.edits(record.info, record.path)
    if not integrity.is_hashed(record.info):
        verdict.notes.append(
            "saved by an older version, without hashes of run.json and config.yaml"
        )
    for entry in record.info.get("accepted", []):
        if isinstance(entry, dict):
            verdict.notes.append(
                f"edit accepted on {str(entry.get('time'))[:10]}: {_accepted_text(entry)}"
            )
    for patch in _patches(record):
        file, expected = str(patch.get("file")), patch.get("sha256")
        try:
            if not fnmatchcase(file, PATCH.name) or Path(file).name != file:
                raise FileNotFoundError
            actual = sha256_file(record.path / file, PATCH)
        except (FileNotFoundError, ValueError):  # ValueError: no file can have such a name
            verdict.faults.append(f"{file}: no such file, but run.json has its sha256")
            continue
        except RequestError as error:
            verdict.faults += _problem_texts(error, record.path)
            continue
        if actual != expected:
            verdict.faults.append(
                f"{file}: the sha256 is {actual[:12]}, but run.json has {str(expected)[:12]}"
            )


def _accepted_text(accepted: dict[str, Any]) -> str:
    changed = accepted.get("changed")
    return ", ".join(map(str, changed)) if isinstance(changed, list) else str(changed)


def _patches(record: Record) -> Iterator[dict[str, Any]]:
    """Yields the entry in `run.json` of each patch file (a file of uncommitted source changes)."""
    seen = set()
    for start in record.info.get("starts", []):
        for patch in start.get("patches", []) if isinstance(start, dict) else []:
            if isinstance(patch, dict) and patch.get("file") not in seen:
                seen.add(patch.get("file"))
                yield patch


def _check_signature(record: Record, verdict: Verification, trust: Sequence[str]) -> None:
    stated = record.info.get("signature")
    try:
        config = read_config(record.path / "config.yaml")
        foreign = [name for name in config.extensions if name not in trust]
        if foreign:
            names = " ".join(foreign)
            verdict.notes.append(
                f"the signature was not recomputed; to recompute it, add --trust {names}"
            )
            return
        identity = check(to_portable(config), trust=list(trust)).identity
    except RequestError as error:
        verdict.faults += _problem_texts(error, record.path)
        return
    for key, expected in (("signature", signature(identity)), ("group", group(identity))):
        if (recorded := record.info.get(key)) != expected:
            actual = str(recorded)[:12]
            verdict.faults.append(
                f"the {key} of config.yaml is {expected[:12]}, but run.json has {actual}"
            )
            break  # a different signature implies a different group
    if stated and record.info.get("seed") != config.seed:
        seed = record.info.get("seed")
        verdict.faults.append(f"the seed in config.yaml is {config.seed}, but run.json has {seed}")


def _check_tokenizer(record: Record, verdict: Verification) -> None:
    stated = record.info.get("tokenizer", {}).get("fingerprint")
    try:
        actual = Tokenizer.load(record.path / "tokenizer.json", links=False).fingerprint
    except RequestError as error:
        verdict.faults += _problem_texts(error, record.path)
        return
    if actual != stated:
        verdict.faults.append(
            f"the fingerprint of tokenizer.json is {actual[:12]}, but run.json has "
            f"{str(stated)[:12]}"
        )


def metrics_faults(record: Record, *, ended: bool) -> list[str]:
    """Returns a message for each fault of a run's `metrics.jsonl`.

    Args:
        record: the run to check.
        ended: whether the run is finished, so that the file must be complete and match `run.json`.
    """
    faults = list(_row_faults(record.path / "metrics.jsonl", must_be_whole=ended))
    faults = faults or list(_gap_faults(record))
    return faults or (list(_result_faults(record)) if ended else [])


def _gap_faults(record: Record) -> Iterator[str]:
    """Yields a message about the first row that is missing in `metrics.jsonl`, if there is one.

    Rows are expected up to the last row in the file or, for a finished run, up to the run's last
    step. The steps that have rows follow from `run.json`; if it does not determine them, there is
    no message.
    """
    steps = [row["step"] for row in iter_rows(record.metrics.path)]
    last = steps[-1] if steps else 0
    ended = record.info.get("status") == "finished"
    reached = max(last, record.info.get("step", 0)) if ended else last
    if (missing := missing_row(record.info, steps, reached)) is not None:
        yield f"metrics.jsonl: the row of step {missing} is missing"


def _row_faults(path: Path, *, must_be_whole: bool) -> Iterator[str]:
    """Yields a message about the first invalid line of the metrics file `path`, if there is one.

    A line is invalid if it is no JSON object with a step number, or if the step does not increase.

    Args:
        must_be_whole: whether a missing file and an incomplete last line are faults, too.
    """
    try:
        with open_file(path, METRICS) as file:
            yield from _line_faults(iter_lines(file), must_be_whole=must_be_whole)
    except FileNotFoundError as error:
        if must_be_whole:
            yield f"metrics.jsonl: {error.strerror}"
    except RequestError as error:
        yield from _problem_texts(error, path.parent)


def _line_faults(lines_read: Iterable[bytes], *, must_be_whole: bool) -> Iterator[str]:
    before: float | None = None
    for number, line in enumerate(lines_read, start=1):
        if not line.endswith(b"\n"):
            if must_be_whole:
                yield f"metrics.jsonl, line {number}: the line is truncated"
            return
        step = _step_of(line)
        if step is None:
            yield f"metrics.jsonl, line {number}: expected a JSON object with a step number"
            return
        if before is not None and step <= before:
            yield (
                f"metrics.jsonl, line {number}: step {step} follows step {before}, but steps must "
                "increase"
            )
            return
        before = step


def _result_faults(record: Record) -> Iterator[str]:
    """Yields a message if `metrics.jsonl` of a finished run was changed or contradicts `run.json`.

    Only the first difference from the results in `run.json` is reported.
    """
    if fault := integrity.file_fault(record.info, record.path, integrity.METRICS):
        yield fault.text
    best = dict(record.info.get("best") or {})
    last: dict[str, Any] = {}
    best_row: dict[str, Any] = {}
    for last in iter_rows(record.path / "metrics.jsonl"):
        if last["step"] == best.get("step"):
            best_row = last
    results = [("final", record.info.get("final") or {}, last), ("best", best, best_row)]
    for name, stated, row in results:
        for key, value in stated.items():
            metric = str(stated.get("metric")) if name == "best" and key == "value" else key
            if metric in row and row[metric] != value:
                yield f"{name} {key}: run.json has {value}, but metrics.jsonl has {row[metric]}"
                return


def _step_of(line: bytes) -> int | None:
    try:
        row: Any = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _check_checkpoints(record: Record, verdict: Verification, done: bool) -> None:
    try:
        checkpoints = record.checkpoints()
    except RequestError as error:
        verdict.faults += _problem_texts(error, record.path)
        return
    for _, folder in checkpoints:
        try:
            manifest = verify_checkpoint(folder)
        except RequestError as error:
            verdict.faults += _problem_texts(error, record.path)
            continue
        rows = manifest.get("metrics") if folder == checkpoints[-1][1] and not done else None
        if rows is not None and not record.metrics.starts_with(rows):
            fault = "metrics.jsonl does not begin with the rows that were written before "
            fault += f"checkpoints/{folder.name}"
            verdict.faults.append(fault)
        name = integrity.manifest_name(folder)
        if done and integrity.is_hashed(record.info) and name not in record.info["sha256"]:
            verdict.notes.append(f"checkpoints/{folder.name}: no hash in run.json, so not verified")
    complete = {folder.name for _, folder in checkpoints}
    for name in list_names(record.path / "checkpoints"):
        if name.startswith("step-") and name not in complete:
            verdict.faults.append(f"checkpoints/{name}: MANIFEST.json is missing")
    if done:
        try:
            record.checkpoint("best")
        except RequestError as error:
            verdict.faults.append(f"the best checkpoint is missing ({error.problems[0].hint})")


def _problem_texts(error: RequestError, folder: Path) -> list[str]:
    """Returns the text of each problem of `error`, with paths relative to the run folder."""
    return [_relative_text(problem, folder) for problem in error.problems]


def _relative_text(problem: Problem, folder: Path) -> str:
    return str(problem).replace(f"{folder}/", "")


def _special_entries(folder: Path) -> list[Problem]:
    """Returns a problem for each link or special file (such as a pipe) in a run folder, at most 8.

    If a folder inside the run folder cannot be read, the only problem is that this folder is
    unreadable.
    """
    try:
        return list(islice(special_entries(folder, apart=FOREIGN_FOLDERS), 8))
    except OSError as error:
        expected = "a readable folder"
        return [Problem(str(error.filename), expected, hint=error.strerror)]
