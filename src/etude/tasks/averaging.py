"""A running average of the weights, which is what is validated, saved for use and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 10


class Averaged:
    """Averaged weights beside those in training.

    Args:
        model: whose trainable parameters are averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights by name, in single precision at least."""
        raise NotImplementedError

    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step `step`, counted from 0."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the optimizer's state."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes that back."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the averaged weights; afterwards those in training, bit for bit."""
        before = {name: p.detach().clone() for name, p in self._trained()}
        self.put()
        try:
            yield
        finally:
            self._copy(before)

    def put(self) -> None:
        """Gives the model the averaged weights for good."""
        self._copy(self.weights)

    def _copy(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._trained():
                p.copy_(weights[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


class Average(Averaged):
    """After step t the average moves by 1 - d of the way to the weights, with
    d = min(decay, (1 + t) / (10 + t)): early weights are soon forgotten (as in TensorFlow's
    ExponentialMovingAverage; Polyak & Juditsky 1992 on averaging at all).

    In single precision at least: in bfloat16 small moves would be lost.

    Args:
        model: whose trainable parameters are averaged.
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
        part = 1 - min(self.decay, (1 + step) / (WARM_UP + step))
        with torch.no_grad():
            for name, p in self._trained():
                place = self._weights[name]
                place.lerp_(p.detach().to(place.dtype), part)

    def state_dict(self) -> dict[str, Tensor]:
        return self._weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            self._weights[name].copy_(tensor)


class OptimizersAverage(Averaged):
    """The average that an optimizer keeps itself, in its own state.

    It is computed from that and from the weights in training, so these must be in the model.

    Args:
        model: whose trainable parameters are averaged.
        optimizer: with `averaged()`, the average of each parameter that it has stepped.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        super().__init__(model)
        self.optimizer = optimizer

    @property
    def weights(self) -> dict[str, Tensor]:
        found = self.optimizer.averaged()
        return {name: found.get(p, p.detach()) for name, p in self._trained()}
