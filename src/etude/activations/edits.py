"""Replaces the values at a model's sites while it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from etude.activations.attaching import attached
from etude.activations.capture import Index
from etude.activations.names import Site, find_sites
from etude.counts import counted
from etude.errors import Problem, RequestError

Change = Callable[[Tensor, Site], Tensor]
"""Function of a value and its site, which returns the new value."""


class Edit:
    """Change of the values at sites; the functions of this module return edits.

    Args:
        change: function of a value and its site, which returns the new value.
        name: text that describes the edit.
    """

    def __init__(self, change: Change, name: str) -> None:
        self.change, self.name = change, name

    def at_site(self, site: Site) -> Callable[[Tensor], Tensor]:
        """Returns the edit as a function of the value alone."""
        return lambda value: self.change(value, site)

    def __repr__(self) -> str:
        return self.name


def replace(model: nn.Module, changes: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Returns a context manager in which a model computes with other values at some of its sites.

    Contexts can be nested: each change receives the value that the outer ones returned. A capture
    that is entered inside of the context sees the new values.

    Example:
        with replace(model, {"blocks.3.attention.mixed": heads([1], zero)}):
            model(ids)

    Args:
        model: the model.
        changes: dict from names or patterns of sites to changes: an edit of this module, a function
            that maps the value to the new value, or a tensor or number that replaces it.

    Raises:
        RequestError: there is no such site; or, in the forward pass, a change returns another
            shape.
    """
    handlers: dict[Site, Any] = {}
    for pattern, change in changes.items():
        for site in find_sites(model, [pattern]):
            earlier = handlers.get(site)
            handlers[site] = _Replacement(site, change, earlier)
    return attached(model, handlers)


class _Replacement:
    replaces = True

    def __init__(self, site: Site, change: Any, earlier: _Replacement | None) -> None:
        self.site, self.earlier = site, earlier
        self.function = _function_of(change, site)

    def __call__(self, value: Tensor) -> Tensor:
        if self.earlier is not None:
            value = self.earlier(value)
        new = self.function(value)
        if not isinstance(new, Tensor) or new.shape != value.shape:
            shape = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            expected = f"a change that returns a tensor of shape {tuple(value.shape)}"
            raise RequestError(Problem(self.site.name, expected, shape))
        return new.to(value)


def _function_of(change: Any, site: Site) -> Callable[[Tensor], Tensor]:
    if hasattr(change, "at_site"):
        function: Callable[[Tensor], Tensor] = change.at_site(site)
        return function
    if isinstance(change, Tensor | int | float):
        constant = torch.as_tensor(change)
        return lambda value: _broadcast(site.name, constant.to(value), value)
    if not callable(change):
        expected = "an edit, a function, a tensor or a number"
        raise RequestError(Problem(site.name, expected, type(change).__name__))
    plain: Callable[[Tensor], Tensor] = change
    return plain


def _broadcast(where: str, new: Tensor, value: Tensor) -> Tensor:
    try:
        return new.broadcast_to(value.shape)
    except RuntimeError as error:
        expected = f"a shape that fits {tuple(value.shape)}"
        raise RequestError(Problem(where, expected, tuple(new.shape))) from error


zero = Edit(lambda value, site: torch.zeros_like(value), "zero")
"""Edit that replaces a value by zeros (zero ablation)."""


def _mean(value: Tensor, site: Site) -> Tensor:
    axes = [axis for letter in ("B", "T", "S") if (axis := site.axis(letter)) is not None]
    return value.mean(dim=axes or [0], keepdim=True).expand_as(value)


mean = Edit(_mean, "mean")
"""Edit that replaces a value by its mean over the sequences and positions of the batch (mean
ablation)."""


def from_(captured: Mapping[str, Tensor]) -> Edit:
    """Returns an edit that replaces values by those that were captured at the same sites
    (activation patching).

    Args:
        captured: a `Capture`, or a dict from the names of sites to tensors. A tensor must have the
            shape of the value, or one that can be broadcast to it.

    Raises:
        RequestError: in the forward pass, the site was not captured, or the shapes differ.
    """

    def patch(value: Tensor, site: Site) -> Tensor:
        other = captured.get(site.name)
        if other is None:
            expected = "a site whose values were captured"
            raise RequestError(Problem("from_", expected, site.name))
        return _broadcast(f"captured values of {site.name}", other.to(value), value)

    return Edit(patch, f"from_({type(captured).__name__} of {counted(len(captured), 'site')})")


def add(direction: Tensor, scale: float = 1.0) -> Edit:
    """Returns an edit that adds a multiple of a vector to a value (activation steering).

    Args:
        direction: tensor that can be broadcast to the value, such as (D,) for `blocks.3.out`.
        scale: factor of `direction`.
    """
    name = f"add({_described(direction)}, scale={scale:g})"
    return Edit(lambda value, site: value + scale * direction.to(value), name)


def heads(index: Index, change: Any) -> Edit:
    """Returns an edit that changes only some heads.

    Args:
        index: indices of the heads.
        change: the change of these heads: an edit, a function, a tensor or a number.

    Raises:
        RequestError: in the forward pass, the site has no dimension for heads.
    """
    return _part("H", index, change, "heads")


def positions(index: Index, change: Any) -> Edit:
    """Returns an edit that changes only some tokens.

    Args:
        index: indices of the tokens in the forward pass. In generation with a cache, each pass
            after the first one contains only the newest token.
        change: the change at these tokens: an edit, a function, a tensor or a number.

    Raises:
        RequestError: in the forward pass, the site has no dimension for tokens.
    """
    return _part("T", index, change, "positions")


def _part(letter: str, index: Index, change: Any, name: str) -> Edit:
    """Returns an edit of a part of one dimension.

    The change receives the whole value, so that `from_` and `mean` work as elsewhere, and only the
    part of its result is used.
    """

    def edit(value: Tensor, site: Site) -> Tensor:
        axis = site.axis(letter)
        if axis is None:
            expected = f"a site with a dimension {letter}"
            raise RequestError(Problem(f"{name} of {site.name}", expected, site.letters))
        new = _function_of(change, site)(value)
        chosen = torch.zeros(value.shape[axis], dtype=torch.bool, device=value.device)
        try:
            chosen[index if isinstance(index, int | slice | Tensor) else list(index)] = True
        except IndexError as error:
            expected = f"indices below {value.shape[axis]}"
            raise RequestError(Problem(f"{name} of {site.name}", expected, index)) from error
        shape = [1] * value.ndim
        shape[axis] = -1
        return torch.where(chosen.view(shape), new.to(value), value)

    return Edit(edit, f"{name}({_described(index)}, {_described(change)})")


def _described(value: Any) -> str:
    """Returns a change or an index as a short text."""
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    return getattr(value, "__name__", None) or repr(value)
