"""Whether the files of a record are as training wrote them: hashes in `run.json`.

`sha256` in `run.json` holds the hash of each file that a result depends on, by its path, and under
`run.json` a short hash of each of its own fields. Checkpoints are hashed by their manifest, which
is one of these files; the metrics of a finished run by `metrics_sha256`; patches of the source in
`starts`; evaluations by themselves (see `sealed`). Samples, figures and logs are not hashed: no
result depends on them.

This detects accidents: damage, a file of another run, a value edited by hand. It is no protection
against forgery: whoever changes a file can change its hash too. Records of older versions have no
hashes; they load as before, and `etude runs verify` says that they are not hashed.
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
"""The key in `run.json`."""
ITSELF = "run.json"
"""The key below it with a hash of each field, and under `sha256` of the hashes of files."""
CONFIG, OVERRIDES, TOKENIZER = WRITTEN_ONCE = ("config.yaml", "overrides.yaml", "tokenizer.json")
METRICS = "metrics.jsonl"
FOR_PEOPLE = ("tags", "notes")
"""Fields on which nothing depends: a changed one is reported and does no harm."""
_CHECKPOINTS = "checkpoints/"
_MANIFEST = re.compile(rf"{_CHECKPOINTS}step-(\d+)/{re.escape(MANIFEST)}")
_KINDS = {kind.name: kind for kind in (opening.CONFIG, opening.OVERRIDES, opening.TOKENIZER)}
_DIGITS = 12


@dataclass(frozen=True)
class FileFault:
    """What is wrong with a file of a record.

    Attributes:
        text: names the file.
        readable: it is there and can be read; its content differs.
    """

    text: str
    readable: bool = False


def is_hashed(info: Mapping[str, Any]) -> bool:
    """Whether a record has hashes; those of older versions have none."""
    return isinstance(info.get(HASHES), dict)


def manifest_name(checkpoint: Path) -> str:
    """The path in a record of a checkpoint's manifest."""
    return f"{_CHECKPOINTS}{checkpoint.name}/{MANIFEST}"


# -- written by whoever changes a record ------------------------------------------------------


def note_fields(info: dict[str, Any], keys: Iterable[str]) -> None:
    """Hashes fields of `run.json` that were changed, or removed, on purpose.

    The others keep their hashes, so that a change by hand is not covered up.
    """
    hashes = info.setdefault(HASHES, {})
    if not isinstance(hashes.get(ITSELF), dict):
        hashes[ITSELF] = {}
    fields = hashes[ITSELF]
    for key in keys:
        if key in info:
            fields[key] = digest(info[key])[:_DIGITS]
        else:
            fields.pop(key, None)
    fields[HASHES] = digest(_of_files(info))[:_DIGITS]


def note_files(info: dict[str, Any], folder: Path, names: Iterable[str]) -> None:
    """Hashes files of the record in `folder`."""
    if not is_hashed(info):  # of an older version: all that is there counts from now on
        note_fields(info, list(info))
    for name in names:
        info[HASHES][name] = _sha256(folder, name)
    note_fields(info, ())


def forget_checkpoints(info: dict[str, Any], folder: Path, after: int | None = None) -> None:
    """Drops the hashes of checkpoints that are not there any more.

    Args:
        folder: the record's.
        after: also those of later steps than this one, which are written anew.
    """
    for name in list(_of_files(info)):
        if found := _MANIFEST.fullmatch(name):
            late = after is not None and int(found[1]) > after
            if late or not opening.is_there(folder / name):
                del info[HASHES][name]
    note_fields(info, ())


def accept(info: dict[str, Any], folder: Path) -> list[str]:
    """Hashes fields and files as they are now; what was changed, or all where nothing was hashed.

    Of `run.json` only fields for people are accepted: all others state how the run went, as
    `overrides.yaml` states how it was called. Whether the files still are those of this run is for
    the caller to check. Metrics and checkpoints are never accepted.

    Raises:
        RequestError: names each other field that was changed; nothing is hashed then.
    """
    if not is_hashed(info):
        names = [name for name in WRITTEN_ONCE if opening.is_there(folder / name)]
        note_files(info, folder, names)
        return [ITSELF, *names]
    fields = changed_fields(info)
    wrong = [_changed(info, folder, key) for key in fields if key not in FOR_PEOPLE]
    if fault := file_fault(info, folder, OVERRIDES):
        wrong.append(
            Problem(str(folder / OVERRIDES), "what was typed when it began", hint=fault.text)
        )
    if wrong:
        raise RequestError(wrong)
    names = [
        name
        for name in WRITTEN_ONCE
        if opening.is_there(folder / name) and file_fault(info, folder, name)
    ]
    note_fields(info, fields)
    note_files(info, folder, names)
    return [*(f"{ITSELF}: {key}" for key in fields), *names]


# -- asked by whoever reads one ---------------------------------------------------------------


def changed_fields(info: Mapping[str, Any]) -> list[str]:
    """The fields of `run.json` that are not as they were written; none where it is not hashed."""
    if not is_hashed(info):
        return []
    fields = info[HASHES].get(ITSELF)
    if not isinstance(fields, dict):
        return [HASHES]
    now = {key: digest(value)[:_DIGITS] for key, value in info.items() if key != HASHES}
    now[HASHES] = digest(_of_files(info))[:_DIGITS]
    return [key for key in {**now, **fields} if now.get(key) != fields.get(key)]


def file_fault(info: Mapping[str, Any], folder: Path, name: str) -> FileFault | None:
    """What is wrong with a file of the record; None if it is as written, or not hashed."""
    expected = info.get("metrics_sha256") if name == METRICS else _of_files(info).get(name)
    if expected is None:
        return None
    try:
        found = _sha256(folder, name)
    except OSError as error:
        return FileFault(f"{name}: {error.strerror}")
    except RequestError as error:
        return FileFault(str(error).replace(f"{folder}/", ""))
    if found == expected:
        return None
    text = f"{name} was changed: it is {found[:12]}, run.json says {str(expected)[:12]}"
    return FileFault(text, readable=True)


def problems(info: Mapping[str, Any], folder: Path, names: Iterable[str]) -> Iterator[Problem]:
    """What prevents relying on `run.json` and the files `names`, and what to do about it.

    Fields for people alone are left out.
    """
    for key in changed_fields(info):
        if key not in FOR_PEOPLE:
            yield _changed(info, folder, key)
    for name in names:
        if fault := file_fault(info, folder, name):
            hint = fault.text
            if name in (CONFIG, TOKENIZER) and fault.readable:
                hint += f"; restore it, or {accepting(folder)} if no result depends on the edit"
            yield Problem(str(folder / name), "the file that training wrote", hint=hint)


def _changed(info: Mapping[str, Any], folder: Path, key: str) -> Problem:
    """A field of `run.json` that states how the run went."""
    value = info.get(key, "(removed)")
    if isinstance(value, dict | list):  # cut off, it would show anything but the change
        value = "(changed)"
    hint = f"changed since; restore it, or `etude runs rm {folder}` removes the run"
    return Problem(f"{folder / ITSELF}: {key}", "the value that training wrote", value, hint)


def accepting(folder: Path) -> str:
    """What accepts an edit of a record."""
    return f"`etude runs verify {folder} --accept` accepts it"


def edits(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Changes of `run.json` that are the user's own."""
    for key in changed_fields(info):
        if key in FOR_PEOPLE:
            yield f"run.json: {key} was changed by hand ({accepting(folder)})"


def faults(info: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """All that is not as training wrote it, but for metrics, checkpoints and `edits`."""
    for key in changed_fields(info):
        if key not in FOR_PEOPLE:
            yield f"run.json was changed: field {key}"
    for name in _of_files(info):
        there = not _MANIFEST.fullmatch(name) or opening.is_there(folder / name)
        if there and (fault := file_fault(info, folder, name)):
            yield fault.text


def _sha256(folder: Path, name: str) -> str:
    """The hash of a file that a record may name; the record may come from anybody.

    Raises:
        FileNotFoundError: there is no such file.
        RequestError: a record has no such file, or it is none that `opening` opens.
    """
    if name == METRICS:
        return sha256_file(folder / name, opening.METRICS)
    kind = opening.MANIFEST if _MANIFEST.fullmatch(name) else _KINDS.get(name)
    if kind is None:
        expected = f"one of {', '.join(WRITTEN_ONCE)}, or a checkpoint's {MANIFEST}"
        raise RequestError(Problem(f"{ITSELF}: {HASHES}", expected, name))
    return sha256_file(folder / name, kind)


def _of_files(info: Mapping[str, Any]) -> dict[str, Any]:
    hashes = info.get(HASHES)
    if not isinstance(hashes, dict):
        return {}
    return {name: value for name, value in hashes.items() if name != ITSELF}
