"""Several documents packed into one sequence, none of which sees another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHORT = 64
"""Documents shorter than this on average are told apart by a mask: a call for each costs more."""


class Documents:
    """Where the documents of packed sequences begin.

    Args:
        first: (B, T), true at the first token of each document. A sequence's first token begins
            one in any case: what stands there may be the rest of a document cut off.

    Attributes:
        positions: (B, T), of each token within its document, from 0.
        number: (B, T), of the document within its sequence, from 0.
    """

    def __init__(self, first: Tensor) -> None:
        first = first.clone()
        first[:, 0] = True
        at = torch.arange(first.shape[1], device=first.device)
        self.positions = at - torch.where(first, at, 0).cummax(dim=1).values
        self.number = first.cumsum(dim=1) - 1
        self._lengths: list[list[int]] | None = None

    @classmethod
    def after(cls, end: int, tokens: Tensor) -> Documents:
        """Of tokens (B, T) where each document ends with the token `end`, which belongs to it."""
        first = torch.zeros_like(tokens, dtype=torch.bool)
        first[:, 1:] = tokens[:, :-1] == end
        return cls(first)

    @property
    def lengths(self) -> Sequence[Sequence[int]]:
        """The lengths of each sequence's documents, in order."""
        if self._lengths is None:
            self._lengths = [row.bincount().tolist() for row in self.number]
        return self._lengths

    @property
    def apart(self) -> bool:
        """Whether `attend` calls for each document alone: where that is faster than a mask."""
        if self.number.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return self.number.numel() >= SHORT * sum(map(len, self.lengths))

    def mask(self) -> Tensor:
        """(B, 1, T, T), true where a query and a key are of the same document."""
        return self.number[:, None, :, None] == self.number[:, None, None, :]

    def attend(
        self,
        attend: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        bias: Tensor | None,
        **options: object,
    ) -> Tensor:
        """`attend` within each document: less work than over the sequence, however masked.

        Args:
            bias: (..., T, T), the same for all sequences, or None.
        """
        rows = []
        for row, lengths in enumerate(self.lengths):
            pieces = [x[row : row + 1].split_with_sizes(lengths, dim=2) for x in (q, k, v)]
            stop, done = 0, []
            for piece in zip(*pieces, strict=True):
                start, stop = stop, stop + piece[0].shape[2]
                part = None if bias is None else bias[..., start:stop, start:stop]
                done.append(attend(*piece, bias=part, **options))
            rows.append(torch.cat(done, dim=2))
        return torch.cat(rows)
