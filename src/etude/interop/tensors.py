"""Readers of named tensors: safetensors and `torch.save` files, in one file or in shards."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from etude.errors import Problem, RequestError
from etude.interop.json_file import read_object

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
EXPECTED = f"a folder with {SAFETENSORS}, {SAFETENSORS}{INDEX} and its shards, or {BIN}"
MAPPED = 2**25
"""Number of bytes to read from a file before the file is mapped again.

Mapping a file again releases the memory of the pages that were read.
"""


class Tensors(Protocol):
    """Interface of the classes that read single tensors by name.

    Attributes:
        where: the file or folder.
    """

    where: Path

    def names(self) -> list[str]:
        """Returns the names of all tensors, in the file's order."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading the tensor."""

    def read(self, name: str) -> Tensor:
        """Reads a tensor to the CPU.

        The tensor may be a view of the file and must not be modified.
        """

    def __enter__(self) -> Self:
        """Returns the reader."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""


class _FileTensors:
    """Base class of readers whose tensors are in one or several files.

    One file at a time is open: that of the last tensor read. After more than `MAPPED` bytes (32
    MiB), the file is opened again. This frees the memory of the bytes that were read.

    Args:
        where: the file or folder.
        files: dict from each tensor's name to its file.
        shapes: dict from each tensor's name to its shape.
    """

    def __init__(
        self, where: Path, files: dict[str, Path], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        self.where = where
        self._files, self._shapes = files, shapes
        self._open: tuple[Path, Any] | None = None
        self._read = 0

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        file = self._files[name]
        if self._open is None or self._open[0] != file or self._read > MAPPED:
            self._open, self._read = None, 0
            self._open = (file, self._open_file(file))
        tensor = self._get_tensor(self._open[1], name)
        self._read += tensor.nbytes
        return tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = None

    @staticmethod
    def _open_file(file: Path) -> Any:
        raise NotImplementedError

    @staticmethod
    def _get_tensor(opened: Any, name: str) -> Tensor:
        raise NotImplementedError


class SafeTensors(_FileTensors):
    """Tensors of one or several safetensors files.

    Args:
        where: the file, or the index of shards, for messages.
        files: the files that contain the tensors.

    Raises:
        RequestError: a file is not a safetensors file, or is incomplete.
    """

    def __init__(self, where: Path, files: Iterable[Path]) -> None:
        file_of, shapes = {}, {}
        for file in files:
            opened = self._open_file(file)
            for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                file_of[name] = file
                shapes[name] = tuple(opened.get_slice(name).get_shape())
        super().__init__(where, file_of, shapes)

    @staticmethod
    def _open_file(file: Path) -> Any:
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            expected, hint = "a complete safetensors file", str(error)
            raise RequestError(Problem(str(file), expected, hint=hint)) from error

    @staticmethod
    def _get_tensor(opened: Any, name: str) -> Tensor:
        tensor: Tensor = opened.get_tensor(name)
        return tensor


class PickledTensors(_FileTensors):
    """Tensors of one or several `torch.save` files, read with `weights_only=True`.

    No code from the files is imported or called.

    Args:
        where: the file, or the index of shards, for messages.
        files: the files that contain the tensors.

    Raises:
        RequestError: a file is not a `torch.save` file, is incomplete, or contains objects other
            than tensors.
    """

    def __init__(self, where: Path, files: Iterable[Path]) -> None:
        file_of, shapes = {}, {}
        for file in files:
            for name, tensor in self._open_file(file).items():
                file_of[name] = file
                shapes[name] = tuple(tensor.shape)
        super().__init__(where, file_of, shapes)

    @staticmethod
    def _open_file(file: Path) -> Any:
        try:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the format before torch 1.6 cannot be mapped
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            expected = "a file that contains only tensors"
            hint = "unpickling other objects could run code; use model.safetensors"
            raise RequestError(Problem(str(file), expected, hint=hint)) from error
        except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
            expected, hint = "a complete torch.save file", str(error).partition("\n")[0]
            raise RequestError(Problem(str(file), expected, hint=hint)) from error
        is_state = isinstance(content, dict)
        if not is_state or not all(isinstance(x, Tensor) for x in content.values()):
            kind = type(content).__name__
            expected = "a dict of tensors by name, such as a state_dict()"
            raise RequestError(Problem(str(file), expected, kind))
        return content

    @staticmethod
    def _get_tensor(opened: Any, name: str) -> Tensor:
        tensor: Tensor = opened[name]
        return tensor


def open_tensors(source: Path) -> Tensors:
    """Returns a reader of the tensors in a folder or in one file.

    In a folder, safetensors take precedence over `torch.save` files, and one file over shards.

    Raises:
        RequestError: the file or folder is missing; the folder has no weights; an index of shards
            names a missing file; see also `SafeTensors` and `PickledTensors`.
    """
    if source.is_dir():
        for name in (SAFETENSORS, SAFETENSORS + INDEX, BIN, BIN + INDEX):
            if (source / name).is_file():
                return open_tensors(source / name)
        names = ", ".join(sorted(file.name for file in source.iterdir())[:8]) or "nothing"
        raise RequestError(Problem(str(source), EXPECTED, hint=f"the folder contains {names}"))
    if not source.is_file():
        expected = "a file or a folder of weights"
        raise RequestError(Problem(str(source), expected, hint="no such path"))
    pickled = BIN.rpartition(".")[2] in source.name.split(".") or source.suffix in (".pt", ".pth")
    files = _shard_paths(source) if source.name.endswith(INDEX) else [source]
    return PickledTensors(source, files) if pickled else SafeTensors(source, files)


def files_named(index: Path) -> list[str]:
    """Returns the names of the files in the index of sharded weights, each once, sorted.

    Raises:
        RequestError: the file is not an index of sharded weights.
    """
    files = read_object(index).get("weight_map")
    if isinstance(files, dict) and all(isinstance(name, str) for name in files.values()):
        return sorted(set(files.values()))
    expected = "an object with a file name for each tensor name"
    raise RequestError(Problem(f"{index}, weight_map", expected, files))


def _shard_paths(index: Path) -> list[Path]:
    """Returns the paths of the weights files that an index of shards names.

    Raises:
        RequestError: a file is missing, or is not in the folder of the index.
    """
    names = files_named(index)
    outside = [name for name in names if Path(name).name != name]
    missing = [
        name for name in names if name not in outside and not (index.parent / name).is_file()
    ]
    problems = [Problem(str(index), "names of files in the same folder", name) for name in outside]
    expected = f"an existing file, since {index.name} names it"
    problems += [
        Problem(str(index.parent / name), expected, hint="no such file") for name in missing
    ]
    if problems:
        raise RequestError(problems[:5])
    return [index.parent / name for name in names]
