"""Feed-forward modules: the branch of a block that transforms each position independently.

There are two forms: `down(activation(up(x)))`, and gated `down(activation(gate(x)) * up(x))`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.matrices import Matrix, whole
from etude.nn.sites import Tap, site


class FeedForward(nn.Module, ABC):
    """Base class of feed-forward modules with two matrices: down(activation(up(x))).

    Vaswani et al. 2017, section 3.3.

    Args:
        dim: D, the model width.
        bias: whether the projections have a bias.
        dropout: dropout probability of the output.
        hidden: F, the width of the hidden layer; None uses 4 D.
    """

    own_sites: ClassVar[dict[str, str]] = {"hidden": "B T F"}
    tap: Tap | None = None

    def __init__(self, *, dim: int, bias: bool, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        _check(dim, dropout, hidden)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def activation(self, x: Tensor) -> Tensor:
        """Applies the activation function to the output of `up`; same shape (..., F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        return self.dropout(self.down(site(self, "hidden", self.activation(self.up(x)))))

    def matrices(self) -> dict[str, Matrix]:
        """Returns a dict from the names of the linear layers to their purposes, such as whether a
        layer writes to the residual stream; see `etude.nn.matrices`.
        """
        return {"up": whole("up", self.up), "down": whole("down", self.down, writes=True)}


class ReLU(FeedForward):
    """Feed-forward module with the activation max(0, x), as in the original Transformer."""

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)


class GELU(FeedForward):
    """Feed-forward module with the activation GELU: x times the standard normal distribution
    function of x (Hendrycks & Gimpel 2016, arXiv:1606.08415).
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GELUTanh(FeedForward):
    """Feed-forward module with the tanh approximation of GELU (Hendrycks & Gimpel 2016,
    arXiv:1606.08415, section 2), as in GPT-2.
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class SiLU(FeedForward):
    """Feed-forward module with the activation x * sigmoid(x), as in Marian's models (Hendrycks &
    Gimpel 2016; Ramachandran et al. 2017, arXiv:1710.05941, under the name Swish).
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


class SquaredReLU(FeedForward):
    """Feed-forward module with the activation max(0, x)^2, as in Primer (So et al. 2021,
    arXiv:2109.08668).
    """

    def activation(self, x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive * positive  # same bits as a power, faster forward and backward


class GatedFeedForward(nn.Module, ABC):
    """Base class of gated feed-forward modules: down(activation(gate(x)) * up(x)).

    Shazeer 2020 (arXiv:2002.05202), section 2.

    Args:
        dim: D, the model width.
        bias: whether the projections have a bias; Shazeer's have none.
        dropout: dropout probability of the output.
        hidden: F, the width of the hidden layer; None uses 8/3 D rounded up to a multiple of 8, so
            that the three matrices have about as many weights as two matrices with F = 4 D.
    """

    own_sites: ClassVar[dict[str, str]] = {"hidden": "B T F"}
    tap: Tap | None = None

    def __init__(self, *, dim: int, bias: bool, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        hidden = -(-dim // 3) * 8 if hidden is None else hidden
        _check(dim, dropout, hidden)
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def activation(self, x: Tensor) -> Tensor:
        """Applies the activation function to the output of `gate`; same shape (..., F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        hidden = site(self, "hidden", self.activation(self.gate(x)) * self.up(x))
        return self.dropout(self.down(hidden))

    def matrices(self) -> dict[str, Matrix]:
        """Returns a dict from the names of the linear layers to their purposes, such as whether a
        layer writes to the residual stream; see `etude.nn.matrices`.
        """
        gate, up = whole("gate", self.gate), whole("up", self.up)
        return {"gate": gate, "up": up, "down": whole("down", self.down, writes=True)}


class SwiGLU(GatedFeedForward):
    """Feed-forward module gated by x * sigmoid(x) (Shazeer 2020, equation 6)."""

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


class GEGLU(GatedFeedForward):
    """Feed-forward module gated by GELU (Shazeer 2020, equation 6)."""

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GEGLUTanh(GatedFeedForward):
    """Feed-forward module gated by the tanh approximation of GELU, as in T5 v1.1."""

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class NoFeedForward(nn.Module):
    """Placeholder for blocks without a feed-forward branch: the block omits the branch and its
    norm.

    It is used in attention-only models (Elhage et al. 2021, "A Mathematical Framework for
    Transformer Circuits").

    Args:
        dim, bias, dropout: not used.
    """

    def __init__(self, *, dim: int, bias: bool, dropout: float) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Returns zeros of the same shape as x."""
        return torch.zeros_like(x)


def _check(dim: int, dropout: float, hidden: int) -> None:
    checks = Checks()
    checks.positive(dim=dim, hidden=hidden)
    checks.probability(dropout=dropout)
    checks.done()
