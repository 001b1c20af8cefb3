"""Weight averages, which replace the training weights in validation and in saved models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 10


class Averaged:
    """Base class of weight averages.

    Args:
        model: model whose trainable parameters are averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights by name, in float32 or higher."""
        raise NotImplementedError

    def update(self, step: int) -> None:
        """Adds the weights after optimizer step `step`, counted from 0."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the state that a checkpoint must contain in addition to the optimizer's."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the result of `state_dict`."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager that swaps in the averaged weights and restores the training weights on
        exit, bit for bit.
        """
        before = {name: p.detach().clone() for name, p in self._trained()}
        self.put()
        try:
            yield
        finally:
            self._copy(before)

    def put(self) -> None:
        """Copies the averaged weights into the model."""
        self._copy(self.weights)

    def _copy(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._trained():
                p.copy_(weights[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


class Average(Averaged):
    """Exponential moving average of the weights.

    After step t, average = d average + (1 - d) weights, with d = min(decay, (1 + t) / (10 + t)),
    which soon forgets early weights (as in TensorFlow's ExponentialMovingAverage; averaging in
    general: Polyak & Juditsky 1992). In float32 or higher: bfloat16 would lose small updates.

    Args:
        model: model whose trainable parameters are averaged.
        decay: from 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._weights: dict[str, Tensor] = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._trained()
        }

    @property
    def weights(self) -> dict[str, Tensor]:
        return self._weights

    def update(self, step: int) -> None:
        fraction = 1 - min(self.decay, (1 + step) / (WARM_UP + step))
        with torch.no_grad():
            for name, p in self._trained():
                average = self._weights[name]
                average.lerp_(p.detach().to(average.dtype), fraction)

    def state_dict(self) -> dict[str, Tensor]:
        return self._weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            self._weights[name].copy_(tensor)


class OptimizersAverage(Averaged):
    """The average that an optimizer has in its own state.

    It is computed from the optimizer's state and the training weights, so the model must contain
    the training weights.

    Args:
        model: model whose trainable parameters are averaged.
        optimizer: optimizer with `averaged()`, which returns the average of each parameter that it
            has updated.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        super().__init__(model)
        self.optimizer = optimizer

    @property
    def weights(self) -> dict[str, Tensor]:
        averaged = self.optimizer.averaged()
        return {name: averaged.get(p, p.detach()) for name, p in self._trained()}
