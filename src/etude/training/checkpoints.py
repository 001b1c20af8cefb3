"""Checkpoints as folders: the weights alone in safetensors, the rest of the state beside them.

`checkpoints/step-00002000/` holds `model.safetensors`, `state.pt` (optimizer, position, sums;
read with `weights_only=True`) and `MANIFEST.json` (the sha256 of both). A folder appears under its
name only when everything in it is on the disk.
"""

from __future__ import annotations

import errno
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from etude.errors import Problem, RequestError
from etude.records import opening
from etude.records.files import remove_folder, whole_folder
from etude.records.manifest import STATE, WEIGHTS, verify, write_manifest

_PREFIX = "model."


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies; names sort by step."""
    return folder / f"step-{step:08d}"


class FolderCheckpointIO(CheckpointIO):
    """How Lightning writes and reads the folders above."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Writes `checkpoint` to the folder `path`, whole or not at all.

        Args:
            storage_options: `metrics`, what `MetricsFile.sync` returned: the rows that are on the
                disk before the checkpoint appears.
        """
        weights = {
            name.removeprefix(_PREFIX): tensor.contiguous()
            for name, tensor in checkpoint["state_dict"].items()
        }
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        try:
            with whole_folder(Path(path)) as folder:
                once, tied = _each_once(weights)
                save_file(once, folder / WEIGHTS, metadata={"format": "pt", **tied})
                torch.save(rest, folder / STATE)
                rows = (storage_options or {}).get("metrics")
                write_manifest(folder, checkpoint["global_step"], rows)
        except Exception as error:
            if not _is_full_disk(error):
                raise
            there = Path(path).parent
            free = shutil.disk_usage(there).free
            needed, left = (f"{size / 2**20:.1f} MiB" for size in (tensor_bytes(checkpoint), free))
            raise OSError(
                errno.ENOSPC,
                f"No space left on device: the checkpoint of step {checkpoint['global_step']} needs"
                f" {needed}, {there} has {left} left; the one before it stands",
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint in the folder `path`, after its hashes were found right.

        Raises:
            RequestError: a file is missing or differs from the manifest.
        """
        folder = Path(path)
        verify(folder)
        with opening.opened(folder / STATE, opening.STATE) as file:
            must_be_stored(file, folder / STATE)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        weights = _read(folder / WEIGHTS)
        state["state_dict"] = {_PREFIX + name: tensor for name, tensor in weights.items()}
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Removes the folder `path`."""
        remove_folder(Path(path))


def tensor_bytes(value: Any) -> int:
    """What the tensors in nested containers take."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def _is_full_disk(error: Exception) -> bool:
    """Whether a file could not be written for want of room; each library says it its own way."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    told = str(error)
    return "No space left" in told or "inline_container" in told or "PytorchStreamWriter" in told


def must_be_stored(file: IO[bytes], path: Path) -> None:
    """Refuses a `state.pt` with compressed parts, which could be far larger than the file.

    Raises:
        RequestError: it has some, or is not the archive that `torch.save` writes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [one for one in archive.infolist() if one.file_size != one.compress_size]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        expected = "an archive that torch.save has written"
        raise RequestError(Problem(str(path), expected, hint=str(error))) from error
    if packed:
        hint = f"{packed[0].filename} is compressed"
        raise RequestError(Problem(str(path), "an archive without compression", hint=hint))
    file.seek(0)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by parameter name, verified."""
    verify(folder)
    return _read(folder / WEIGHTS)


def load_mean(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of several checkpoints' weights by parameter name, each verified; of one, itself.

    As Vaswani et al. 2017, section 6.1, take it of a run's last ones. Sums are in double precision
    and the mean has the weights' type again; what is no floating number is the last one's. Of
    low-rank changes each matrix is averaged.

    Raises:
        RequestError: a checkpoint is damaged.
    """
    *before, last = folders
    found = load_weights(last)
    if not before:
        return found
    sums = {name: x.double() for name, x in found.items() if x.is_floating_point()}
    for folder in before:
        for name, tensor in load_weights(folder).items():
            if name in sums:
                sums[name] += tensor
    means = {name: (total / len(folders)).to(found[name].dtype) for name, total in sums.items()}
    return found | means


_TIED = "same as: "


def _each_once(
    weights: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights without second names of the same ones, and what these stand for."""
    first: dict[tuple[int, int, tuple[int, ...]], str] = {}
    once, tied = {}, {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.nbytes, tuple(tensor.shape))
        if tensor.numel() and key in first:
            tied[_TIED + name] = first[key]
        else:
            first[key] = name
            once[name] = tensor
    return once, tied


def _read(file: Path) -> dict[str, torch.Tensor]:
    """All weights by name, shared ones under each of theirs."""
    with opening.opened(file, opening.WEIGHTS) as held:
        same = f"/dev/fd/{held.fileno()}"  # the library opens paths alone
        weights = load_file(same)
        with safe_open(same, framework="pt") as opened:
            told = opened.metadata() or {}
    for key, name in told.items():
        if key.startswith(_TIED):
            weights[key.removeprefix(_TIED)] = weights[name]
    return weights


def retain(folder: Path, keep: set[int], keep_every: int | None) -> None:
    """Removes checkpoints but those at the steps `keep` and at multiples of `keep_every`."""
    for name in opening.names_in(folder):
        digits = name.removeprefix("step-")
        if not name.startswith("step-") or not digits.isdecimal():  # somebody's copy
            continue
        step = int(digits)
        if step not in keep and not (keep_every and step % keep_every == 0):
            remove_folder(folder / name)
