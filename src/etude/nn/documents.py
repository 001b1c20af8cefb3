"""Several documents packed into one sequence, none of which sees another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SHORT = 16
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
    def beginning_with(cls, token: int, tokens: Tensor) -> Documents:
        """Of tokens (B, T) where `token` stands before each document, and belongs to it."""
        return cls(tokens == token)

    def to(self, device: torch.device | str) -> Documents:
        """The same on another device."""
        if self.number.device == torch.device(device):
            return self
        return Documents((self.positions == 0).to(device))

    @property
    def lengths(self) -> Sequence[Sequence[int]]:
        """The lengths of each sequence's documents, in order."""
        if self._lengths is None:
            self._lengths = [row.bincount().tolist() for row in self.number]
        return self._lengths

    @property
    def apart(self) -> bool:
        """Whether `attend`, which calls for each document alone, is faster than a mask."""
        if self.number.device.type != "cpu":
            return False
        return self.number.numel() >= SHORT * sum(map(len, self.lengths))

    def mask(self, of: Documents | None = None) -> Tensor:
        """(B, 1, T, S), true where a query and a key are of the same document.

        Args:
            of: the documents of the keys (B, S), by number, if not these.
        """
        keys = self if of is None else of
        return self.number[:, None, :, None] == keys.number[:, None, None, :]

    def parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, T, D) of the packed sequences as (N, L, D), a row for each document, and
        (N, L), false in the padding after shorter ones.
        """
        lengths = [length for row in self.lengths for length in row]
        pieces = x.flatten(0, 1).split(lengths)
        keep = torch.arange(max(lengths), device=x.device)
        kept = keep < torch.tensor(lengths, device=x.device)[:, None]
        return pad_sequence(pieces, batch_first=True), kept

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
            bias: broadcasts to (B, H, T, T), or None.
        """
        square = None if bias is None else bias.expand(*bias.shape[:-2], q.shape[2], k.shape[2])
        done, stop_row = [], 0
        for lengths, group in groupby(self.lengths):  # sequences cut alike go together
            start_row, stop_row = stop_row, stop_row + len(list(group))
            rows = slice(start_row, stop_row)
            pieces, stop = [], 0
            for each in zip(*(x[rows].split(lengths, dim=2) for x in (q, k, v)), strict=True):
                start, stop = stop, stop + each[0].shape[2]
                part = None if square is None else square[..., start:stop, start:stop]
                if part is not None and part.ndim == 4 and part.shape[0] > 1:
                    part = part[rows]
                pieces.append(attend(*each, bias=part, **options))
            done.append(_joined(pieces, dim=2))
        return _joined(done, dim=0)


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
