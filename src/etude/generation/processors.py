"""Processors: functions that change the logits before a token is selected.

The processors of a list are applied in sequence. A custom processor is a function of
`(tokens, logits)`, or an object with a method `__call__(tokens, logits)`; pass it to `generate` as
`processors=[...]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem


class Processor(Protocol):
    """Interface of processors: functions that change the logits of the next token."""

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Returns the changed logits, of shape (B, V); minus infinity forbids a token.

        Args:
            tokens: ids of the tokens so far (prompt and new text), of shape (B, T); -1 is padding.
            logits: logits of the next token, of shape (B, V); must not be changed in place. In a
                beam search, these are log-probabilities.
        """


class RepetitionPenalty:
    """Processor that makes tokens less probable if they have already occurred.

    Positive logits are divided by the penalty, negative logits are multiplied by the penalty
    (Keskar et al. 2019, arXiv:1909.05858, section 4.1).

    Args:
        penalty: the penalty; 1 has no effect, values below 1 favour repetition.
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
    """Processor that forbids tokens which would repeat an n-gram (Paulus et al. 2017,
    arXiv:1705.04304, section 2.5).

    Args:
        n: the length of the n-grams in tokens; 1 forbids every token that has occurred.
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
        prefix = tokens[:, None, T - self.n + 1 :]  # of the n-gram that the next token completes
        repeats = (ngrams[..., :-1] == prefix).all(dim=-1) & (ngrams[..., -1] >= 0)
        banned = torch.zeros(len(logits), V + 1, dtype=torch.bool, device=logits.device)
        banned.scatter_(1, torch.where(repeats, ngrams[..., -1], V), True)
        return logits.masked_fill(banned[:, :V], -torch.inf)


class ForbiddenTokens:
    """Processor that forbids sequences of tokens.

    The last token of a sequence is forbidden if the text ends with all other tokens of the
    sequence. The token of a sequence of one token is always forbidden.

    Args:
        sequences: the sequences, each of at least one token id.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        checks = Checks()
        for i, ids in enumerate(sequences):
            is_valid = len(ids) > 0 and min(ids) >= 0
            checks.that(
                is_valid, f"sequences[{i}]", list(ids), "one or more token ids, each at least 0"
            )
        checks.done()
        self.sequences = [tuple(ids) for ids in sequences]

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        logits = logits.clone()
        for *before, last in self.sequences:
            if not before:
                logits[:, last] = -torch.inf
            elif len(before) <= tokens.shape[1]:
                equal = tokens[:, -len(before) :] == tokens.new_tensor(before)
                logits[equal.all(dim=-1), last] = -torch.inf
        return logits


class MinNewTokens:
    """Processor that forbids the stop tokens until there is a minimum number of new tokens.

    Args:
        least: the minimum number of new tokens.
        prompt: the length of the prompt in tokens, including padding.
        stop_tokens: the stop tokens' ids.
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
    """Applies processors to the logits of the next token, and returns the changed logits.

    Args:
        processors: the processors, in the order in which they are applied.
        tokens, logits: token ids (B, T) and logits (B, V) of B texts; see `Processor`.

    Raises:
        InvalidArguments: the processors forbid all tokens of a row.
    """
    for processor in processors:
        logits = processor(tokens, logits)
    if bool((logits.amax(dim=-1) == -torch.inf).any()):
        expected = "at least one allowed token in each row"
        hint = "the processors together forbid every token in the vocabulary"
        raise InvalidArguments(Problem("processors", expected, hint=hint))
    return logits
