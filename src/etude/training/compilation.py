"""`trainer.compile`: training through `torch.compile`, and nothing else through it.

The layers of a model are alike, so each is compiled by itself and the work is done once for all of
them; a model without a list of layers is compiled whole. Compiling is in place: names of weights
stay as they are. Validation, generation and whoever loads the record compute as without it, so
what is validated is what `evaluate` finds again.
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
"""Of `torch.compile`: dropout draws the numbers that it draws without compilation."""


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within, the model's layers are compiled; afterwards nothing of it is left in the process.

    Args:
        wanted: false does nothing, without loading the compiler.
    """
    if not wanted:
        yield
        return
    log.info("compiling in the first step, which takes a minute or so")
    torch.compiler.reset()  # what another run of this process compiled fits other shapes
    for part in _parts(model):
        part.compile(**ARGUMENTS)
    try:
        yield
    finally:
        for part in _parts(model):
            part._compiled_call_impl = None
        torch.compiler.reset()


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Within, the model computes as if it had never been compiled."""
    kept: list[tuple[Any, Any]] = [(part, part._compiled_call_impl) for part in _parts(model)]
    for part, _ in kept:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in kept:
            part._compiled_call_impl = call


class FirstBatch(pl.Callback):
    """Shows the model its first batch without compilation, so that tables it makes are there.

    Else the first layer would be compiled with the making of them, and the second anew.
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


def _parts(model: nn.Module) -> list[nn.Module]:
    """The layers: what the model's lists of modules hold; the model itself where it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(part) for held in lists for module in held for part in module.modules()}
    outer = [held for held in lists if id(held) not in inner]
    return [part for held in outer for part in held] or [model]
