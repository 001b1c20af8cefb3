"""The windows in which a language model is scored on running text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from etude.data.text import TextData
from etude.errors import Problem, RequestError
from etude.nn.memory import memory_for
from etude.records.tables import size_of
from etude.tasks.causal_lm import CausalLM


@dataclass(frozen=True)
class Windows:
    """How a split is cut.

    Attributes:
        sequence_length: targets in a window; None is the training's.
        stride: the windows overlap, and each but the first counts its last `stride` targets
            alone; None if they don't overlap.
    """

    sequence_length: int | None = None
    stride: int | None = None

    @property
    def given(self) -> dict[str, int]:
        """What is not as in training."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def check(self, task: type, data: Any) -> None:
        """Compares them with what is scored.

        Args:
            task, data: the run's.

        Raises:
            RequestError: a value that cannot be, or that nothing would be done with.
        """
        problems = list(self._problems(task, data))
        if problems:
            raise RequestError(problems)

    def _problems(self, task: type, data: Any) -> Iterator[Problem]:
        scored = isinstance(data, TextData) and issubclass(task, CausalLM)
        for key, value in self.given.items():
            if not scored:
                expected = "none: it is of a language model on running text"
                yield Problem(key, expected, value, f"the run's task is {task.__name__}")
            elif value < 1:
                yield Problem(key, "a positive number", value)
        if scored and self.stride is not None:
            length = self.sequence_length or int(data.sequence_length)
            if self.stride > max(length, 1):
                yield Problem("stride", f"at most the window's {length}", self.stride)

    def check_room(self, tokens: int, vocabulary: int, device: torch.device) -> None:
        """Compares the logits of a window with the memory there is.

        Args:
            tokens: of the split; a window is no longer.
            device: where the model lies.

        Raises:
            RequestError: names how many targets fit.
        """
        there = memory_for(device)
        takes = 4 * vocabulary
        if there is None or self.sequence_length is None:
            return
        if min(self.sequence_length, tokens) * takes > there:
            hint = f"{size_of(takes)} a target for the logits over {vocabulary:,} tokens"
            expected = f"at most {there // takes:,}, in {size_of(there)} of memory"
            raise RequestError(Problem("sequence_length", expected, self.sequence_length, hint))
