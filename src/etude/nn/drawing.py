"""Context managers that replace or skip the random numbers of code that uses torch's global
generator.
"""

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
"""Torch's functions that draw random numbers and accept a generator."""

_FILLS = frozenset(
    [getattr(torch.Tensor, name) for name in _IN_PLACE]
    + [getattr(torch.nn.init, name) for name in _INIT]
)


class DrawingFrom(TorchFunctionMode):
    """Context manager in which the functions in `DRAWS` draw their random numbers from `generator`.

    `DRAWS` contains the functions of torch, of `torch.Tensor` and of `torch.nn.init` that draw
    random numbers and accept a generator. A call with its own `generator` is unchanged. The context
    manager affects only this thread, and only calls that draw on the device of `generator`.

    Torch's global generator is shared by the whole process: loading a model must not draw from it
    while another thread trains. The numbers are those of torch's generator with the same seed. (A
    `TorchDispatchMode` would intercept every operation, but imports torch's compiler.)
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in DRAWS and options.get("generator") is None:
            device = _device(args, options)
            if device.type in (self.generator.device.type, "meta"):
                options["generator"] = self.generator
        return func(*args, **options)


class _SkipRandomFills(TorchFunctionMode):
    """Context manager in which functions that fill a tensor with random numbers leave it
    unchanged.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context manager in which modules are built without values: on torch's meta device, without
    random initialisation.

    Filling a tensor with random numbers on the meta device would import torch's compiler, which
    takes seconds and 70 MB.
    """
    with torch.device("meta"), _SkipRandomFills():
        yield


def _device(args: Any, options: dict[str, Any]) -> torch.device:
    """Returns the device on which a function draws random numbers, given the positional and the
    keyword arguments of the call.
    """
    tensors = [value for value in (*args, *options.values()) if isinstance(value, torch.Tensor)]
    if tensors:
        return tensors[0].device
    return torch.device(options.get("device") or torch.get_default_device())
