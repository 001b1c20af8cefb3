"""`MANIFEST.json` of a checkpoint: hashes of its files, and of `metrics.jsonl` up to its step.

The hashes detect accidents, not forgery: anyone who changes a file can change its hash too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records import opening
from etude.records.files import sha256_file
from etude.records.sealed import read_sealed, write_sealed

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "MANIFEST.json"
FORMAT = 1
_KINDS = {WEIGHTS: opening.WEIGHTS, STATE: opening.STATE}


def write_manifest(folder: Path, step: int, metrics: Mapping[str, Any] | None) -> None:
    """Writes the manifest of a checkpoint, which contains the hashes of the checkpoint's files.

    The hashed files are those of the weights and of the training state.

    Args:
        folder: the checkpoint's folder, with the weights and the training state.
        step: the checkpoint's step.
        metrics: length and hash of `metrics.jsonl`, which `MetricsFile.sync` returned before the
            checkpoint was written; None leaves them out of the manifest.
    """
    hashes = {name: sha256_file(folder / name) for name in (WEIGHTS, STATE)}
    content: dict[str, Any] = {"format": FORMAT, "step": step, "sha256": hashes}
    if metrics is not None:
        content["metrics"] = dict(metrics)
    write_sealed(folder / MANIFEST, content, opening.MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint's manifest.

    Returns:
        A dictionary with the keys `format`, `step`, `sha256` (the hash of each file) and, except in
        older versions, `metrics` (length and hash of `metrics.jsonl`).

    Raises:
        RequestError: the manifest is missing or damaged, has a format of another version, or its
            step differs from the step in the folder's name.
    """
    file = folder / MANIFEST
    manifest = read_sealed(file, opening.MANIFEST, "the checkpoint is damaged")
    if manifest.get("format") != FORMAT:
        hint = "was it written by a newer version of Étude?"
        raise RequestError(Problem(f"{file}: format", f"{FORMAT}", manifest.get("format"), hint))
    match = re.fullmatch(r"step-(\d+)", folder.name)
    step = manifest.get("step")
    if not isinstance(step, int) or (match and step != int(match[1])):
        expected = f"{int(match[1])}, as in the folder's name" if match else "a number"
        raise RequestError(Problem(f"{file}: step", expected, step))
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not all(isinstance(v, str) for v in hashes.values()):
        raise RequestError(
            Problem(f"{file}: sha256", "an object with the hash of each file", hashes)
        )
    if not isinstance(manifest.get("metrics", {}), dict):
        raise RequestError(
            Problem(
                f"{file}: metrics", "an object with the keys bytes and sha256", manifest["metrics"]
            )
        )
    return manifest


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Checks that a checkpoint's files have the hashes in its manifest, and returns the manifest.

    Raises:
        RequestError: a file is missing or has another hash; the message names the first such file.
    """
    manifest = read_manifest(folder)
    for name in (WEIGHTS, STATE):
        file, expected = folder / name, str(manifest["sha256"].get(name))
        try:
            actual = sha256_file(file, _KINDS[name])
        except FileNotFoundError:
            actual = "no such file"
        if actual != expected:
            wanted = f"sha256 {expected[:12]}..., as in {MANIFEST}"
            raise RequestError(Problem(str(file), wanted, actual[:12]))
    return manifest
