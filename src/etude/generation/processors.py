"""What is done to the logits before a token is chosen from them: small classes, one after another.

A processor of your own is a function or class with `__call__(tokens, logits)`, handed to `generate`
as `processors=[...]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem


class Processor(Protocol):
    """Changes the logits of the next token."""

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """What the next token is chosen from, (B, V).

        Args:
            tokens: (B, T), all that is there so far; what stands before a shorter prompt is -1.
            logits: (B, V), not to be changed in place; minus infinity forbids a token. In a beam
                search, log-probabilities.
        """


class RepetitionPenalty:
    """Makes tokens that have occurred less likely: positive logits are divided by the penalty,
    negative ones multiplied (Keskar et al. 2019, arXiv:1909.05858, section 4.1).

    Args:
        penalty: 1 changes nothing; below 1 favours repetition.
    """

    def __init__(self, penalty: float) -> None:
        checks = Checks()
        checks.positive(penalty=penalty)
        checks.done()
        self.penalty = penalty

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        occurred = torch.where(tokens < 0, tokens[:, -1:], tokens)  # the last is never padding
        x = logits.gather(1, occurred)
        x = torch.where(x < 0, x * self.penalty, x / self.penalty)
        return logits.scatter(1, occurred, x)


class NoRepeatNGrams:
    """Forbids every token that would end an n-gram which has occurred (Paulus et al. 2017,
    arXiv:1705.04304, section 2.5).

    Args:
        n: the length in tokens; 1 forbids every token that has occurred.
    """

    def __init__(self, n: int) -> None:
        checks = Checks()
        checks.positive(n=n)
        checks.done()
        self.n = n

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        T, V = tokens.shape[1], logits.shape[1]
        if self.n > T:
            return logits
        ngrams = tokens.unfold(1, self.n, 1)  # (B, T - n + 1, n)
        begun = tokens[:, None, T - self.n + 1 :]  # what the next token will end
        again = (ngrams[..., :-1] == begun).all(dim=-1) & (ngrams[..., -1] >= 0)
        banned = torch.zeros(len(logits), V + 1, dtype=torch.bool, device=logits.device)
        banned.scatter_(1, torch.where(again, ngrams[..., -1], V), True)
        return logits.masked_fill(banned[:, :V], -torch.inf)


class ForbiddenTokens:
    """Forbids sequences of tokens: the last of one, after those before it.

    Args:
        sequences: of ids, each with one id or more.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        checks = Checks()
        for i, ids in enumerate(sequences):
            sound = len(ids) > 0 and min(ids) >= 0
            checks.that(sound, f"sequences[{i}]", list(ids), "one or more token ids")
        checks.done()
        self.sequences = [tuple(ids) for ids in sequences]

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        logits = logits.clone()
        for *before, last in self.sequences:
            if not before:
                logits[:, last] = -torch.inf
            elif len(before) <= tokens.shape[1]:
                there = tokens[:, -len(before) :] == tokens.new_tensor(before)
                logits[there.all(dim=-1), last] = -torch.inf
        return logits


class MinNewTokens:
    """Forbids the stop tokens until enough is written.

    Args:
        least: new tokens.
        prompt: the length of what stands before them, with padding.
        stop_tokens: ids.
    """

    def __init__(self, least: int, prompt: int, stop_tokens: Sequence[int]) -> None:
        self.until, self.stop_tokens = prompt + least, list(stop_tokens)

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        if tokens.shape[1] >= self.until:
            return logits
        logits = logits.clone()
        logits[:, self.stop_tokens] = -torch.inf
        return logits


def apply(processors: Sequence[Processor], tokens: Tensor, logits: Tensor) -> Tensor:
    """The logits (B, V) after all processors.

    Raises:
        InvalidArguments: they leave a row no token.
    """
    for processor in processors:
        logits = processor(tokens, logits)
    if bool((logits.amax(dim=-1) == -torch.inf).any()):
        expected = "one token or more that may follow; together they forbid all"
        raise InvalidArguments(Problem("processors", expected))
    return logits
