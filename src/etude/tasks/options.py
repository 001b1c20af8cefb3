"""How evaluations and predictions are made: windows of a language model, a search for targets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from etude.errors import Problem, RequestError
from etude.nn.memory import memory_for
from etude.records.tables import size_of

PURPOSES = {
    "beams": "searches for no targets",
    "length_penalty": "searches for no targets",
    "sequence_length": "is no language model on running text",
    "stride": "is no language model on running text",
}
"""Of each option, what a task does that does not have it."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The base: none."""

    @classmethod
    def checked(cls, task: str, **given: Any) -> EvaluationOptions:
        """The options, None being as usual.

        Args:
            task: its name.

        Raises:
            RequestError: one is not of this kind, or is out of its range.
        """
        stated = {key: value for key, value in given.items() if value is not None}
        unknown = stated.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise RequestError(
                Problem(key, f"none: {task} {PURPOSES[key]}", stated[key])
                for key in given
                if key in unknown
            )
        options = cls(**stated)
        if problems := options.problems():
            raise RequestError(problems)
        return options

    def problems(self) -> list[Problem]:
        """What is out of its range."""
        return []

    @property
    def name(self) -> str:
        """What an evaluation's file is called by; nothing if all is as usual."""
        return ""

    @property
    def told(self) -> dict[str, Any] | None:
        """What the evaluation's file says of them; None is nothing."""
        return None


@dataclass(frozen=True)
class Beams(EvaluationOptions):
    """How targets are searched for.

    Attributes:
        beams: continuations kept; 1 takes the likeliest token each time.
        length_penalty: above 0 favours long targets.
        max_new_tokens: their length at most.
    """

    beams: int = 4
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def problems(self) -> list[Problem]:
        found = []
        if self.beams < 1:
            found.append(Problem("beams", "a positive number", self.beams))
        if not math.isfinite(self.length_penalty):
            found.append(Problem("length_penalty", "a finite number", self.length_penalty))
        return found

    @property
    def name(self) -> str:
        usual = self == Beams()
        return "" if usual else f"-beams{self.beams}-penalty{self.length_penalty:g}"


@dataclass(frozen=True)
class Windows(EvaluationOptions):
    """How a split of running text is cut.

    Attributes:
        sequence_length: targets in a window; None is the training's.
        stride: the windows overlap, and each but the first counts its last `stride` targets
            alone; None if they don't overlap.
    """

    sequence_length: int | None = None
    stride: int | None = None

    def problems(self) -> list[Problem]:
        stated = self.told.items()
        return [Problem(key, "a positive number", value) for key, value in stated if value < 1]

    @property
    def name(self) -> str:
        return "".join(f"-{key}{value}" for key, value in self.told.items()).replace("_", "-")

    @property
    def told(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    def check(self, data: Any) -> None:
        """Compares the stride with the window.

        Raises:
            RequestError: it is larger.
        """
        length = self.sequence_length or int(data.sequence_length)
        if self.stride is not None and self.stride > max(length, 1):
            expected = f"at most the window's {length}"
            raise RequestError(Problem("stride", expected, self.stride))

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
