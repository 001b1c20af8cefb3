"""Functions to be learned in context, from the examples earlier in the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from etude.data.synthetic.base import Arrays, SyntheticData, TargetMask
from etude.data.synthetic.draws import Draws
from etude.errors import Checks


@dataclass(kw_only=True, eq=False)
class LinearRegression(SyntheticData):
    """In-context linear regression: x_1, y_1, x_2, y_2, ... with y_i = w . x_i, the targets (Garg
    et al. 2022, arXiv:2208.01066, section 3).

    For each sequence, w and all x_i are N(0, I_d). A position holds d numbers; a y is
    (y, 0, ..., 0). The target at x_i is y_i, after i - 1 known pairs. With isotropic inputs, the
    minimum-norm least-squares solution has the expected error (d - k) / d after k < d pairs, in
    units of E[y²] = d, and zero from k = d on.

    `numbers` is (n, T, d) and `values` (n, T), NaN where there is no target, both float32.

    Args:
        dimensions: d.
        noise: standard deviation of normal noise added to each y (section 4.2 of the paper).
        fresh_weights: draws a separate w for each pair, so that earlier pairs contain no
            information and the best prediction is 0: the negative control.
        sequence_length: T, odd: the last position is an x.
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
        expected = "an odd number (the last y is never read)"
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
