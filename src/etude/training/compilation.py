"""Training with `torch.compile` (`trainer.compile`).

The layers of a model are alike, so each layer is compiled separately and the compiled code is
shared; a model without a list of layers is compiled as a whole. Modules are compiled in place,
which keeps the names of weights. Validation, generation and loaded runs don't use the compiled
code, so that `etude evaluate` reproduces the metrics of the validation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

log = logging.getLogger("etude")

ARGUMENTS: dict[str, Any] = {"options": {"fallback_random": True}}
"""Arguments of `torch.compile`; with `fallback_random`, dropout masks are those of eager mode."""


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Context manager in which the model's layers are compiled; resets the compiler on exit.

    Args:
        model: Model to compile in place.
        wanted: Whether to compile; if false, the compiler is not loaded.
    """
    if not wanted:
        yield
        return
    log.info("compiling the model in the first step, which takes about a minute")
    torch.compiler.reset()  # discards code that another run of this process compiled
    for layer in _layers(model):
        layer.compile(**ARGUMENTS)
    try:
        yield
    finally:
        for layer in _layers(model):
            layer._compiled_call_impl = None
        torch.compiler.reset()


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Context manager in which `model` runs without the compiled code of its layers."""
    calls: list[tuple[Any, Any]] = [(layer, layer._compiled_call_impl) for layer in _layers(model)]
    for layer, _ in calls:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in calls:
            layer._compiled_call_impl = call


class FirstBatch(pl.Callback):
    """Callback that computes the loss of the first micro-batch once without compiled code, before
    training starts.

    In this pass, the model builds and keeps tables, such as the rotations of each position (RoPE).
    Without it, the first layer would be compiled together with the code that builds the tables. The
    second layer would not need this code and would be compiled again.
    """

    def __init__(self) -> None:
        self._shown = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._shown:
            task: Any = pl_module
            with eager(task.model), torch.no_grad():
                task.loss(batch[0])  # the step seeds its random numbers itself
            self._shown = True


def _layers(model: nn.Module) -> list[nn.Module]:
    """Returns the modules that are compiled separately: those in the model's outermost
    `nn.ModuleList` objects; without such a list, the model itself.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(layer) for modules in lists for module in modules for layer in module.modules()}
    outer = [modules for modules in lists if id(modules) not in inner]
    return [layer for modules in outer for layer in modules] or [model]
