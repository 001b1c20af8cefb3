"""Options of evaluations and predictions: windows of language models, and beam search."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from etude.errors import Problem, RequestError
from etude.nn.memory import memory_for
from etude.records.text_tables import format_bytes

_REASONS = {
    "beams": "has no beam search",
    "length_penalty": "has no beam search",
    "sequence_length": "does not predict the next tokens of continuous text",
    "stride": "does not predict the next tokens of continuous text",
}
"""Reason why a task does not have an option, by option; follows the name of the task."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Base class of the options of evaluation and prediction; has no option itself."""

    @classmethod
    def checked(cls, task: str, **requested: Any) -> EvaluationOptions:
        """Returns an object with the validated options; the value None selects an option's default.

        Args:
            task: name of the task, for errors.
            requested: options by name.

        Raises:
            RequestError: an option that the task does not have, or a value out of range.
        """
        stated = {key: value for key, value in requested.items() if value is not None}
        unknown = stated.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise RequestError(
                Problem(key, "no value", stated[key], f"{task} {_REASONS[key]}")
                for key in requested
                if key in unknown
            )
        options = cls(**stated)
        if problems := options.problems():
            raise RequestError(problems)
        return options

    def problems(self) -> list[Problem]:
        """Returns a `Problem` for each value out of range."""
        return []

    @property
    def name(self) -> str:
        """Suffix for the name of the evaluation's file; empty for the default options."""
        return ""

    @property
    def as_record(self) -> dict[str, Any] | None:
        """The options as stored in the evaluation's file; None if no options are stored."""
        return None


@dataclass(frozen=True)
class Beams(EvaluationOptions):
    """Options of beam search, for tasks that generate target texts.

    Attributes:
        beams: number of continuations in the search; 1 decodes greedily.
        length_penalty: exponent of the length by which the log-probability of a target is divided;
            above 0 it favours long targets.
        max_new_tokens: largest number of tokens of a target; None uses the sequence length of
            training.
    """

    beams: int = 4
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def problems(self) -> list[Problem]:
        problems = []
        if self.beams < 1:
            problems.append(Problem("beams", "a positive number", self.beams))
        if not math.isfinite(self.length_penalty):
            problems.append(Problem("length_penalty", "a finite number", self.length_penalty))
        return problems

    @property
    def name(self) -> str:
        is_default = self == Beams()
        return "" if is_default else f"-beams{self.beams}-penalty{self.length_penalty:g}"


@dataclass(frozen=True)
class Windows(EvaluationOptions):
    """Options of language models: length and overlap of the windows into which a text is divided.

    Attributes:
        sequence_length: number of targets in a window; None uses the sequence length of training.
        stride: distance in tokens between the starts of overlapping windows; of each window except
            the first, only the last `stride` targets count. With None, windows do not overlap.
    """

    sequence_length: int | None = None
    stride: int | None = None

    def problems(self) -> list[Problem]:
        stated = self.as_record.items()
        return [Problem(key, "a positive number", value) for key, value in stated if value < 1]

    @property
    def name(self) -> str:
        return "".join(f"-{key}{value}" for key, value in self.as_record.items()).replace("_", "-")

    @property
    def as_record(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    def check(self, data: Any) -> None:
        """Checks that the stride does not exceed the number of targets in a window.

        Args:
            data: the run's data, whose `sequence_length` is used if this object sets none.

        Raises:
            RequestError: the stride exceeds the window.
        """
        length = self.sequence_length or int(data.sequence_length)
        if self.stride is not None and self.stride > max(length, 1):
            expected = f"at most {length}, the number of targets in a window"
            raise RequestError(Problem("stride", expected, self.stride))

    def check_room(self, tokens: int, vocabulary: int, device: torch.device) -> None:
        """Checks that the logits of a window fit into memory.

        Args:
            tokens: number of tokens in the split, which limits the window.
            vocabulary: vocabulary size.
            device: device of the model.

        Raises:
            RequestError: the logits don't fit; the message states how many targets do.
        """
        available = memory_for(device)
        per_target = 4 * vocabulary
        if available is None or self.sequence_length is None:
            return
        if min(self.sequence_length, tokens) * per_target > available:
            most = available // per_target
            hint = (
                f"with a vocabulary of {vocabulary:,} tokens, the logits of one target token need "
                f"{format_bytes(per_target)}"
            )
            memory = format_bytes(available)
            expected = (
                f"a window of at most {most:,} target tokens, whose logits fit into {memory} of "
            )
            expected += "memory"
            raise RequestError(Problem("sequence_length", expected, self.sequence_length, hint))
