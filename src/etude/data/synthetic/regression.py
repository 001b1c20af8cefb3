"""Synthetic data for in-context learning of a function from pairs earlier in the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from etude.data.synthetic.base import Arrays, SyntheticData, TargetMask
from etude.data.synthetic.draws import Draws
from etude.errors import Checks


@dataclass(kw_only=True, eq=False)
class LinearRegression(SyntheticData):
    """In-context linear regression: sequences x_1, y_1, x_2, y_2, ... with targets y_i = w . x_i
    (Garg et al. 2022, arXiv:2208.01066, section 3).

    For each sequence, w and all x_i are drawn from a normal distribution with mean 0 and the
    identity matrix (d, d) as covariance. Each position holds d numbers: x_i, or (y_i, 0, ..., 0).
    The target at the position of x_i is y_i; it is preceded by i - 1 pairs. Without noise, the
    minimum-norm least-squares solution from k pairs has the expected squared error d - k if k < d,
    which is the fraction (d - k) / d of E[y²] = d, and otherwise 0.

    The arrays of n examples are `numbers` (n, T, d) and `values` (n, T), both float32. `values` is
    NaN at positions without a target.

    Args:
        dimensions: d, the number of elements of w and of each x_i.
        noise: standard deviation of normal noise added to each y (section 4.2 of the paper).
        fresh_weights: whether to draw a separate w for each pair. Then earlier pairs contain no
            information and the best prediction is 0 (a negative control).
        sequence_length: T, an odd number, because the last position is an x.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    fields = ("numbers", "values")
    task: ClassVar[str] = "regression"

    sequence_length: int = 13
    dimensions: int = 3
    noise: float = 0.0
    fresh_weights: bool = False
    training: int | None = None
    validation: int = 1000

    def validate(self, checks: Checks) -> None:
        dimensions, noise, length = self.dimensions, self.noise, self.sequence_length
        checks.positive(dimensions=dimensions)
        checks.that(dimensions <= 2**16, "dimensions", dimensions, "at most 65,536")
        checks.that(0 <= noise <= 1e6, "noise", noise, "a number from 0 to 1,000,000")
        expected = "an odd number (x and y alternate; the y of the last x is only a target)"
        checks.that(length % 2 == 1, "sequence_length", length, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return []

    def settings(self) -> dict[str, object]:
        return {
            "dimensions": self.dimensions,
            "noise": self.noise,
            "fresh_weights": self.fresh_weights,
        }

    def drawn(self, draws: Draws, count: int) -> Arrays:
        d, pairs = self.dimensions, (self.sequence_length + 1) // 2
        functions = pairs if self.fresh_weights else 1
        x = draws.normal(pairs * d).reshape(count, pairs, d)
        w = draws.normal(functions * d).reshape(count, functions, d)
        y = (x * w).sum(-1)
        if self.noise:
            y = y + self.noise * draws.normal(pairs)
        numbers = np.zeros((count, self.sequence_length, d), dtype=np.float32)
        numbers[:, 0::2], numbers[:, 1::2, 0] = x, y[:, :-1]
        values = np.full((count, self.sequence_length), np.nan, dtype=np.float32)
        values[:, 0::2] = y
        return {"numbers": numbers, "values": values}

    def asked(self, arrays: Arrays) -> TargetMask:
        return ~np.isnan(arrays["values"])
