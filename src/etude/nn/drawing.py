"""Random numbers from a generator of one's own, or none, whatever the code that draws asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_IN_PLACE = ("normal_", "uniform_", "exponential_", "bernoulli_", "random_", "cauchy_",
             "geometric_", "log_normal_")  # fmt: skip
_NEW = ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal",
        "bernoulli", "multinomial", "poisson")  # fmt: skip
_INIT = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_",
         "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_")  # fmt: skip

DRAWS = frozenset(
    [getattr(torch.Tensor, name) for name in (*_IN_PLACE, "bernoulli", "multinomial")]
    + [getattr(torch, name) for name in _NEW]
    + [getattr(torch.nn.init, name) for name in _INIT]
)
"""Torch's functions that draw random numbers and take a generator."""

_FILLS = frozenset(
    [getattr(torch.Tensor, name) for name in _IN_PLACE]
    + [getattr(torch.nn.init, name) for name in _INIT]
)


class DrawingFrom(TorchFunctionMode):
    """Within, what this thread draws with `DRAWS` on the generator's device is from `generator`.

    Torch's own generator belongs to the whole process: a model that is built to be loaded must not
    draw from it while another thread trains. The numbers are those of torch's own generator with
    the same seed. (A `TorchDispatchMode` would see every operation, but imports torch's compiler.)
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in DRAWS and given.get("generator") is None:
            device = _device(args, given)
            if device.type in (self.generator.device.type, "meta"):
                given["generator"] = self.generator
        return func(*args, **given)


class _Undrawn(TorchFunctionMode):
    """Within, tensors stay as they are where they would be filled with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within, what is built has shapes and no content: torch's meta device, and nothing drawn.

    Drawing on that device would import torch's compiler: seconds, and 70 MB.
    """
    with torch.device("meta"), _Undrawn():
        yield


def _device(args: Any, given: dict[str, Any]) -> torch.device:
    """Where a function draws."""
    tensors = [value for value in (*args, *given.values()) if isinstance(value, torch.Tensor)]
    if tensors:
        return tensors[0].device
    return torch.device(given.get("device") or torch.get_default_device())
