"""Masks: which keys each query attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from etude.errors import Checks


class Mask:
    """Base class of masks, which determine the keys that each query attends to.

    Attributes:
        causal: whether later keys are hidden from every query.
        cacheable: whether the output at a position is independent of the tokens that follow.
        everywhere: whether the mask of a text doesn't depend on the position in the sequence at
            which the text starts.
    """

    causal: bool = False
    cacheable: bool = False
    everywhere: bool = True

    def seen(self, T: int, S: int, device: torch.device | None = None) -> Tensor | None:
        """Returns the mask for queries at the last T of S positions, of shape (T, S), true where a
        query may attend to a key. Returns None if the attribute `causal` alone describes the mask.
        """
        return None


class Causal(Mask):
    """Causal mask of a decoder: query i attends to the keys j <= i (Vaswani et al. 2017, section
    3.2.3).
    """

    causal = True
    cacheable = True


class Bidirectional(Mask):
    """Mask of an encoder: every query attends to every key."""


class SlidingWindow(Mask):
    """Causal mask with a sliding window: query i attends to the last `window` keys j <= i,
    including its own (Beltagy et al. 2020, arXiv:2004.05150, section 3.1; Mistral 7B, Jiang et al.
    2023, arXiv:2310.06825).

    Args:
        window: number of keys that a query attends to.
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
    """Prefix mask: the first `length` tokens attend to each other, every later token attends to
    itself and the tokens before it (Raffel et al. 2019, arXiv:1910.10683, section 3.2.1, "prefix
    LM").

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
    """Returns the causal mask (T, S) of queries at the last T of S positions: true where the key's
    index is at most S - T + i, the position of query i.
    """
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def hide_later(bias: Tensor, T: int, S: int) -> Tensor:
    """Returns a copy of `bias` of shape (..., T, S), with minus infinity at keys after the query.

    The bias is added to the attention scores of T queries and S keys. `bias` broadcasts to the
    shape of the result.
    """
    return bias.masked_fill(~causal_mask(T, S, bias.device), -torch.inf)


def own_key(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """Returns a mask (T, S) of queries at the last T of S positions: true only where key and query
    have the same position.
    """
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T).triu(S - T)
