"""Evaluations and predictions that a record keeps: checked before they are used again.

`evaluations/<name>.json` and `predictions/<name>.json` carry the hash of their own content, and the
former that of `predictions/<name>.jsonl`. Both say of which weights they are. This detects
accidents, no forgery; files of older versions have no hashes and are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records import opening
from etude.records.files import sha256_file
from etude.records.manifest import WEIGHTS, read_manifest
from etude.records.opening import Kind, is_there, names_in
from etude.records.record import Record
from etude.records.sealed import is_sealed, read_sealed, write_sealed

_FOLDERS = EVALUATIONS, PREDICTIONS = "evaluations", "predictions"
LOG = "log.jsonl"
_CHANGED = "it was changed since it was written"
_HINT = "it was changed since; remove it and it is made again"


def write(
    file: Path, content: Mapping[str, Any], weights: Sequence[Path], predictions: Path | None = None
) -> None:
    """Keeps an object.

    Args:
        weights: the checkpoints that it was made with.
        predictions: the file of objects that belongs to it.
    """
    told = {**content, "weights": _of(weights)}
    if predictions is not None:
        told["predictions_sha256"] = sha256_file(predictions, opening.PREDICTIONS)
    write_sealed(file, told, _kind(file))


def read(
    file: Path, weights: Sequence[Path], predictions: Path | None = None
) -> dict[str, Any] | None:
    """What was kept; None if there is nothing, or if it was made with other weights.

    Raises:
        RequestError: it, or its file of predictions, was changed since it was written.
    """
    if not is_there(file) or (predictions is not None and not is_there(predictions)):
        return None
    content = read_sealed(file, _kind(file), _HINT)
    if content.get("weights", _of(weights)) != _of(weights):
        return None
    if predictions is not None and (fault := _prediction_fault(content, predictions)):
        raise RequestError(Problem(str(predictions), "the content that was written", hint=fault))
    return content


def checked(record: Record) -> Iterator[tuple[str | None, str | None]]:
    """Of each file that is kept what is wrong with it, or what is to be noted."""
    kept: set[str] = set()
    try:
        for file in (each for kind in _FOLDERS for each in _files(record, kind, ".json")):
            try:
                content = read_sealed(file, _kind(file), _CHANGED)
                if not is_sealed(file, _kind(file)):
                    yield None, f"{file.parent.name}/{file.name}: not hashed"
            except RequestError as error:
                yield str(error).replace(f"{record.path}/", ""), None
                kept.add(f"{file.stem}.jsonl")  # it may have its hash
                continue
            if content.get("predictions_sha256"):
                predictions = record.path / PREDICTIONS / f"{file.stem}.jsonl"
                kept.add(predictions.name)
                if fault := _prediction_fault(content, predictions):
                    yield f"{PREDICTIONS}/{predictions.name}: {fault}", None
        for file in _files(record, PREDICTIONS, ".jsonl"):
            if file.name not in kept:
                yield None, f"{PREDICTIONS}/{file.name}: not hashed"
    except RequestError as error:  # a folder that is none
        yield str(error).replace(f"{record.path}/", ""), None


def _files(record: Record, folder: str, ending: str) -> list[Path]:
    names = names_in(record.path / folder)
    shown = (name for name in names if name.endswith(ending) and not name.startswith("."))
    return [record.path / folder / name for name in shown if name != LOG]


def _kind(file: Path) -> Kind:
    return opening.EVALUATION if file.parent.name == EVALUATIONS else opening.PREDICTIONS


def _prediction_fault(content: Mapping[str, Any], predictions: Path) -> str | None:
    expected = content.get("predictions_sha256")
    if expected is None:  # of an older version
        return None
    try:
        found = sha256_file(predictions, opening.PREDICTIONS)
    except FileNotFoundError:
        found = "not there"
    return None if found == expected else f"{_HINT} (it is {found[:12]})"


def _of(weights: Sequence[Path]) -> list[str]:
    return [str(read_manifest(folder)["sha256"].get(WEIGHTS)) for folder in weights]
