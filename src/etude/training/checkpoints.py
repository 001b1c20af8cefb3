"""Checkpoints as folders: weights in safetensors format, and the remaining training state.

`checkpoints/step-00002000/` contains `model.safetensors`, `state.pt` (state of the optimizer, of
Lightning's loops and of the callbacks; loaded with `weights_only=True`) and `MANIFEST.json` (the
sha256 of both). A folder gets its final name only when all its files are on the disk.
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
from etude.records.files import atomic_folder, remove_folder
from etude.records.manifest import STATE, WEIGHTS, verify_checkpoint, write_manifest

_PREFIX = "model."


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the path of the checkpoint that is saved after optimizer step `step`.

    The step in the name has leading zeros, so that sorted names are in the order of the steps.

    Args:
        folder: Folder of all checkpoints of the run.
    """
    return folder / f"step-{step:08d}"


class FolderCheckpointIO(CheckpointIO):
    """Lightning plugin that saves and loads checkpoints as folders."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Saves `checkpoint` to the folder `path`, atomically.

        Args:
            checkpoint: Lightning's checkpoint: a dict with the weights and the training state.
            path: Folder of the checkpoint.
            storage_options: Dict with an optional key `metrics`: the result of `MetricsFile.sync`,
                which describes the rows of metrics that were written to the disk before the
                checkpoint.
        """
        weights = {
            name.removeprefix(_PREFIX): tensor.contiguous()
            for name, tensor in checkpoint["state_dict"].items()
        }
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        try:
            with atomic_folder(Path(path)) as folder:
                unique, tied = _deduplicate(weights)
                save_file(unique, folder / WEIGHTS, metadata={"format": "pt", **tied})
                torch.save(rest, folder / STATE)
                rows = (storage_options or {}).get("metrics")
                write_manifest(folder, checkpoint["global_step"], rows)
        except Exception as error:
            if not _is_full_disk(error):
                raise
            parent = Path(path).parent
            free = shutil.disk_usage(parent).free
            needed, left = (f"{size / 2**20:.1f} MiB" for size in (tensor_bytes(checkpoint), free))
            raise OSError(
                errno.ENOSPC,
                f"No space left on device: the checkpoint of step {checkpoint['global_step']} needs"
                f" {needed}, but {parent} has {left} free; the previous checkpoint is intact",
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verifies the hashes of the checkpoint in the folder `path` and returns Lightning's
        checkpoint.

        Tensors are loaded to the CPU; the other arguments are accepted for Lightning and ignored.

        Raises:
            RequestError: A file is missing or differs from the manifest.
        """
        folder = Path(path)
        verify_checkpoint(folder)
        with opening.open_file(folder / STATE, opening.STATE) as file:
            must_be_stored(file, folder / STATE)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        weights = _read(folder / WEIGHTS)
        state["state_dict"] = {_PREFIX + name: tensor for name, tensor in weights.items()}
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes the checkpoint in the folder `path`."""
        remove_folder(Path(path))


def tensor_bytes(value: Any) -> int:
    """Returns the total size in bytes of all tensors in `value`: nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def _is_full_disk(error: Exception) -> bool:
    """Returns whether an error means that the disk is full; each library raises another error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error)
    return "No space left" in text or "inline_container" in text or "PytorchStreamWriter" in text


def must_be_stored(file: IO[bytes], path: Path) -> None:
    """Checks that a `state.pt` is not compressed, because compressed content could be far larger
    than the file.

    Args:
        file: The open file. After the call, the next read starts at the beginning of the file.
        path: Path of the file, for the error message.

    Raises:
        RequestError: The file is compressed, or is not an archive written by `torch.save`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            compressed = [
                entry for entry in archive.infolist() if entry.file_size != entry.compress_size
            ]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        expected = "an archive written by torch.save"
        raise RequestError(Problem(str(path), expected, hint=str(error))) from error
    if compressed:
        hint = f"{compressed[0].filename} is compressed"
        raise RequestError(Problem(str(path), "an uncompressed archive", hint=hint))
    file.seek(0)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Verifies the hashes of the checkpoint in `folder`, and returns a dict from parameter names to
    weights. A tied weight (one tensor with several names) is in the dict under each of its names.

    Raises:
        RequestError: A file is missing or differs from its hash.
    """
    verify_checkpoint(folder)
    return _read(folder / WEIGHTS)


def load_mean(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Verifies the hashes of several checkpoints, and returns a dict from parameter names to the
    means of their weights.

    Vaswani et al. 2017, section 6.1, average the last checkpoints of a run. Sums are computed in
    double precision, and the mean has the dtype of the weights. Tensors that are not floating-point
    are copied from the last checkpoint. The two matrices of a low-rank adapter are averaged
    separately.

    Raises:
        RequestError: A checkpoint is damaged.
    """
    *before, last = folders
    weights = load_weights(last)
    if not before:
        return weights
    sums = {name: x.double() for name, x in weights.items() if x.is_floating_point()}
    for folder in before:
        for name, tensor in load_weights(folder).items():
            if name in sums:
                sums[name] += tensor
    means = {name: (total / len(folders)).to(weights[name].dtype) for name, total in sums.items()}
    return weights | means


_TIED = "same as: "


def _deduplicate(
    weights: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns the distinct tensors of `weights`, and metadata for tied weights (one tensor with
    several names).

    The first dict contains each tensor under the first of its names. The second dict maps each
    further name, after the prefix `_TIED`, to the tensor's first name.
    """
    first: dict[tuple[int, int, tuple[int, ...]], str] = {}
    unique, tied = {}, {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.nbytes, tuple(tensor.shape))
        if tensor.numel() and key in first:
            tied[_TIED + name] = first[key]
        else:
            first[key] = name
            unique[name] = tensor
    return unique, tied


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Returns a dict from names to all weights of a safetensors file. A tied weight (one tensor
    with several names) is in the dict under each of its names.
    """
    with opening.open_file(file, opening.WEIGHTS) as held:
        descriptor = f"/dev/fd/{held.fileno()}"  # the library opens only paths
        weights = load_file(descriptor)
        with safe_open(descriptor, framework="pt") as opened:
            metadata = opened.metadata() or {}
    for key, name in metadata.items():
        if key.startswith(_TIED):
            weights[key.removeprefix(_TIED)] = weights[name]
    return weights


def retain(folder: Path, keep: set[int], keep_every: int | None) -> None:
    """Deletes the checkpoints in a folder, except those of the steps in `keep` and, if `keep_every`
    is set, those of the steps that are multiples of `keep_every`.
    """
    for name in opening.list_names(folder):
        digits = name.removeprefix("step-")
        if not name.startswith("step-") or not digits.isdecimal():  # not one of Étude's
            continue
        step = int(digits)
        if step not in keep and not (keep_every and step % keep_every == 0):
            remove_folder(folder / name)
