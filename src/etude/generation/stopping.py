"""What ends a row that is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StopConditions:
    """Stop tokens and a rule, either of which ends a row.

    Args:
        tokens: ids that end a row, and belong to it.
        rule: says of the new tokens (R, n) which rows end, (R,).
    """

    tokens: Sequence[int] = ()
    rule: Callable[[Tensor], Tensor] | None = None

    @property
    def fill(self) -> int:
        """The id that stands behind the end: the first stop token, or 0."""
        return self.tokens[0] if self.tokens else 0
