"""Padding of id sequences of different lengths into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the rows of token ids as a tensor (B, T), padded on the left with 0, and a mask of
    the same shape that is false at padding. There is one row for each of the B texts, and T is the
    length of the longest.
    """
    T = max(map(len, rows), default=0)
    tokens = torch.tensor([[0] * (T - len(row)) + row for row in rows], device=device)
    return tokens, torch.arange(T, device=device) >= T - _lengths(rows, device)


def right_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the rows of token ids as a tensor (B, T), padded on the right with 0, and a mask of
    the same shape that is false at padding. There is one row for each of the B texts, and T is the
    length of the longest.
    """
    T = max(map(len, rows), default=0)
    tokens = torch.tensor([row + [0] * (T - len(row)) for row in rows], device=device)
    return tokens, torch.arange(T, device=device) < _lengths(rows, device)


def cut(ids: list[int], longest: int | None) -> list[int]:
    """Returns at most `longest` of the ids; the last one, such as `[SEP]`, remains."""
    return ids if longest is None or len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def have_equal_length(rows: Sequence[list[int]]) -> bool:
    """Returns whether all rows of token ids have the same length, so that no padding is needed."""
    return len({len(row) for row in rows}) <= 1


def _lengths(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    return torch.tensor([len(row) for row in rows], device=device)[:, None]
