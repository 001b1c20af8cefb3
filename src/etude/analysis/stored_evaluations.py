"""Evaluations and predictions in a run folder, which are verified before they are used again.

`evaluations/<name>.json` and `predictions/<name>.json` each contain a hash of their own content and
the hashes of the weights that they were computed with. `evaluations/<name>.json` also contains the
hash of `predictions/<name>.jsonl`. The hashes detect accidents, not forgery. Files of older
versions have no hashes and are used unverified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records import opening
from etude.records.files import sha256_file
from etude.records.manifest import WEIGHTS, read_manifest
from etude.records.opening import Kind, list_names, path_exists
from etude.records.record import Record
from etude.records.sealed import is_sealed, read_sealed, write_sealed

_FOLDERS = EVALUATIONS, PREDICTIONS = "evaluations", "predictions"
LOG = "log.jsonl"
_CHANGED = "the file was changed"
_HINT = "the file was changed; to compute its content again, delete the file"


def write(
    file: Path, content: Mapping[str, Any], weights: Sequence[Path], predictions: Path | None = None
) -> None:
    """Writes an evaluation, or the scores of examples, as a JSON file with hashes.

    The file contains `content`, the hashes of the weights under the key `weights`, the hash of
    `predictions` (if given) under `predictions_sha256`, and a hash of all this.

    Args:
        file: file to write.
        content: JSON object to store.
        weights: folders of the checkpoints that the content was computed with; the hashes of their
            weights are stored.
        predictions: JSON Lines file with the predictions of the evaluation; None if there is no
            such file.
    """
    stored = {**content, "weights": _weight_hashes(weights)}
    if predictions is not None:
        stored["predictions_sha256"] = sha256_file(predictions, opening.PREDICTIONS)
    write_sealed(file, stored, _kind(file))


def read(
    file: Path, weights: Sequence[Path], predictions: Path | None = None
) -> dict[str, Any] | None:
    """Returns the JSON object in a stored file of an evaluation, after verifying its hashes.

    The object still has the keys `weights` and `predictions_sha256` that `write` added. Returns
    None if `file` or `predictions` does not exist, or if `file` was computed with other
    weights.

    Args:
        file: file to read.
        weights: folders of the checkpoints that the content must have been computed with.
        predictions: JSON Lines file with the predictions, which is verified, too; None for an
            object without such a file.

    Raises:
        RequestError: `file` or `predictions` was changed.
    """
    if not path_exists(file) or (predictions is not None and not path_exists(predictions)):
        return None
    content = read_sealed(file, _kind(file), _HINT)
    if content.get("weights", _weight_hashes(weights)) != _weight_hashes(weights):
        return None
    if predictions is not None and (fault := _prediction_fault(content, predictions)):
        raise RequestError(Problem(str(predictions), "the content that was saved", hint=fault))
    return content


def faults_and_notes(record: Record) -> Iterator[tuple[str | None, str | None]]:
    """Yields a pair (fault, note) for each evaluation or prediction file that cannot be trusted.

    One item of the pair is a text, the other is None. A fault describes a damaged or changed file;
    a note describes a file without a hash.
    """
    hashed: set[str] = set()
    try:
        for file in (path for kind in _FOLDERS for path in _files(record, kind, ".json")):
            try:
                content = read_sealed(file, _kind(file), _CHANGED)
                if not is_sealed(file, _kind(file)):
                    yield None, f"{file.parent.name}/{file.name}: no hash, so not verified"
            except RequestError as error:
                yield str(error).replace(f"{record.path}/", ""), None
                hashed.add(f"{file.stem}.jsonl")  # the damaged file may contain its hash
                continue
            if content.get("predictions_sha256"):
                predictions = record.path / PREDICTIONS / f"{file.stem}.jsonl"
                hashed.add(predictions.name)
                if fault := _prediction_fault(content, predictions):
                    yield f"{PREDICTIONS}/{predictions.name}: {fault}", None
        for file in _files(record, PREDICTIONS, ".jsonl"):
            if file.name not in hashed:
                yield None, f"{PREDICTIONS}/{file.name}: no hash, so not verified"
    except RequestError as error:  # not a folder
        yield str(error).replace(f"{record.path}/", ""), None


def _files(record: Record, folder: str, ending: str) -> list[Path]:
    names = list_names(record.path / folder)
    selected = (name for name in names if name.endswith(ending) and not name.startswith("."))
    return [record.path / folder / name for name in selected if name != LOG]


def _kind(file: Path) -> Kind:
    return opening.EVALUATION if file.parent.name == EVALUATIONS else opening.PREDICTIONS


def _prediction_fault(content: Mapping[str, Any], predictions: Path) -> str | None:
    expected = content.get("predictions_sha256")
    if expected is None:  # saved by an older version
        return None
    try:
        actual = sha256_file(predictions, opening.PREDICTIONS)
    except FileNotFoundError:
        return "the file is missing; `etude evaluate` writes it again"
    return None if actual == expected else f"{_HINT} (the sha256 is now {actual[:12]})"


def _weight_hashes(weights: Sequence[Path]) -> list[str]:
    return [str(read_manifest(folder)["sha256"].get(WEIGHTS)) for folder in weights]
