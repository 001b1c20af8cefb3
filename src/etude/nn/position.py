"""How a model knows the order of its tokens.

A position part may act in three places: on the embeddings (`embed`), on queries and keys
(`rotate`), and on the attention scores (`bias`). Each does nothing unless a part says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from etude.errors import Checks, InvalidArguments, Problem


class Position(nn.Module):
    """The base of all position parts: knows nothing about the order.

    Args:
        dim: D.
        heads: H.
        max_length: the longest sequence that the model is trained on.

    Attributes:
        limit: the longest sequence that can be represented; None for any length.
    """

    limit: int | None = None

    def __init__(self, *, dim: int, heads: int, max_length: int) -> None:
        super().__init__()

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        """Embeddings x (B, T, D) of the positions start, start + 1, ...; same shape."""
        return x

    def rotate(self, q: Tensor, k: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, K) and keys (B, G, T, K) of the positions start, ...; same shapes."""
        return q, k

    def bias(self, T: int, S: int, like: Tensor) -> Tensor | None:
        """(H, T, S), to be added to the scores of the last T of S positions, or None.

        Args:
            like: a tensor whose device and precision the bias follows.
        """
        return None


class NoPosition(Position):
    """No positions: a causal model can still count (Haviv et al. 2022, arXiv:2203.16634)."""


class Learned(Position):
    """A learned vector for each position, added to the embedding (Radford et al. 2019).

    Drawn from N(0, 0.02), as GPT-2's.

    Raises:
        InvalidArguments: in `embed`, for a sequence that goes past `max_length`.
    """

    def __init__(self, *, dim: int, heads: int, max_length: int) -> None:
        super().__init__(dim=dim, heads=heads, max_length=max_length)
        self.limit: int = max_length
        self.weight = nn.Parameter(torch.empty(max_length, dim))
        nn.init.normal_(self.weight, std=0.02)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        stop = start + x.shape[1]
        if stop > self.limit:
            expected = f"at most {self.limit} tokens: learned positions end at {self.limit}"
            raise InvalidArguments(Problem("sequence length", expected, stop))
        return x + self.weight[start:stop]


class Sinusoidal(Position):
    """Sines and cosines of geometric frequencies, added to the embedding (any length).

    Vaswani et al. 2017, section 3.5:
    PE[t, 2i] = sin(t / 10000^(2i/D)), PE[t, 2i+1] = cos(t / 10000^(2i/D)).
    """

    def __init__(self, *, dim: int, heads: int, max_length: int) -> None:
        super().__init__(dim=dim, heads=heads, max_length=max_length)
        self.rows = _Table(partial(sinusoids, width=dim), size=max_length)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        return (x + self.rows(start, start + x.shape[1], x)).to(x.dtype)


class Rotary(Position):
    """Turns queries and keys by angles that grow with the position, so that a score depends on
    the distance alone (any length).

    Su et al. 2021 (arXiv:2104.09864), equation 34, with the pairs laid out as in Llama: the
    plane i is spanned by the coordinates i and i + K/2 of a head, and turned at position t by
    t * base^(-2i/K).

    Args:
        base: sets the slowest frequency; larger for longer contexts.

    Raises:
        InvalidArguments: for an odd head width.
    """

    def __init__(self, *, dim: int, heads: int, max_length: int, base: float = 10000.0) -> None:
        super().__init__(dim=dim, heads=heads, max_length=max_length)
        K = dim // heads
        checks = Checks()
        checks.positive(base=base)
        checks.that(K % 2 == 0, "dim", dim, f"an even width of each of {heads} heads, not {K}")
        checks.done()
        self.rows = _Table(partial(rotations, width=K, base=base), size=max_length)

    def rotate(self, q: Tensor, k: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        cos, sin = self.rows(start, start + q.shape[-2], q).unbind(1)  # (T, K) each

        def turn(x: Tensor) -> Tensor:
            # (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); the minus stands in the table.
            return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)

        return turn(q), turn(k)


class ALiBi(Position):
    """Lowers the score of a key in proportion to its distance (Press et al. 2021,
    arXiv:2108.12409, section 3); any length.

    The slopes of H heads are 2^(-8/H), 2^(-16/H), ...; where H is not a power of two, those of
    the power n below, then every other one of 2n, as in the authors' code. In a bidirectional
    model the distance counts in both directions.
    """

    def __init__(self, *, dim: int, heads: int, max_length: int) -> None:
        super().__init__(dim=dim, heads=heads, max_length=max_length)
        self.slopes = alibi_slopes(heads)

    def bias(self, T: int, S: int, like: Tensor) -> Tensor:
        # bfloat16 holds distances up to 256 only.
        precise = torch.promote_types(like.dtype, torch.float32)
        keys = torch.arange(S, dtype=precise, device=like.device)
        distance = (keys[S - T :, None] - keys).abs()  # (T, S)
        slopes = torch.tensor(self.slopes, dtype=precise, device=like.device)
        return -slopes[:, None, None] * distance


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head, steepest first within a power of two."""
    n = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / n) for h in range(n)]
    return slopes + [2 ** (-4 * (h + 1) / n) for h in range(0, 2 * (heads - n), 2)]


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Positions t (T,) to the vectors that `Sinusoidal` adds (T, width)."""
    angles = t[:, None] * _frequencies(width, base=10000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def rotations(t: Tensor, width: int, base: float) -> Tensor:
    """Positions t (T,) to the cosines (cos, cos) and signed sines (-sin, sin), (T, 2, width)."""
    angles = t[:, None] * _frequencies(width, base)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)), dim=1)


def _frequencies(width: int, base: float) -> Tensor:
    """base^(-2i/width) for i = 0, 1, ..., one for each pair of coordinates, in float64."""
    i = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    return base ** (-i / width)


class _Table:
    """A function of the position, tabulated in float64 and kept in the caller's precision.

    Not a buffer of the module: `model.bfloat16()` would round it, `to_empty()` would leave it
    undefined. It follows the device and the precision of what it is used with, and doubles when
    a longer sequence comes.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], size: int) -> None:
        self.rows = rows
        self.size = size
        self.kept: Tensor | None = None

    def __call__(self, start: int, stop: int, like: Tensor) -> Tensor:
        """The rows start to stop - 1, on `like`'s device, in its precision or float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        kept = self.kept
        if kept is None or kept.device != like.device or kept.dtype != dtype or len(kept) < stop:
            self.size = self.size if stop <= self.size else max(stop, 2 * self.size)
            # A table born in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                t = torch.arange(self.size, dtype=torch.float64, device="cpu")
                self.kept = kept = self.rows(t).to(like.device, dtype)
        return kept[start:stop]
