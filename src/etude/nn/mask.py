"""Masks: the visibility of keys to queries."""

from __future__ import annotations

import torch
from torch import Tensor

from etude.errors import Checks


class Mask:
    """Base class of masks.

    Attributes:
        causal: whether no query sees a later key.
        cacheable: whether a position's output is independent of the tokens that follow.
        everywhere: whether the mask is the same at any starting position of a text in a sequence.
    """

    causal: bool = False
    cacheable: bool = False
    everywhere: bool = True

    def seen(self, T: int, S: int, device: torch.device | None = None) -> Tensor | None:
        """Returns a mask (T, S), true where one of the last T of S positions may see key j.

        None means that `causal` alone describes the mask.
        """
        return None


class Causal(Mask):
    """Query i sees the keys j <= i: a decoder's mask (Vaswani et al. 2017, section 3.2.3)."""

    causal = True
    cacheable = True


class Bidirectional(Mask):
    """Every query sees every key: an encoder's mask."""


class SlidingWindow(Mask):
    """Query i sees the last `window` keys j <= i, including itself (Beltagy et al. 2020,
    arXiv:2004.05150, section 3.1; as Mistral 7B, Jiang et al. 2023, arXiv:2310.06825).

    Args:
        window: number of visible keys.
    """

    causal = True
    cacheable = True

    def __init__(self, *, window: int = 256) -> None:
        checks = Checks()
        checks.positive(window=window)
        checks.done()
        self.window = window

    def seen(self, T: int, S: int, device: torch.device | None = None) -> Tensor | None:
        if self.window >= S:
            return None
        return causal_mask(T, S, device).triu(S - T - self.window + 1)


class Prefix(Mask):
    """The first `length` tokens see each other, the others the tokens before them (Raffel et al.
    2019, arXiv:1910.10683, section 3.2.1, "prefix LM").

    With a cache, the first call must contain the whole prefix. Packed documents are not supported,
    because each would need its own prefix.

    Args:
        length: length of the prefix, in tokens.
    """

    cacheable = True
    everywhere = False

    def __init__(self, *, length: int = 16) -> None:
        checks = Checks()
        checks.positive(length=length)
        checks.done()
        self.length = length

    def seen(self, T: int, S: int, device: torch.device | None = None) -> Tensor | None:
        seen = causal_mask(T, S, device)
        seen[:, : self.length] = True
        return seen


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Returns (T, S), true where query i, at position S - T + i, may see key j."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def hide_later(bias: Tensor, T: int, S: int) -> Tensor:
    """Returns the bias, broadcast to (..., T, S), with minus infinity at keys after the query."""
    return bias.masked_fill(~causal_mask(T, S, bias.device), -torch.inf)


def own_key(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Returns (T, S), true where key j is at the query's own position."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T).triu(S - T)
