"""Attaches functions to the sites of a model for some time, and removes them without a trace."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etude.activations.names import Site
from etude.console import NOTICES
from etude.errors import Problem, RequestError
from etude.nn.sites import Handler, Tap

log = logging.getLogger(NOTICES)


@contextmanager
def attached(model: nn.Module, handlers: dict[Site, Handler]) -> Iterator[None]:
    """Context manager in which each site calls its handler with every value.

    Compiled code is not used meanwhile, and activations are not recomputed in the backward pass.
    On exit, also after an exception, the model is as before.
    """
    with ExitStack() as stack:
        stack.enter_context(_eager(model))
        stack.enter_context(_without_recomputation(model))
        for site, handler in handlers.items():
            stack.callback(_attach(model.get_submodule(site.module), site, handler))
        yield


def _attach(module: nn.Module, site: Site, handler: Handler) -> Callable[[], None]:
    """Attaches a handler to a site of a module, and returns the function that removes it."""
    if site.key == "out":

        def on_output(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            return handler(_tensor(site, output))

        return module.register_forward_hook(on_output).remove
    if site.key == "in":

        def on_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (handler(_tensor(site, next(iter(inputs), None))), *inputs[1:])

        return module.register_forward_pre_hook(on_input).remove
    tap = module.__dict__.setdefault("tap", Tap())
    handlers = tap.handlers.setdefault(site.key, [])
    handlers.append(handler)

    def remove() -> None:
        handlers.remove(handler)
        if not any(tap.handlers.values()):
            module.__dict__.pop("tap", None)

    return remove


def _tensor(site: Site, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise RequestError(Problem(site.name, "a module that gives a tensor here", kind))
    return value


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    modules = list(model.modules())
    if any(module._compiled_call_impl is not None for module in modules):
        log.info("compiled code is not used while activations are captured or replaced")
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _without_recomputation(model: nn.Module) -> Iterator[None]:
    recomputed = [each for each in model.modules() if getattr(each, "recompute", False) is True]
    for module in recomputed:
        module.recompute = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in recomputed:
            module.recompute = True  # type: ignore[assignment]
