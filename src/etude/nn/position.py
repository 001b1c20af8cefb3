"""Position modules: encodings of the order of tokens.

A position module may act on the embeddings (`embed`), on queries and keys (`rotate`), and on the
attention scores (`bias`). By default, none of these methods changes anything.
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
    """Base class of position modules; it adds no position information itself.

    The model passes the arguments below to each position module. The base class ignores them, so a
    custom constructor need not pass them on.

    Args:
        dim: D, the model width.
        heads: H, the number of heads.
        max_length: length of the longest training sequence.
        head_dim: K, the head dimension; None is D / H.

    Attributes:
        given: names of the arguments that the model passes; see `etude.config.constructors`.
        limit: length of the longest supported sequence; None for any length.
        bounded: whether each position has its own row of weights, which limits the length.
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
        """Returns embeddings x (B, T, D) with position information added; the shape doesn't change.

        Args:
            start: position of the first embedding, or a tensor (B, T) with the position of each.
        """
        return x

    def rotate(self, q: Tensor, k: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Returns queries and keys, rotated according to their positions; shapes don't change.

        Args:
            q: queries (B, H, T, K): batch, heads, positions, head dimension.
            k: keys (B, G, T, K) of G key-value heads.
            start: as for `embed`.
        """
        return q, k

    def reach(self, length: int) -> None:
        """Prepares the module for positions below `length`; called before `embed` and `rotate` when
        positions are passed explicitly.

        Raises:
            InvalidArguments: `length` is above `limit`.
        """

    def at_base_width(self, ratio: float) -> None:
        """Rescales the initial weights in place, to the standard deviation at muP's base width.

        Only weights whose initial values depend on the width change; the base class has none.

        Args:
            ratio: the width divided by the base width.
        """

    def bias(self, T: int, S: int, like: Tensor) -> Tensor | None:
        """Returns the bias to add to the attention scores, of shape (H, T, S); None for no bias.

        H is the number of heads, S the number of keys. The T queries are at the last T of the S
        positions.

        Args:
            like: a tensor with the device and the dtype of the bias.
        """
        return None


def embeds(position: Position) -> bool:
    """Returns whether a position module acts on the embeddings."""
    return type(position).embed is not Position.embed


class NoPosition(Position):
    """Position module that adds no position information; a causal model can still infer positions
    (Haviv et al. 2022, arXiv:2203.16634).
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None:
        super().__init__()


class Learned(Position):
    """Position module that adds a learned vector for each position to the embedding (Radford et al.
    2019).

    The vectors are initially normal with standard deviation `std`.

    Args:
        offset: row of the weight for the first position; earlier rows are not used. It is 2 in
            RoBERTa, which numbers positions from the padding token's id + 1.
        std: initial standard deviation; 0.02 as in GPT-2. With much larger embeddings, positions
            initially have little effect.

    Raises:
        InvalidArguments: in `embed`, if the sequence is longer than `max_length`.
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
            expected = f"at most {self.limit} tokens, the number of learned position embeddings"
            raise InvalidArguments(Problem("sequence length", expected, length))


class Sinusoidal(Position):
    """Position module that adds sines and cosines of the position to the embedding, with
    geometrically spaced frequencies.

    Sequences may have any length. Vaswani et al. 2017, section 3.5, for position t and model width
    D: PE[t, 2i] = sin(t / 10000^(2i/D)), PE[t, 2i+1] = cos(t / 10000^(2i/D)).

    Args:
        halves: whether all sines precede all cosines, as in the code of Vaswani et al. and in
            Marian.
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
    """Rotary position embedding (RoPE): rotates queries and keys by angles proportional to the
    position, so that a score depends only on the distance between query and key.

    Sequences may have any length. Su et al. 2021 (arXiv:2104.09864), equation 34, with Llama's
    layout: for the head dimension K, plane i is spanned by the coordinates i and i + K/2 of a head,
    and rotated at position t by the angle t * base^(-2i/K).

    Args:
        base: base of the angles. With a larger base, planes rotate more slowly, as is needed for
            longer contexts.
        fraction: fraction of a head's coordinates that are rotated, beginning with the first; a
            quarter in GPT-NeoX (Black et al. 2022, arXiv:2204.06745, section 2.1). K in the
            formulas is then the number of rotated coordinates.

    Raises:
        InvalidArguments: the number of rotated coordinates is odd, or an argument is out of range.
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
            expected = f"a number that gives each of the {heads} heads an even dimension, not {K}"
            checks.that(K % 2 == 0, key, value, expected)
        else:
            is_even = width > 0 and width % 2 == 0
            expected = f"a fraction that rotates an even number of a head's {K} dimensions, "
            checks.that(is_even, "fraction", fraction, f"{expected}not {width}")
        checks.done()
        self.width, self.base = width, base
        self.whole = width == K
        frequencies = partial(self.frequencies, width=width, base=base)
        self.rows = _Table(partial(rotations, frequencies=frequencies), size=max_length)

    def reach(self, length: int) -> None:
        self.rows.reach(length)

    def frequencies(self, width: int, base: float) -> Tensor:
        """Returns the angle in radians by which each plane turns from one position to the next, as
        a float64 tensor of shape (width / 2,).

        Args:
            width: number of rotated coordinates, two for each plane.
            base: see `Rotary`.
        """
        return _frequencies(width, base)

    def rotate(self, q: Tensor, k: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        rows = self.rows(start, q.shape[-2], q)  # (T, 2, K) or (B, T, 2, K)
        cos, sin = rows.unbind(-2)
        if rows.ndim == 4:
            cos, sin = cos[:, None], sin[:, None]

        def rotate(x: Tensor) -> Tensor:
            # (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); the table contains the minus.
            return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)

        if self.whole:
            return rotate(q), rotate(k)
        sizes = (self.width, q.shape[-1] - self.width)
        pairs = (x.split_with_sizes(sizes, dim=-1) for x in (q, k))
        q, k = (torch.cat((rotate(head), rest), dim=-1) for head, rest in pairs)
        return q, k


class LinearRotary(Rotary):
    """`Rotary` with all positions divided by a factor, to extend the context (position
    interpolation; Chen et al. 2023, arXiv:2306.15595, equation 5).

    Args:
        factor: the new sequence length divided by the sequence length of the previous training.
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
    """`Rotary` with low frequencies divided by a factor, to extend the context (Llama 3.1;
    Grattafiori et al. 2024, arXiv:2407.21783).

    High frequencies are unchanged; between low and high ones, the divisor is interpolated.

    Args:
        factor: divisor of low frequencies.
        low: frequencies with fewer full turns than this in `original_length` positions are low.
        high: frequencies with more full turns than this in `original_length` positions are high.
        original_length: sequence length of the previous training, in tokens.
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
        frequencies = _frequencies(width, base)
        turns = self.original_length * frequencies / (2 * math.pi)
        weight = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (weight + (1 - weight) / self.factor)


class RelativeBias(Position):
    """A learned bias of the scores for each head and each bucket of distances, as in T5.

    Raffel et al. 2019 (arXiv:1910.10683), section 2.1. In each direction, half of the buckets
    contain one distance each; the others contain ranges that grow logarithmically up to
    `max_distance`, and the last bucket also contains all larger distances. In a bidirectional
    model, half of the buckets are for keys after the query. All layers share the biases. Sequences
    may have any length.

    Args:
        buckets: number of buckets.
        max_distance: distance from which all distances are in the last bucket.
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
        # One row for each distance 1 - S .. S - 1 of a key from a query saves logarithms.
        rows = self.weight[self.bucket(torch.arange(1 - S, S, device=like.device))]
        distance = at[None, :] - at[S - T :, None]  # (T, S)
        return rows[distance + S - 1].permute(2, 0, 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """Returns the index of the bucket of each distance, key position minus query position."""
        n, first = self.buckets, torch.zeros_like(distance)
        if not self.causal:
            n //= 2
            first = (distance > 0) * n
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = n // 2
        # float32 as in the authors' code: rounding determines the edges of buckets.
        ratio = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (n - exact)).long()).clamp(max=n - 1)
        return first + torch.where(distance < exact, distance, far)


_MOST_HEADS = 2**20


class ALiBi(Position):
    """Attention with linear biases: lowers the score of a key in proportion to its distance from
    the query (Press et al. 2021, arXiv:2108.12409, section 3).

    The slopes of H heads are 2^(-8/H), 2^(-16/H), ... If H is not a power of two, the slopes are
    those of n heads, where n is the next lower power of two, followed by every second slope of 2n
    heads, as in the code of Press et al. In a bidirectional model the distance counts in both
    directions. Sequences may have any length.
    """

    def __init__(
        self, *, dim: int, heads: int, max_length: int, head_dim: int | None = None
    ) -> None:
        super().__init__()
        checks = Checks()
        checks.that(0 < heads <= _MOST_HEADS, "heads", heads, f"1 to {_MOST_HEADS:,} heads")
        checks.done()
        self.slopes = alibi_slopes(heads)

    def bias(self, T: int, S: int, like: Tensor) -> Tensor:
        # bfloat16 represents integers up to 256 only.
        precise = torch.promote_types(like.dtype, torch.float32)
        keys = torch.arange(S, dtype=precise, device=like.device)
        distance = (keys[S - T :, None] - keys).abs()  # (T, S)
        slopes = torch.tensor(self.slopes, dtype=precise, device=like.device)
        return -slopes[:, None, None] * distance


def alibi_slopes(heads: int) -> list[float]:
    """Returns the slope of each of `heads` heads, as defined in `ALiBi`."""
    n = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / n) for h in range(n)]
    return slopes + [2 ** (-4 * (h + 1) / n) for h in range(0, 2 * (heads - n), 2)]


def sinusoids(t: Tensor, width: int, halves: bool = False) -> Tensor:
    """Maps positions t of shape (T,) to the vectors that `Sinusoidal` adds, of shape (T, width);
    `halves` as in `Sinusoidal`.
    """
    angles = t[:, None] * _frequencies(width, base=10000.0)
    if halves:
        return torch.cat((angles.sin(), angles.cos()[:, : width // 2]), dim=-1)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def rotations(t: Tensor, frequencies: Callable[[], Tensor]) -> Tensor:
    """Maps positions t of shape (T,) to the factors of `rotate`, of shape (T, 2, width): the
    cosines (cos, cos) and the signed sines (-sin, sin) of the angles.

    Args:
        frequencies: function that returns the angle per position, of shape (width / 2,).
    """
    angles = t[:, None] * frequencies()
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)), dim=1)


def _frequencies(width: int, base: float) -> Tensor:
    """Returns base^(-2i/width) for i = 0, 1, ..., one for each pair of coordinates, in float64."""
    i = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    return base ** (-i / width)


_FIRST_ROWS = 2**16
"""Largest initial number of rows; a longer table grows with the positions that are used."""


class _Table:
    """Table of the values of a function at the positions 0, 1, ..., computed in float64 and cached
    in the dtype of the caller's tensors.

    Args:
        rows: function of positions (T,) that returns their rows (T, ...).
        size: initial number of rows; `_FIRST_ROWS` if it is larger than that.

    The table is not a buffer of the module, because `model.bfloat16()` would round it and
    `to_empty()` would leave it undefined. It is on the device of the caller's tensors, and its
    length at least doubles when a longer sequence is needed.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], size: int) -> None:
        self.rows = rows
        self.size = min(size, _FIRST_ROWS)
        self.cached: Tensor | None = None

    def reach(self, length: int) -> None:
        """Sets the minimum number of rows with which the table is next computed."""
        self.size = max(self.size, length)

    def __call__(self, start: int | Tensor, T: int, like: Tensor) -> Tensor:
        """Returns the table's rows, of shape (T, ...), for the positions `start` to `start + T -
        1`.

        If `start` is a tensor of positions of shape (B, T), returns the rows of these positions,
        with shape (B, T, ...). The rows are on the device of `like`, in its dtype, or in float32 if
        float32 is more precise.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        stop = self.size if isinstance(start, Tensor) else start + T
        cached = self.cached
        if (
            cached is None
            or cached.device != like.device
            or cached.dtype != dtype
            or len(cached) < stop
        ):
            self.size = self.size if stop <= self.size else max(stop, 2 * self.size)
            # A table created in inference mode can't be used in a later backward pass.
            with torch.inference_mode(False):
                t = torch.arange(self.size, dtype=torch.float64, device="cpu")
                self.cached = cached = self.rows(t).to(like.device, dtype)
        return cached[start] if isinstance(start, Tensor) else cached[start:stop]
