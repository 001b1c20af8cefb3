"""Blocks: attention and feed-forward module, each with a residual connection and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from etude.nn.feedforward import NoFeedForward
from etude.nn.sites import Tap, site

Context = dict[str, Any]


class Block(nn.Module):
    """Base class of blocks, which consist of residual branches with norms.

    The branches are the attention, the cross-attention and the feed-forward module; the last two
    may be missing.

    Args:
        attention: factory of the attention, called without arguments.
        norm: factory of a norm, called without arguments for each norm of the block.
        feedforward: factory of the feed-forward module, called without arguments. If it returns a
            `NoFeedForward`, the block has no feed-forward branch.
        cross: factory of the cross-attention, the branch after the attention (Vaswani et al. 2017,
            section 3.1); None omits the branch.

    Attributes:
        final_norm: whether the output of the last block needs a final norm.
        parallel: whether all branches read the block's input.
        additive: whether the output is the input plus the (normalised) outputs of the branches.
    """

    final_norm: bool
    tap: Tap | None = None
    parallel: ClassVar[bool] = False
    additive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        attention: Callable[[], nn.Module],
        norm: Callable[[], nn.Module],
        feedforward: Callable[[], nn.Module],
        cross: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = norm()
        self.attention = attention()
        if cross is not None:
            self.cross_norm = norm()
            self.cross = cross()
        self.has_cross = cross is not None
        second = feedforward()
        if not isinstance(second, NoFeedForward):
            self.feedforward_norm = norm()
            self.feedforward = second
        self.has_feedforward = not isinstance(second, NoFeedForward)
        self.add_norms(norm)

    def add_norms(self, norm: Callable[[], nn.Module]) -> None:
        """Builds the additional norms of a subclass; the base class has none."""

    def output_norm(self, branch: str) -> nn.Module | None:
        """Returns the norm between a branch and the residual stream; None if there is none.

        Args:
            branch: `attention`, `cross` or `feedforward`.
        """
        return None

    @property
    def own_sites(self) -> dict[str, str]:
        """The block's sites, with the outputs of its branches; see `etude.nn.sites`.

        `mid` is the value after the attention, `crossed` the value after the cross-attention. A
        block has neither of them if all branches read its input, nor `mid` without another branch.
        """
        further = self.has_cross or self.has_feedforward
        names = ["in", "attention.out"]
        names += ["mid"] if further and not self.parallel else []
        names += ["cross.out"] if self.has_cross else []
        names += (
            ["crossed"] if self.has_cross and self.has_feedforward and not self.parallel else []
        )
        names += ["feedforward.out"] if self.has_feedforward else []
        return dict.fromkeys([*names, "out"], "B T D")


class PreNormBlock(Block):
    """Pre-norm block: x + f(norm(x)) for each branch f.

    Radford et al. 2019, section 2.3; Xiong et al. 2020 (arXiv:2002.04745), section 3.
    """

    final_norm = True

    def forward(self, x: Tensor, across: Context | None = None, **context: Any) -> Tensor:
        """Returns the block's output for x; both have shape (B, T, D): batch, tokens, model width.

        Args:
            across: keyword arguments of the cross-attention; unused if the block has none. None
                means no arguments.
            context: keyword arguments of the attention.
        """
        x = site(self, "mid", x + self.attention(self.attention_norm(x), **context))
        if self.has_cross:
            x = site(self, "crossed", x + self.cross(self.cross_norm(x), **(across or {})))
        if self.has_feedforward:
            x = x + self.feedforward(self.feedforward_norm(x))
        return x


class SandwichBlock(Block):
    """Block with a norm before and a second norm after each branch f: x + norm2(f(norm1(x))).

    Ding et al. 2021, arXiv:2105.13290, section 3.3; Gemma 2 and 3 (Gemma Team 2024,
    arXiv:2408.00118).
    """

    final_norm = True

    def add_norms(self, norm: Callable[[], nn.Module]) -> None:
        self.attention_post_norm = norm()
        if self.has_cross:
            self.cross_post_norm = norm()
        if self.has_feedforward:
            self.feedforward_post_norm = norm()

    def output_norm(self, branch: str) -> nn.Module | None:
        return self.get_submodule(f"{branch}_post_norm")

    def forward(self, x: Tensor, across: Context | None = None, **context: Any) -> Tensor:
        """Maps (B, T, D) to (B, T, D); see `PreNormBlock.forward`."""
        y = self.attention_post_norm(self.attention(self.attention_norm(x), **context))
        x = site(self, "mid", x + y)
        if self.has_cross:
            y = self.cross_post_norm(self.cross(self.cross_norm(x), **(across or {})))
            x = site(self, "crossed", x + y)
        if self.has_feedforward:
            x = x + self.feedforward_post_norm(self.feedforward(self.feedforward_norm(x)))
        return x


class PostNormBlock(Block):
    """Post-norm block: norm(x + f(x)) for each branch f (Vaswani et al. 2017, section 3.1)."""

    final_norm = False
    additive = False

    def forward(self, x: Tensor, across: Context | None = None, **context: Any) -> Tensor:
        """Maps (B, T, D) to (B, T, D); see `PreNormBlock.forward`."""
        x = site(self, "mid", self.attention_norm(x + self.attention(x, **context)))
        if self.has_cross:
            x = site(self, "crossed", self.cross_norm(x + self.cross(x, **(across or {}))))
        if self.has_feedforward:
            x = self.feedforward_norm(x + self.feedforward(x))
        return x


class ParallelBlock(Block):
    """Parallel block, in which all branches read the same x:
    x + attention(norm1(x)) + feedforward(norm2(x)).

    GPT-NeoX (Black et al. 2022, arXiv:2204.06745, section 2.1, with a norm for each branch). If
    there is cross-attention, it also reads x, and its output is added to the sum.
    """

    final_norm = True
    parallel = True

    def forward(self, x: Tensor, across: Context | None = None, **context: Any) -> Tensor:
        """Maps (B, T, D) to (B, T, D); see `PreNormBlock.forward`."""
        y = x + self.attention(self.attention_norm(x), **context)
        if self.has_cross:
            y = y + self.cross(self.cross_norm(x), **(across or {}))
        if self.has_feedforward:
            y = y + self.feedforward(self.feedforward_norm(x))
        return y
