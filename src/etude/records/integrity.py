"""Integrity checks of saved runs, by hashes of their files.

The field `sha256` of `run.json` is a dictionary from the paths of files to their hashes. The
dictionary contains the files that results depend on. Its value for the key `run.json` is a
dictionary from the names of all other fields of `run.json` to short hashes. For a checkpoint, the
hashed file is its manifest, which contains the hashes of the checkpoint's files. The hash of a
finished run's `metrics.jsonl` is in the field `metrics_sha256`, the hashes of source patches are in
the field `starts`, and evaluations contain their own hashes (see `sealed`). Samples, figures and
logs are not hashed, because no result depends on them.

The hashes detect accidents: damage, files of another run, values edited by hand. They do not
protect against forgery, as anyone can recompute them. Runs of older versions have no hashes; they
can be loaded nevertheless, and `etude runs verify` reports that they are not hashed.
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
"""Key, in the field `sha256`, of the hashes of fields.

The hash of the field `sha256` itself covers the hashes of all files.
"""
CONFIG, OVERRIDES, TOKENIZER = IMMUTABLE_FILES = ("config.yaml", "overrides.yaml", "tokenizer.json")
METRICS = "metrics.jsonl"
ANNOTATIONS = ("tags", "notes")
"""Fields that no result depends on: edits are reported, but the run can be used."""
_CHECKPOINTS = "checkpoints/"
_MANIFEST = re.compile(rf"{_CHECKPOINTS}step-(\d+)/{re.escape(MANIFEST)}")
_KINDS = {kind.name: kind for kind in (opening.CONFIG, opening.OVERRIDES, opening.TOKENIZER)}
_DIGITS = 12


@dataclass(frozen=True)
class FileFault:
    """Fault of a file of a run: the file is missing, unreadable or changed.

    Attributes:
        text: description of the fault, with the file's name.
        readable: whether the file can be read; if so, its content was changed.
    """

    text: str
    readable: bool = False


def is_hashed(info: Mapping[str, Any]) -> bool:
    """Returns whether `run.json` contains hashes; runs of older versions have none."""
    return isinstance(info.get(HASHES), dict)


def manifest_name(checkpoint: Path) -> str:
    """Returns the path of a checkpoint's manifest, relative to the run's folder.

    The manifest is a file with the hashes of the checkpoint's files. `checkpoint` is the
    checkpoint's folder.
    """
    return f"{_CHECKPOINTS}{checkpoint.name}/{MANIFEST}"


def hash_fields(info: dict[str, Any], keys: Iterable[str]) -> None:
    """Updates the hashes of fields of `run.json` that Étude has changed or removed.

    The hashes of all other fields stay unchanged, so that a manual edit of another field can be
    detected. If `info` contains no hashes, only those of `keys` are added.

    Args:
        info: content of `run.json`; changed in place.
        keys: names of the changed or removed fields.
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
    """Hashes files of a run, and stores the hashes in the content of `run.json`.

    Args:
        info: content of `run.json`; changed in place.
        folder: the run's folder.
        names: paths of the files, relative to the run's folder.

    Raises:
        FileNotFoundError: a file is missing.
    """
    if not is_hashed(info):  # an older version: hash all current fields
        hash_fields(info, list(info))
    for name in names:
        info[HASHES][name] = _sha256(folder, name)
    hash_fields(info, ())


def delete_checkpoint_hashes(info: dict[str, Any], folder: Path, after: int | None = None) -> None:
    """Deletes the hashes of checkpoints that no longer exist.

    Args:
        info: content of `run.json`; changed in place.
        folder: the run's folder.
        after: if given, the hashes of all checkpoints after this step are deleted too, because
            the continued run saves these checkpoints again.
    """
    for name in list(_file_hashes(info)):
        if match := _MANIFEST.fullmatch(name):
            late = after is not None and int(match[1]) > after
            if late or not opening.path_exists(folder / name):
                del info[HASHES][name]
    hash_fields(info, ())


def accept(info: dict[str, Any], folder: Path) -> list[str]:
    """Accepts manual edits of a run: updates the hashes to the current content.

    Only edits of the fields `tags` and `notes`, and of the files `config.yaml` and
    `tokenizer.json`, are accepted; the caller checks that both files still belong to the run. Edits
    of the other fields of `run.json`, which are results, and of `overrides.yaml`, which contains
    the run's overrides, are refused. The hashes of metrics and checkpoints are never updated.

    Args:
        info: content of `run.json`; changed in place.
        folder: the run's folder.

    Returns:
        The accepted edits: `run.json: <field>` for a field, and the name of a file. If the run had
        no hashes, its current content is hashed, and the names of the hashed files are returned:
        `run.json` and those of `config.yaml`, `overrides.yaml` and `tokenizer.json` that exist.

    Raises:
        RequestError: another field or `overrides.yaml` was changed; then no hash is updated.
    """
    if not is_hashed(info):
        names = [name for name in IMMUTABLE_FILES if opening.path_exists(folder / name)]
        hash_files(info, folder, names)
        return [RUN_FILE, *names]
    fields = changed_fields(info)
    wrong = [_field_problem(info, folder, key) for key in fields if key not in ANNOTATIONS]
    if fault := file_fault(info, folder, OVERRIDES):
        expected = "the overrides with which the run was first started"
        wrong.append(Problem(str(folder / OVERRIDES), expected, hint=fault.text))
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
    """Returns the names of the fields of `run.json` that differ from their hashes.

    Fields that were added or removed are included. The list is empty if `run.json` contains no
    hashes.
    """
    if not is_hashed(info):
        return []
    fields = info[HASHES].get(RUN_FILE)
    if not isinstance(fields, dict):
        return [HASHES]
    now = {key: digest(value)[:_DIGITS] for key, value in info.items() if key != HASHES}
    now[HASHES] = digest(_file_hashes(info))[:_DIGITS]
    return [key for key in {**now, **fields} if now.get(key) != fields.get(key)]


def file_fault(info: Mapping[str, Any], folder: Path, name: str) -> FileFault | None:
    """Returns the fault of a file of a run; None if the file is unchanged or has no hash.

    Args:
        info: content of `run.json`.
        folder: the run's folder.
        name: path of the file, relative to the run's folder.
    """
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
    found, saved = actual[:12], str(expected)[:12]
    text = f"{name} was changed: its sha256 is {found}..., but run.json contains {saved}..."
    return FileFault(text, readable=True)


def change_problems(
    info: Mapping[str, Any], folder: Path, names: Iterable[str]
) -> Iterator[Problem]:
    """Yields a problem for each changed field of `run.json`, and each changed file among `names`.

    The fields `tags` and `notes` are not checked, nor are files without a hash.

    Args:
        info: content of `run.json`.
        folder: the run's folder.
        names: paths of the files, relative to the run's folder.
    """
    for key in changed_fields(info):
        if key not in ANNOTATIONS:
            yield _field_problem(info, folder, key)
    for name in names:
        if fault := file_fault(info, folder, name):
            hint = fault.text
            if name in (CONFIG, TOKENIZER) and fault.readable:
                accept = accept_command(folder)
                hint += f"; restore the file, or run {accept} if no result depends on the edit"
            yield Problem(str(folder / name), "the file exactly as training saved it", hint=hint)


def _field_problem(info: Mapping[str, Any], folder: Path, key: str) -> Problem:
    """Returns the problem to report if a field of `run.json`, on which results depend, was changed.

    Args:
        info: the content of `run.json`.
        folder: the run's folder.
        key: the name of the field.
    """
    value = info.get(key, "(removed)")
    if isinstance(value, dict | list):  # its shortened text would not show the change
        value = "(changed)"
    hint = f"the field was edited; restore it, or remove the run with `etude runs rm {folder}`"
    return Problem(f"{folder / RUN_FILE}: {key}", "the value recorded during training", value, hint)


def accept_command(folder: Path) -> str:
    """Returns the shell command that accepts manual edits of the run in `folder`."""
    return f"`etude runs verify {folder} --accept`"


def edits(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields a message for each of the fields `tags` and `notes` that was edited by hand.

    `info` is the content of `run.json`, and `folder` is the run's folder.
    """
    for key in changed_fields(info):
        if key in ANNOTATIONS:
            command = accept_command(folder)
            yield f"run.json: {key} was edited after training (to accept the edit, run {command})"


def describe_changes(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields a message for each field of `run.json` and each file that differs from its hash.

    There are no messages for the fields `tags` and `notes`, for `metrics.jsonl`, and for removed
    checkpoints.
    """
    for key in changed_fields(info):
        if key not in ANNOTATIONS:
            yield f"run.json: field {key} was changed after training"
    for name in _file_hashes(info):
        is_expected = not _MANIFEST.fullmatch(name) or opening.path_exists(folder / name)
        if is_expected and (fault := file_fault(info, folder, name)):
            yield fault.text


def _sha256(folder: Path, name: str) -> str:
    """Returns the sha256 of the file `name` in the run's folder `folder`.

    Only known files of runs are read, because the names come from a `run.json` that anyone may have
    written.

    Raises:
        FileNotFoundError: the file does not exist.
        RequestError: Étude hashes no file of this name, or `open_file` rejects the file.
    """
    if name == METRICS:
        return sha256_file(folder / name, opening.METRICS)
    kind = opening.MANIFEST if _MANIFEST.fullmatch(name) else _KINDS.get(name)
    if kind is None:
        names = ", ".join(IMMUTABLE_FILES)
        expected = f"one of the keys {names}, or the path of a checkpoint's {MANIFEST}"
        raise RequestError(Problem(f"{RUN_FILE}: {HASHES}", expected, name))
    return sha256_file(folder / name, kind)


def _file_hashes(info: Mapping[str, Any]) -> dict[str, Any]:
    hashes = info.get(HASHES)
    if not isinstance(hashes, dict):
        return {}
    return {name: value for name, value in hashes.items() if name != RUN_FILE}
