"""Named tensors in files, read one at a time: safetensors, sharded or not, and `torch.save`'s."""

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
EXPECTED = f"{SAFETENSORS}, {SAFETENSORS}{INDEX} with its shards, or {BIN}"
MAPPED = 2**25
"""Bytes read from a file before it is mapped anew: pages once touched count as the process's."""


class Tensors(Protocol):
    """Tensors by name, each read when asked for.

    Attributes:
        where: the file or folder, as messages name it.
    """

    where: Path

    def names(self) -> list[str]:
        """All of them, in the file's order."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one of them, without reading it."""

    def read(self, name: str) -> Tensor:
        """One of them, on the CPU; perhaps a view of the file, so not to be written to."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets go of the files."""


class _FileTensors:
    """The base of the readers below: each tensor is in one of several files.

    A file is opened at the first read from it, and anew after every `MAPPED` bytes.

    Args:
        where: as `Tensors` says.
        files: of each tensor.
        shapes: of each tensor.
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

    Raises:
        RequestError: a file that is no safetensors file, or not all of one.
    """

    def __init__(self, where: Path, files: Iterable[Path]) -> None:
        place, shapes = {}, {}
        for file in files:
            opened = self._open_file(file)
            for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                place[name] = file
                shapes[name] = tuple(opened.get_slice(name).get_shape())
        super().__init__(where, place, shapes)

    @staticmethod
    def _open_file(file: Path) -> Any:
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            expected = f"a whole safetensors file ({error})"
            raise RequestError(Problem(str(file), expected)) from error

    @staticmethod
    def _get_tensor(opened: Any, name: str) -> Tensor:
        tensor: Tensor = opened.get_tensor(name)
        return tensor


class PickledTensors(_FileTensors):
    """Tensors of one or several files of `torch.save`, read with `weights_only=True`: nothing that
    such a file asks for is imported or called.

    Raises:
        RequestError: a file that is not of `torch.save`, not all of one, or that holds more than
            tensors.
    """

    def __init__(self, where: Path, files: Iterable[Path]) -> None:
        place, shapes = {}, {}
        for file in files:
            for name, tensor in self._open_file(file).items():
                place[name] = file
                shapes[name] = tuple(tensor.shape)
        super().__init__(where, place, shapes)

    @staticmethod
    def _open_file(file: Path) -> Any:
        try:
            try:
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the format before torch 1.6 cannot be mapped
                found = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            expected = "a file of tensors alone: what would run code is not unpickled"
            hint = "the same weights as model.safetensors can be read"
            raise RequestError(Problem(str(file), expected, hint=hint)) from error
        except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
            said = str(error).partition("\n")[0]
            raise RequestError(
                Problem(str(file), f"a whole file of torch.save ({said})")
            ) from error
        if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
            kind = type(found).__name__
            raise RequestError(Problem(str(file), "tensors by name, as of state_dict()", kind))
        return found

    @staticmethod
    def _get_tensor(opened: Any, name: str) -> Tensor:
        tensor: Tensor = opened[name]
        return tensor


def open_tensors(source: Path) -> Tensors:
    """The tensors of a folder (safetensors before `torch.save`'s, one file before shards), or of
    one file.

    Raises:
        RequestError: no such file or folder; nothing in it that is known; an index that names a
            file which is not there; see also `SafeTensors` and `PickledTensors`.
    """
    if source.is_dir():
        for name in (SAFETENSORS, SAFETENSORS + INDEX, BIN, BIN + INDEX):
            if (source / name).is_file():
                return open_tensors(source / name)
        names = ", ".join(sorted(file.name for file in source.iterdir())[:8]) or "nothing"
        raise RequestError(Problem(str(source), EXPECTED, hint=f"there is {names}"))
    if not source.is_file():
        raise RequestError(Problem(str(source), "a file or a folder of weights", hint="no such"))
    pickled = BIN.rpartition(".")[2] in source.name.split(".") or source.suffix in (".pt", ".pth")
    files = _shard_paths(source) if source.name.endswith(INDEX) else [source]
    return PickledTensors(source, files) if pickled else SafeTensors(source, files)


def files_named(index: Path) -> list[str]:
    """The names of files that the index of split weights states.

    Raises:
        RequestError: the index is none.
    """
    places = read_object(index).get("weight_map")
    if isinstance(places, dict) and all(isinstance(name, str) for name in places.values()):
        return sorted(set(places.values()))
    expected = "an object with the file of each tensor"
    raise RequestError(Problem(f"{index}, weight_map", expected, places))


def _shard_paths(index: Path) -> list[Path]:
    """The files that an index names, beside it."""
    names = files_named(index)
    strange = [name for name in names if Path(name).name != name]
    missing = [
        name for name in names if name not in strange and not (index.parent / name).is_file()
    ]
    problems = [Problem(str(index), "names of files beside it", name) for name in strange]
    problems += [
        Problem(str(index.parent / name), f"this file, {index.name} names it", hint="no such file")
        for name in missing
    ]
    if problems:
        raise RequestError(problems[:5])
    return [index.parent / name for name in names]
