"""Captures the values at a model's sites while it computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from etude.activations.attaching import attached
from etude.activations.names import Site, find_sites, translate
from etude.counts import counted
from etude.errors import Checks, Problem, RequestError
from etude.markup.fragments import code, display, table, title

Index = int | slice | Sequence[int] | Tensor
"""Indices of a dimension: one (which removes the dimension), a slice, or several."""


class Stopped(BaseException):
    """Raised to skip the rest of a forward pass, after the last site that is captured."""


class Capture(Mapping[str, Tensor]):
    """Captured values by the names of their sites; a context manager, in which they are captured.

    If the model computes a site several times, as in generation, the values are concatenated: along
    the tokens T, or else along the keys S or the sequences. If the values have different numbers of
    keys, shorter rows are filled with 0, and those of `scores` with minus infinity. `pieces`
    returns the values one by one. In beam search, the rows of a later piece can belong to other
    texts than those of an earlier one.

    The values are the model's own tensors, part of the graph of the backward pass, unless they are
    sliced or moved to another device.

    Args:
        model: the model.
        names: names or patterns of sites; see `etude.activations.names.find_sites`.
        at: indices of the tokens to keep (dimension T, or else the keys S); None keeps all.
        heads: indices of the heads to keep (dimension H, or else the key-value heads G); None keeps
            all.
        rows: indices of the sequences to keep (dimension B); None keeps all.
        device: the device on which values are stored; None keeps the device.
        until: name of a site after which the forward pass ends; the model then returns None. It
            must be computed in a call of the model itself, not in generation.

    Raises:
        RequestError: there is no such site, or a site lacks a sliced dimension.
    """

    def __init__(
        self,
        model: nn.Module,
        *names: str,
        at: Index | None = None,
        heads: Index | None = None,
        rows: Index | None = None,
        device: str | torch.device | None = None,
        until: str | None = None,
    ) -> None:
        if not names:
            raise RequestError(Problem("site", "at least one name of a site"))
        self.sites = {site.name: site for site in find_sites(model, names)}
        self.last = None if until is None else find_sites(model, [until])[-1]
        self._model, self._device = model, device
        self._slices = {
            letter: plain_index(index, name)
            for letter, index, name in (("T", at, "at"), ("H", heads, "heads"), ("B", rows, "rows"))
            if index is not None
        }
        self._thread = 0
        checks = Checks()
        for site in self.sites.values():
            for letter in self._slices:
                expected = f"a site with a dimension {letter}, which is sliced"
                letters = site.letters or "unknown"
                checks.that(site.axis(letter) is not None, site.name, letters, expected)
        if checks.problems:
            raise RequestError(checks.problems)
        self._pieces: dict[str, list[Tensor]] = {name: [] for name in self.sites}
        self._stack = ExitStack()

    def __enter__(self) -> Capture:
        self._thread = threading.get_ident()
        for pieces in self._pieces.values():
            pieces.clear()
        handlers: dict[Site, Any] = {site: _Recorder(self, site) for site in self.sites.values()}
        with ExitStack() as stack:
            stack.enter_context(attached(self._model, handlers))
            if self.last is not None:
                stack.enter_context(attached(self._model, {self.last: _Stop()}))
                stack.enter_context(_returning_none(self._model))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if isinstance(error, Stopped):
            expected = "None, because the site is computed outside of a call of the model"
            name = None if self.last is None else self.last.name
            raise RequestError(Problem("until", expected, name)) from None

    def store(self, site: Site, value: Tensor) -> None:
        """Slices and stores a value of a site; those of other threads are not captured."""
        if threading.get_ident() != self._thread:
            return
        stored = value
        # from the last dimension on, as an index of one element removes its dimension
        for letter, index in sorted(
            self._slices.items(), key=lambda item: site.axis(item[0]) or 0, reverse=True
        ):
            axis = site.axis(letter)
            assert axis is not None
            stored = stored[(slice(None),) * axis + (index,)]
        if self._device is not None:
            stored = stored.to(self._device)
        keeps_more = stored.untyped_storage().nbytes() > stored.numel() * stored.element_size()
        if keeps_more and (stored is not value or not stored.requires_grad):
            stored = stored.clone()  # else the whole tensor that it is a part of stays in memory
        self._pieces[site.name].append(stored)

    def pieces(self, name: str) -> list[Tensor]:
        """Returns the values of a site, one for each time that the model computed it.

        Raises:
            RequestError: the site is not captured.
        """
        name = translate(name)
        if name not in self._pieces:
            hint = f"captured: {', '.join(list(self._pieces)[:6])}"
            raise RequestError(Problem("site", "the name of a captured site", name, hint))
        return list(self._pieces[name])

    def __getitem__(self, name: str) -> Tensor:
        pieces = self.pieces(name)
        if not pieces:
            expected = "a site that the model has computed inside the `with` block"
            raise RequestError(Problem("site", expected, name))
        return (
            pieces[0]
            if len(pieces) == 1
            else _join(self.sites[translate(name)], pieces, self._slices)
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and translate(name) in self._pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __repr__(self) -> str:
        shapes = {
            name: [tuple(piece.shape) for piece in pieces] for name, pieces in self._pieces.items()
        }
        lines = [
            f"  {name}  {self.sites[name].letters}  {', '.join(map(str, each)) or 'not computed'}"
            for name, each in shapes.items()
        ]
        return "\n".join([f"Capture of {counted(len(lines), 'site')}", *lines])

    def _repr_html_(self) -> str:
        rows = [
            (
                code(name),
                self.sites[name].letters,
                ", ".join(str(tuple(piece.shape)) for piece in pieces) or "not computed",
                pieces[0].dtype if pieces else "",
                pieces[0].device if pieces else "",
            )
            for name, pieces in self._pieces.items()
        ]
        columns = ("site", "letters", "shapes", "data type", "device")
        return display(title("Capture", f"of {counted(len(rows), 'site')}"), table(columns, rows))


def plain_index(index: Any, name: str) -> Index:
    """Returns an index as an integer, a list of integers or a slice.

    Args:
        index: the index; numbers and arrays of NumPy and torch are converted.
        name: name of the argument, for messages.

    Raises:
        RequestError: it is none of these.
    """
    index = index.tolist() if hasattr(index, "tolist") else index
    items = [index] if isinstance(index, int | slice) else index
    is_list = isinstance(items, Sequence) and not isinstance(items, str)
    if not is_list or not all(isinstance(i, int | slice) and i is not True for i in items):
        raise RequestError(Problem(name, "an integer, a list of integers or a slice", index))
    return index if isinstance(index, int | slice) else list(index)


def capture(model: nn.Module, *names: str, **options: Any) -> Capture:
    """Returns a context manager that captures the values at a model's sites; see `Capture`.

    Example:
        with capture(model, "blocks.*.attention.pattern", at=-1) as seen:
            model(ids)
        seen["blocks.0.attention.pattern"]
    """
    return Capture(model, *names, **options)


class _Recorder:
    replaces = False

    def __init__(self, capture: Capture, site: Site) -> None:
        self.capture, self.site = capture, site

    def __call__(self, value: Tensor) -> Tensor:
        self.capture.store(self.site, value)
        return value


class _Stop:
    replaces = False

    def __call__(self, value: Tensor) -> Tensor:
        raise Stopped


@contextmanager
def _returning_none(model: nn.Module) -> Iterator[None]:
    """Context manager in which a model returns None if `Stopped` ends its forward pass."""
    forward, had = model.forward, "forward" in model.__dict__

    def stopping(*args: Any, **more: Any) -> Any:
        try:
            return forward(*args, **more)
        except Stopped:
            return None

    model.forward = stopping
    try:
        yield
    finally:
        if had:
            model.forward = forward
        else:
            del model.__dict__["forward"]


def _join(site: Site, pieces: list[Tensor], slices: Mapping[str, Index]) -> Tensor:
    """Returns the values of several forward passes as one tensor; see `Capture`."""
    dropped = [site.axis(each) or 0 for each, index in slices.items() if isinstance(index, int)]
    letters = [x for axis, x in enumerate(site.letters.split()) if axis not in dropped]
    has_one_token = isinstance(slices.get("T"), int)
    if "S" in letters and (
        "T" in letters or has_one_token
    ):  # as many keys in each row as in the last
        axis = letters.index("S")
        longest = max(piece.shape[axis] for piece in pieces)
        fill = -torch.inf if site.key == "scores" else 0.0
        pieces = [_padded(piece, axis, longest, fill) for piece in pieces]
    if has_one_token:
        tokens = site.axis("T") or 0
        return torch.stack(pieces, dim=tokens - sum(axis < tokens for axis in dropped))
    axis = next((letters.index(each) for each in ("T", "S", "B") if each in letters), 0)
    return torch.cat(pieces, dim=axis)


def _padded(piece: Tensor, axis: int, size: int, fill: float) -> Tensor:
    shape = list(piece.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([piece, piece.new_full(shape, fill)], dim=axis)
