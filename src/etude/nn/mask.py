"""Which keys a query may see."""

from __future__ import annotations

import torch
from torch import Tensor


class Causal:
    """Query i sees the keys j <= i: a decoder's mask (Vaswani et al. 2017, section 3.2.3)."""

    causal = True


class Bidirectional:
    """Every query sees every key: an encoder's mask."""

    causal = False


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """(T, S), true where query i, which stands at position S - T + i, may see key j."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def hide_later(bias: Tensor, T: int, S: int) -> Tensor:
    """(..., T, S): what broadcasts to it, with minus infinity where a key stands after a query."""
    return bias.masked_fill(~causal_mask(T, S, bias.device), -torch.inf)
