"""Integrity checks of a record: hashes in `run.json`.

`sha256` in `run.json` contains the hash of each file that a result depends on, by its path, and
under `run.json` a short hash of each of its own fields. Checkpoints are hashed through their
manifest, which is one of these files. The metrics of a finished run are hashed in `metrics_sha256`,
source patches in `starts`, and evaluations in their own files (see `sealed`). Samples, figures and
logs are not hashed: no result depends on them.

The hashes detect accidents: damage, files of another run, values edited by hand. They do not
protect against forgery, as anyone can recompute them. Records of older versions have no hashes;
they load as before, and `etude runs verify` reports that they are not hashed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records import opening
from etude.records.files import sha256_file
from etude.records.manifest import MANIFEST
from etude.records.sealed import digest

HASHES = "sha256"
"""Key of the hashes in `run.json`."""
RUN_FILE = "run.json"
"""Key below `HASHES` with a hash of each field, and under `sha256` of the hashes of files."""
CONFIG, OVERRIDES, TOKENIZER = IMMUTABLE_FILES = ("config.yaml", "overrides.yaml", "tokenizer.json")
METRICS = "metrics.jsonl"
ANNOTATIONS = ("tags", "notes")
"""Fields that no result depends on: changes are reported and accepted."""
_CHECKPOINTS = "checkpoints/"
_MANIFEST = re.compile(rf"{_CHECKPOINTS}step-(\d+)/{re.escape(MANIFEST)}")
_KINDS = {kind.name: kind for kind in (opening.CONFIG, opening.OVERRIDES, opening.TOKENIZER)}
_DIGITS = 12


@dataclass(frozen=True)
class FileFault:
    """Fault of a file of a record.

    Attributes:
        text: description of the fault, with the file's name.
        readable: whether the file exists and can be read; then its content differs.
    """

    text: str
    readable: bool = False


def is_hashed(info: Mapping[str, Any]) -> bool:
    """Returns whether a record has hashes; records of older versions have none."""
    return isinstance(info.get(HASHES), dict)


def manifest_name(checkpoint: Path) -> str:
    """Returns the path of a checkpoint's manifest inside its record."""
    return f"{_CHECKPOINTS}{checkpoint.name}/{MANIFEST}"


def hash_fields(info: dict[str, Any], keys: Iterable[str]) -> None:
    """Hashes fields of `run.json` that were changed or removed by the program.

    The hashes of other fields stay, so that manual edits remain detectable.
    """
    hashes = info.setdefault(HASHES, {})
    if not isinstance(hashes.get(RUN_FILE), dict):
        hashes[RUN_FILE] = {}
    fields = hashes[RUN_FILE]
    for key in keys:
        if key in info:
            fields[key] = digest(info[key])[:_DIGITS]
        else:
            fields.pop(key, None)
    fields[HASHES] = digest(_file_hashes(info))[:_DIGITS]


def hash_files(info: dict[str, Any], folder: Path, names: Iterable[str]) -> None:
    """Hashes files of the record in `folder`."""
    if not is_hashed(info):  # an older version: hash all current fields
        hash_fields(info, list(info))
    for name in names:
        info[HASHES][name] = _sha256(folder, name)
    hash_fields(info, ())


def delete_checkpoint_hashes(info: dict[str, Any], folder: Path, after: int | None = None) -> None:
    """Deletes the hashes of checkpoints that no longer exist.

    Args:
        folder: the record's folder.
        after: step after which hashes are deleted too, as these checkpoints are saved again.
    """
    for name in list(_file_hashes(info)):
        if match := _MANIFEST.fullmatch(name):
            late = after is not None and int(match[1]) > after
            if late or not opening.path_exists(folder / name):
                del info[HASHES][name]
    hash_fields(info, ())


def accept(info: dict[str, Any], folder: Path) -> list[str]:
    """Hashes fields and files as they are now.

    Of `run.json`, only tags and notes are accepted: all other fields state results, as
    `overrides.yaml` states the run's command. The caller checks that the files still belong to this
    run. Metrics and checkpoints are never accepted.

    Returns:
        Changed fields and files; everything if the record had no hashes.

    Raises:
        RequestError: for each other field that was changed; no hash is updated then.
    """
    if not is_hashed(info):
        names = [name for name in IMMUTABLE_FILES if opening.path_exists(folder / name)]
        hash_files(info, folder, names)
        return [RUN_FILE, *names]
    fields = changed_fields(info)
    wrong = [_field_problem(info, folder, key) for key in fields if key not in ANNOTATIONS]
    if fault := file_fault(info, folder, OVERRIDES):
        wrong.append(
            Problem(str(folder / OVERRIDES), "the overrides of the first start", hint=fault.text)
        )
    if wrong:
        raise RequestError(wrong)
    names = [
        name
        for name in IMMUTABLE_FILES
        if opening.path_exists(folder / name) and file_fault(info, folder, name)
    ]
    hash_fields(info, fields)
    hash_files(info, folder, names)
    return [*(f"{RUN_FILE}: {key}" for key in fields), *names]


def changed_fields(info: Mapping[str, Any]) -> list[str]:
    """Returns the fields of `run.json` that differ from their hash; none if it has no hashes."""
    if not is_hashed(info):
        return []
    fields = info[HASHES].get(RUN_FILE)
    if not isinstance(fields, dict):
        return [HASHES]
    now = {key: digest(value)[:_DIGITS] for key, value in info.items() if key != HASHES}
    now[HASHES] = digest(_file_hashes(info))[:_DIGITS]
    return [key for key in {**now, **fields} if now.get(key) != fields.get(key)]


def file_fault(info: Mapping[str, Any], folder: Path, name: str) -> FileFault | None:
    """Returns the fault of a file of the record; None if it is unchanged or not hashed."""
    expected = info.get("metrics_sha256") if name == METRICS else _file_hashes(info).get(name)
    if expected is None:
        return None
    try:
        actual = _sha256(folder, name)
    except OSError as error:
        return FileFault(f"{name}: {error.strerror}")
    except RequestError as error:
        return FileFault(str(error).replace(f"{folder}/", ""))
    if actual == expected:
        return None
    text = f"{name} was changed: its sha256 is {actual[:12]}, run.json has {str(expected)[:12]}"
    return FileFault(text, readable=True)


def change_problems(
    info: Mapping[str, Any], folder: Path, names: Iterable[str]
) -> Iterator[Problem]:
    """Yields a problem for each field of `run.json` and each of the files `names` that was changed.

    Tags and notes are not checked.
    """
    for key in changed_fields(info):
        if key not in ANNOTATIONS:
            yield _field_problem(info, folder, key)
    for name in names:
        if fault := file_fault(info, folder, name):
            hint = fault.text
            if name in (CONFIG, TOKENIZER) and fault.readable:
                accept = accept_command(folder)
                hint += f"; restore it, or run {accept} if no result depends on the edit"
            yield Problem(str(folder / name), "the file saved during training", hint=hint)


def _field_problem(info: Mapping[str, Any], folder: Path, key: str) -> Problem:
    """Returns the problem of a changed field of `run.json` that states a result."""
    value = info.get(key, "(removed)")
    if isinstance(value, dict | list):  # its shortened text would not show the change
        value = "(changed)"
    hint = f"it was edited; restore it, or remove the run with `etude runs rm {folder}`"
    return Problem(f"{folder / RUN_FILE}: {key}", "the value recorded during training", value, hint)


def accept_command(folder: Path) -> str:
    """Returns the command that accepts an edit of a record."""
    return f"`etude runs verify {folder} --accept`"


def edits(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields descriptions of manual edits of tags and notes."""
    for key in changed_fields(info):
        if key in ANNOTATIONS:
            command = accept_command(folder)
            yield f"run.json: {key} was edited after training (accept it with {command})"


def describe_changes(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields descriptions of all changes, except in metrics, checkpoints, tags and notes."""
    for key in changed_fields(info):
        if key not in ANNOTATIONS:
            yield f"run.json: field {key} was changed after training"
    for name in _file_hashes(info):
        is_expected = not _MANIFEST.fullmatch(name) or opening.path_exists(folder / name)
        if is_expected and (fault := file_fault(info, folder, name)):
            yield fault.text


def _sha256(folder: Path, name: str) -> str:
    """Returns the hash of a file that a record may contain, for a record from any source.

    Raises:
        FileNotFoundError: there is no such file.
        RequestError: records have no such file, or `opening` rejects it.
    """
    if name == METRICS:
        return sha256_file(folder / name, opening.METRICS)
    kind = opening.MANIFEST if _MANIFEST.fullmatch(name) else _KINDS.get(name)
    if kind is None:
        expected = f"one of {', '.join(IMMUTABLE_FILES)}, or a checkpoint's {MANIFEST}"
        raise RequestError(Problem(f"{RUN_FILE}: {HASHES}", expected, name))
    return sha256_file(folder / name, kind)


def _file_hashes(info: Mapping[str, Any]) -> dict[str, Any]:
    hashes = info.get(HASHES)
    if not isinstance(hashes, dict):
        return {}
    return {name: value for name, value in hashes.items() if name != RUN_FILE}
