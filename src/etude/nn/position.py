"""How a model knows the order of its tokens.

A position part may act in three places: on the embeddings (`embed`), on queries and keys
(`rotate`), and on the attention scores (`bias`). Each does nothing unless a part says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks, InvalidArguments, Problem


class Position(nn.Module):
    """The base of all position parts: knows nothing about the order.

    The model gives each part the arguments below. The base keeps none of them, so a part with a
    constructor of its own need not pass them on.

    Args:
        dim: D.
        heads: H.
        max_length: the longest sequence that the model is trained on.
        head_dim: K; None is D / H.

    Attributes:
        given: what the model gives; see `etude.config.constructors`.
        limit: the longest sequence that can be represented; None for any length.
        bounded: whether each position has a row of its own, which limits the length.
        causal: whether queries don't see later keys; set by the model.
    """

    given = frozenset({"dim", "heads", "max_length", "head_dim"})
    limit: int | None = None
    bounded: ClassVar[bool] = False
    causal: bool = True

    def __init__(
        self,
        *,
        dim: int | None = None,
        heads: int | None = None,
        max_length: int | None = None,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()

    def embed(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        """Embeddings x (B, T, D); same shape.

        Args:
            start: they stand at start, start + 1, ...; or (B, T), where each stands.
        """
        return x

    def rotate(self, q: Tensor, k: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, K) and keys (B, G, T, K) of the positions that `start` says, as in
        `embed`; same shapes.
        """
        return q, k

    def reach(self, length: int) -> None:
        """Called before `embed` and `rotate` where these are told positions: all below `length`."""

    def at_base_width(self, ratio: float) -> None:
        """Makes what the part drew what it would have drawn at muP's base width.

        Args:
            ratio: the width over that.
        """

    def bias(self, T: int, S: int, like: Tensor) -> Tensor | None:
        """(H, T, S), to be added to the scores of the last T of S positions, or None.

        Args:
            like: a tensor whose device and precision the bias follows.
        """
        return None


def embeds(position: Position) -> bool:
    """Whether a part acts on the embeddings."""
    return type(position).embed is not Position.embed


class NoPosition(Position):
    """No positions: a causal model can still count (Haviv et al. 2022, arXiv:2203.16634)."""

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None:
        super().__init__()


class Learned(Position):
    """A learned vector for each position, added to the embedding (Radford et al. 2019).

    Drawn from N(0, std).

    Args:
        offset: the row of the first position; those before it are not used. 2 in RoBERTa, whose
            positions begin after that of its padding.
        std: of the first values; 0.02 as GPT-2's. Beside embeddings that are much larger they are
            hardly seen at first.

    Raises:
        InvalidArguments: in `embed`, for a sequence that goes past `max_length`.
    """

    bounded = True

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        offset: int = 0,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.that(offset >= 0, "offset", offset, "0 or more")
        checks.positive(std=std)
        checks.done()
        self.limit: int = max_length
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(offset + max_length, dim))
        nn.init.normal_(self.weight, std=std)

    def embed(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        if isinstance(start, Tensor):
            return x + F.embedding(start + self.offset, self.weight)
        stop = start + x.shape[1]
        self.reach(stop)
        return x + self.weight[self.offset + start : self.offset + stop]

    def reach(self, length: int) -> None:
        if length > self.limit:
            expected = f"at most {self.limit} tokens: learned positions end at {self.limit}"
            raise InvalidArguments(Problem("sequence length", expected, length))


class Sinusoidal(Position):
    """Sines and cosines of geometric frequencies, added to the embedding (any length).

    Vaswani et al. 2017, section 3.5:
    PE[t, 2i] = sin(t / 10000^(2i/D)), PE[t, 2i+1] = cos(t / 10000^(2i/D)).

    Args:
        halves: all sines first, then all cosines, as in the authors' code and in Marian.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        halves: bool = False,
    ) -> None:
        super().__init__()
        self.halves = halves
        self.rows = _Table(partial(sinusoids, width=dim, halves=halves), size=max_length)

    def reach(self, length: int) -> None:
        self.rows.reach(length)

    def embed(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        return (x + self.rows(start, x.shape[1], x)).to(x.dtype)


class Rotary(Position):
    """Turns queries and keys by angles that grow with the position, so that a score depends on
    the distance alone (any length).

    Su et al. 2021 (arXiv:2104.09864), equation 34, with the pairs laid out as in Llama: the
    plane i is spanned by the coordinates i and i + K/2 of a head, and turned at position t by
    t * base^(-2i/K).

    Args:
        base: sets the slowest frequency; larger for longer contexts.
        fraction: of a head's width that is turned, from the first coordinate on; a quarter in
            GPT-NeoX (Black et al. 2022, arXiv:2204.06745, section 2.1).

    Raises:
        InvalidArguments: for an odd width.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        base: float = 10000.0,
        fraction: float = 1.0,
    ) -> None:
        super().__init__()
        K = dim // heads if head_dim is None else head_dim
        width = int(K * fraction)
        checks = Checks()
        checks.positive(base=base)
        checks.that(0 < fraction <= 1, "fraction", fraction, "a number in (0, 1]")
        key, value = ("dim", dim) if head_dim is None else ("head_dim", head_dim)
        if fraction == 1:
            checks.that(K % 2 == 0, key, value, f"an even width of each of {heads} heads, not {K}")
        else:
            even = width > 0 and width % 2 == 0
            checks.that(even, "fraction", fraction, f"an even part of the width {K}, not {width}")
        checks.done()
        self.width, self.base = width, base
        self.whole = width == K
        frequencies = partial(self.frequencies, width=width, base=base)
        self.rows = _Table(partial(rotations, frequencies=frequencies), size=max_length)

    def reach(self, length: int) -> None:
        self.rows.reach(length)

    def frequencies(self, width: int, base: float) -> Tensor:
        """The angle of each plane a position (width / 2,), in radians, float64."""
        return _frequencies(width, base)

    def rotate(self, q: Tensor, k: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        rows = self.rows(start, q.shape[-2], q)  # (T, 2, K) or (B, T, 2, K)
        cos, sin = rows.unbind(-2)
        if rows.ndim == 4:
            cos, sin = cos[:, None], sin[:, None]

        def turn(x: Tensor) -> Tensor:
            # (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); the minus stands in the table.
            return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)

        if self.whole:
            return turn(q), turn(k)
        sizes = (self.width, q.shape[-1] - self.width)
        pairs = (x.split_with_sizes(sizes, dim=-1) for x in (q, k))
        q, k = (torch.cat((turn(turned), rest), dim=-1) for turned, rest in pairs)
        return q, k


class LinearRotary(Rotary):
    """`Rotary` at positions divided by a factor: a longer text in the angles of a shorter one
    (Chen et al. 2023, arXiv:2306.15595, equation 5).

    Args:
        factor: the longer length over the one trained before.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        base: float = 10000.0,
        fraction: float = 1.0,
        factor: float = 1.0,
    ) -> None:
        checks = Checks()
        checks.positive(factor=factor)
        checks.done()
        self.factor = factor
        super().__init__(
            dim=dim, heads=heads, max_length=max_length, head_dim=head_dim, base=base,
            fraction=fraction,
        )  # fmt: skip

    def frequencies(self, width: int, base: float) -> Tensor:
        return _frequencies(width, base) / self.factor


class Llama3Rotary(Rotary):
    """`Rotary` whose slow frequencies are divided by a factor and whose fast ones are kept, with
    a smooth passage between (Llama 3.1's; Grattafiori et al. 2024, arXiv:2407.21783).

    Args:
        factor: slow frequencies are divided by it.
        low, high: a frequency with fewer than `low` turns in `original_length` positions is
            slow, one with more than `high` is fast.
        original_length: the length trained before.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        base: float = 500000.0,
        fraction: float = 1.0,
        factor: float = 8.0,
        low: float = 1.0,
        high: float = 4.0,
        original_length: int = 8192,
    ) -> None:
        checks = Checks()
        checks.positive(factor=factor, low=low, original_length=original_length)
        checks.that(high > low, "high", high, f"a number above low = {low}")
        checks.done()
        self.factor, self.low, self.high = factor, low, high
        self.original_length = original_length
        super().__init__(
            dim=dim, heads=heads, max_length=max_length, head_dim=head_dim, base=base,
            fraction=fraction,
        )  # fmt: skip

    def frequencies(self, width: int, base: float) -> Tensor:
        plain = _frequencies(width, base)
        turns = self.original_length * plain / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain * (kept + (1 - kept) / self.factor)


class RelativeBias(Position):
    """A learned number for each head and bucket of distances, added to the scores; any length.

    Raffel et al. 2019 (arXiv:1910.10683), section 2.1. Half of a direction's buckets hold one
    distance each, the others ranges that grow logarithmically up to `max_distance`; the last
    one holds all beyond. In a bidirectional model half of the buckets are for keys after the query.
    All layers share the numbers.

    Args:
        buckets: how many.
        max_distance: where the last bucket begins.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        max_length: int,
        head_dim: int | None = None,
        buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.positive(heads=heads)
        checks.that(buckets >= 4 and buckets % 4 == 0, "buckets", buckets, "a multiple of 4")
        checks.that(
            max_distance > buckets, "max_distance", max_distance, f"more than buckets = {buckets}"
        )
        checks.done()
        self.buckets, self.max_distance = buckets, max_distance
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=dim**-0.5)  # as the authors' code

    @torch.no_grad()
    def at_base_width(self, ratio: float) -> None:
        self.weight.mul_(math.sqrt(ratio))

    def bias(self, T: int, S: int, like: Tensor) -> Tensor:
        at = torch.arange(S, device=like.device)
        # A row for each distance 1 - S .. S - 1 of a key from a query: few need a logarithm.
        rows = self.weight[self.bucket(torch.arange(1 - S, S, device=like.device))]
        distance = at[None, :] - at[S - T :, None]  # (T, S)
        return rows[distance + S - 1].permute(2, 0, 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance key - query (any shape), an integer."""
        n, first = self.buckets, torch.zeros_like(distance)
        if not self.causal:
            n //= 2
            first = (distance > 0) * n
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = n // 2
        # float32 as in the authors' code: at the edges of buckets the rounding decides.
        ratio = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (n - exact)).long()).clamp(max=n - 1)
        return first + torch.where(distance < exact, distance, far)


_MOST_HEADS = 2**20


class ALiBi(Position):
    """Lowers the score of a key in proportion to its distance (Press et al. 2021,
    arXiv:2108.12409, section 3); any length.

    The slopes of H heads are 2^(-8/H), 2^(-16/H), ...; where H is not a power of two, those of
    the power n below, then every other one of 2n, as in the authors' code. In a bidirectional
    model the distance counts in both directions.
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.that(0 < heads <= _MOST_HEADS, "heads", heads, f"1 to {_MOST_HEADS:,}")
        checks.done()
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


def sinusoids(t: Tensor, width: int, halves: bool = False) -> Tensor:
    """Positions t (T,) to the vectors that `Sinusoidal` adds (T, width)."""
    angles = t[:, None] * _frequencies(width, base=10000.0)
    if halves:
        return torch.cat((angles.sin(), angles.cos()[:, : width // 2]), dim=-1)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def rotations(t: Tensor, frequencies: Callable[[], Tensor]) -> Tensor:
    """Positions t (T,) to the cosines (cos, cos) and signed sines (-sin, sin), (T, 2, width)."""
    angles = t[:, None] * frequencies()
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)), dim=1)


def _frequencies(width: int, base: float) -> Tensor:
    """base^(-2i/width) for i = 0, 1, ..., one for each pair of coordinates, in float64."""
    i = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    return base ** (-i / width)


_FIRST_ROWS = 2**16
"""A table of more rows grows with what is read."""


class _Table:
    """A function of the position, tabulated in float64 and kept in the caller's precision.

    Not a buffer of the module: `model.bfloat16()` would round it, `to_empty()` would leave it
    undefined. It follows the device and the precision of what it is used with, and doubles when
    a longer sequence comes.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], size: int) -> None:
        self.rows = rows
        self.size = min(size, _FIRST_ROWS)
        self.kept: Tensor | None = None

    def reach(self, length: int) -> None:
        """Makes the next table at least this long."""
        self.size = max(self.size, length)

    def __call__(self, start: int | Tensor, T: int, like: Tensor) -> Tensor:
        """The rows start to start + T - 1, or those of positions (B, T) as (B, T, ...); on
        `like`'s device, in its precision or float32.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        stop = self.size if isinstance(start, Tensor) else start + T
        kept = self.kept
        if kept is None or kept.device != like.device or kept.dtype != dtype or len(kept) < stop:
            self.size = self.size if stop <= self.size else max(stop, 2 * self.size)
            # A table born in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                t = torch.arange(self.size, dtype=torch.float64, device="cpu")
                self.kept = kept = self.rows(t).to(like.device, dtype)
        return kept[start] if isinstance(start, Tensor) else kept[start:stop]
