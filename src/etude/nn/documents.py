"""Packed documents: several documents in one sequence, which don't attend to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.nn.mask import causal_mask

SHORT = 16
"""Mean length in tokens below which documents are separated by a mask, because a call of the
attention for each document is slower.
"""


class Documents:
    """Boundaries of the documents in packed sequences.

    Args:
        first: (B, T), true at the first token of each document. The first token of a sequence
            always begins a document, which may be the rest of a document that was cut.

    Attributes:
        positions: (B, T), position of each token in its document, from 0.
        number: (B, T), index of the document in its sequence, from 0.
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
        """Returns the boundaries of the documents in token ids (B, T), where each document begins
        with the id `token`.
        """
        return cls(tokens == token)

    def to(self, device: torch.device | str) -> Documents:
        """Returns the documents on another device."""
        if self.number.device == torch.device(device):
            return self
        return Documents((self.positions == 0).to(device))

    @property
    def lengths(self) -> Sequence[Sequence[int]]:
        """The lengths in tokens of each sequence's documents, in order."""
        if self._lengths is None:
            self._lengths = [row.bincount().tolist() for row in self.number]
        return self._lengths

    @property
    def prefers_split(self) -> bool:
        """Whether computing attention separately for each document (`attend`) is faster than one
        computation with a mask.
        """
        if self.number.device.type != "cpu":
            return False
        return self.number.numel() >= SHORT * sum(map(len, self.lengths))

    def mask(self, of: Documents | None = None) -> Tensor:
        """Returns a mask of shape (B, 1, T, S), true where one of the T queries and one of the S
        keys belong to the same document.

        Args:
            of: documents of the keys (B, S); document i of the queries attends to document i of the
                keys. None uses the documents of the queries.
        """
        keys = self if of is None else of
        return self.number[:, None, :, None] == keys.number[:, None, None, :]

    def bias(self, T: int, *, like: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
        """Returns a bias of the scores that also hides the other documents, (B, 1 or H, T, T).

        Args:
            T: number of tokens of a sequence.
            like: tensor whose data type and device the result gets.
            causal: whether to hide later keys, too.
            bias: a bias to which the result is added; a boolean bias is a mask.
        """
        visible = self.mask()
        if causal:
            visible = visible & causal_mask(T, T, like.device)
        if bias is not None and bias.dtype == torch.bool:
            visible = visible & bias
        elif bias is not None:
            return bias.masked_fill(~visible, -torch.inf)
        zeros = torch.zeros_like(visible, dtype=like.dtype)
        return zeros.masked_fill(~visible, -torch.inf)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors of the N documents in the batch, of shape (N, L, D), with one row per
        document, and a mask of shape (N, L) that is false at padding. L is the length of the
        longest document.

        Args:
            x: (B, T, D), vectors of the packed sequences.
        """
        lengths = [length for row in self.lengths for length in row]
        pieces = x.flatten(0, 1).split(lengths)
        index = torch.arange(max(lengths), device=x.device)
        is_token = index < torch.tensor(lengths, device=x.device)[:, None]
        return pad_sequence(pieces, batch_first=True), is_token

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
        """Returns the attention's output for packed sequences, of shape (B, H, T, K).

        The function `attend` is called for each document separately, which is cheaper than masked
        attention over all documents of a sequence.

        Args:
            attend: function such as `MultiHeadAttention.attend`. It is called with the queries,
                keys and values of a document of L tokens, of shape (b, heads, L, head dimension),
                and returns the outputs (b, H, L, K). If adjacent sequences have documents of the
                same lengths, one call computes the documents of b sequences; otherwise b is 1.
            q, k, v: queries, keys and values of the sequences.
            bias: bias of the scores, which broadcasts to (B, H, T, T), or None. The part for the
                document is passed to `attend` as `bias`.
            options: further keyword arguments of `attend`.
        """
        square = None if bias is None else bias.expand(*bias.shape[:-2], q.shape[2], k.shape[2])
        outputs, stop_row = [], 0
        for lengths, group in groupby(self.lengths):  # adjacent sequences with the same lengths
            start_row, stop_row = stop_row, stop_row + len(list(group))
            rows = slice(start_row, stop_row)
            pieces, stop = [], 0
            for each in zip(*(x[rows].split(lengths, dim=2) for x in (q, k, v)), strict=True):
                start, stop = stop, stop + each[0].shape[2]
                part = None if square is None else square[..., start:stop, start:stop]
                if part is not None and part.ndim == 4 and part.shape[0] > 1:
                    part = part[rows]
                pieces.append(attend(*each, bias=part, **options))
            outputs.append(_concatenate(pieces, dim=2))
        return _concatenate(outputs, dim=0)


def _concatenate(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
