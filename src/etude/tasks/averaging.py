"""Weight averages, which replace the training weights in validation and in saved models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 10


class Averaged:
    """Base class of weight averages, which are updated after each optimizer step.

    Args:
        model: model whose trainable parameters are averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def weights(self) -> dict[str, Tensor]:
        """Dict from the model's parameter names to averaged weights, in float32 or a more precise
        dtype.
        """
        raise NotImplementedError

    def update(self, step: int) -> None:
        """Adds the model's weights to the average; called after each optimizer step.

        Args:
            step: index of the optimizer step, from 0.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the state of the average that is saved in checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the state that `state_dict` returned."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager in which the model has the averaged weights; on exit it restores the
        training weights, bit for bit.
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

    After the optimizer step with index t (from 0), average = d * average + (1 - d) * weights, with
    d = min(decay, (1 + t) / (10 + t)). At first d is small, so that the initial weights soon lose
    their influence (as in TensorFlow's ExponentialMovingAverage; averaging in general: Polyak &
    Juditsky 1992). The average is in float32 or higher, because bfloat16 would lose small updates.

    Args:
        model: model whose trainable parameters are averaged.
        decay: largest value of d, from 0 to 1.
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
    """Weight average that the optimizer itself maintains, as schedule-free optimizers do.

    The average is computed from the optimizer's state and the training weights, so the model must
    contain the training weights when `weights` is read.

    Args:
        model: model whose trainable parameters are averaged.
        optimizer: optimizer with `averaged()`, which returns a dict from each parameter that it has
            updated to its average. A parameter that is not in the dict keeps its training weights.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        super().__init__(model)
        self.optimizer = optimizer

    @property
    def weights(self) -> dict[str, Tensor]:
        averaged = self.optimizer.averaged()
        return {name: averaged.get(p, p.detach()) for name, p in self._trained()}
