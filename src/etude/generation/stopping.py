"""Stop conditions, which end the generation of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StopConditions:
    """Stop conditions: a row (a generated text) ends at a stop token, or when a rule is true.

    Args:
        tokens: the stop tokens' ids; the row contains the stop token at which it ends.
        rule: a function that maps the new tokens of R rows, of shape (R, n), to booleans of shape
            (R,), true for rows that end; None means no rule.
    """

    tokens: Sequence[int] = ()
    rule: Callable[[Tensor], Tensor] | None = None

    @property
    def fill(self) -> int:
        """The id that fills a row after its end: the first stop token, or 0."""
        return self.tokens[0] if self.tokens else 0
