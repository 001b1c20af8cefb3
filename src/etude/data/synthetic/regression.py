"""Functions to be learnt from the examples of them that stand before, within one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from etude.data.synthetic.base import Arrays, Asked, SyntheticData
from etude.data.synthetic.draws import Draws
from etude.errors import Checks


@dataclass(kw_only=True, eq=False)
class LinearRegression(SyntheticData):
    """In-context linear regression: x_1, y_1, x_2, y_2, ..., whose y_i = w . x_i are to be said
    (Garg et al. 2022, arXiv:2208.01066, section 3).

    Of each sequence w and all x_i are N(0, I_d). A place holds d numbers, those of y being
    (y, 0, ..., 0). What is asked at x_i is y_i, of which i - 1 examples are known. With isotropic
    inputs the least squares of minimum norm has the expected error (d - k) / d of k < d examples,
    in units of E[y²] = d, and none from k = d on.

    `numbers` is (n, T, d) and `values` (n, T), not a number where nothing is asked, both float32.

    Args:
        dimensions: d.
        noise: standard deviation of what is added to each y, normal too (the paper's section 4.2).
        fresh_weights: a w of its own for each pair, so that the examples tell nothing of the next
            one and the best that can be said is 0: the negative control.
        sequence_length: T, odd: the last place is an x.
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
        expected = "an odd number: the last y would be read by nobody"
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

    def asked(self, arrays: Arrays) -> Asked:
        return ~np.isnan(arrays["values"])
