"""A block: attention and feed-forward, each with a residual connection and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from etude.nn.feedforward import NoFeedForward


class Block(nn.Module):
    """What the blocks share: two branches and a norm for each.

    Args:
        attention, norm, feedforward: called without arguments, build the module; `norm` once
            for each branch. `NoFeedForward` leaves the second branch out.

    Attributes:
        final_norm: whether the last block's output still needs a norm.
    """

    final_norm: bool

    def __init__(
        self,
        *,
        attention: Callable[[], nn.Module],
        norm: Callable[[], nn.Module],
        feedforward: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.attention_norm = norm()
        self.attention = attention()
        second = feedforward()
        if not isinstance(second, NoFeedForward):
            self.feedforward_norm = norm()
            self.feedforward = second
        self.has_feedforward = not isinstance(second, NoFeedForward)


class PreNormBlock(Block):
    """x + f(norm(x)) for each branch f.

    Radford et al. 2019, section 2.3; Xiong et al. 2020 (arXiv:2002.04745), section 3.
    """

    final_norm = True

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """(B, T, D) to (B, T, D); `context` is what the attention takes beside x."""
        x = x + self.attention(self.attention_norm(x), **context)
        if self.has_feedforward:
            x = x + self.feedforward(self.feedforward_norm(x))
        return x


class PostNormBlock(Block):
    """norm(x + f(x)) for each branch f (Vaswani et al. 2017, section 3.1)."""

    final_norm = False

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """(B, T, D) to (B, T, D); `context` is what the attention takes beside x."""
        x = self.attention_norm(x + self.attention(x, **context))
        if self.has_feedforward:
            x = self.feedforward_norm(x + self.feedforward(x))
        return x
