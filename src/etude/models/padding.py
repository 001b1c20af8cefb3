"""Rows of ids of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as (B, T), padded with 0 before the shorter ones, and where they are not, (B, T)."""
    T = max(map(len, rows), default=0)
    tokens = torch.tensor([[0] * (T - len(row)) + row for row in rows], device=device)
    return tokens, torch.arange(T, device=device) >= T - _lengths(rows, device)


def right_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as (B, T), padded with 0 after the shorter ones, and where they are not, (B, T)."""
    T = max(map(len, rows), default=0)
    tokens = torch.tensor([row + [0] * (T - len(row)) for row in rows], device=device)
    return tokens, torch.arange(T, device=device) < _lengths(rows, device)


def even(rows: Sequence[list[int]]) -> bool:
    """Whether all are of one length: nothing is padded then."""
    return len({len(row) for row in rows}) <= 1


def _lengths(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    return torch.tensor([len(row) for row in rows], device=device)[:, None]
