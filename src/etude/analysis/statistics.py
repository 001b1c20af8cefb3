"""How sure one can be of a mean over seeds, and of a difference between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etude.errors import Checks

FEWEST = 3
"""Fewer values than this tell nothing of their spread: no interval."""
RESAMPLES = 9999
_AT_ONCE = 2**24  # numbers drawn at a time


def interval(
    values: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """A bootstrap confidence interval of the mean.

    The percentile bootstrap is too narrow for few values, as it takes n - 1 degrees of freedom for
    n; its percentiles are moved outwards so that for normal values its length is Student's
    (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.5: the expanded
    percentile interval). It cannot leave the range of the values: of three it covers the mean of
    what they come from at most three times in four.

    Args:
        values: such as one a seed.
        level: of confidence.
        seed: of the resampling.

    Returns:
        Both ends; None for fewer than three values.
    """
    checks = Checks()
    checks.that(0 < level < 1, "level", level, "a share between 0 and 1")
    checks.done()
    if len(values) < FEWEST:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    from scipy import stats

    n = len(values)
    tail = stats.norm.cdf(stats.t.ppf((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1)))
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        confidence_level=1 - 2 * tail,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, _AT_ONCE // n),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return max(float(found.low), min(values)), min(float(found.high), max(values))  # of rounding


@dataclass(frozen=True)
class Difference:
    """Two models on the same examples.

    Attributes:
        examples: how many.
        mean: of the second's scores minus the first's.
        low, high: the 95 % bootstrap interval of that mean.
        permutation: p of the sign-flip permutation test.
        bootstrap: p of the paired bootstrap.
        mcnemar: p of McNemar's exact test; None unless every score is 0 or 1.
    """

    examples: int
    mean: float
    low: float
    high: float
    permutation: float
    bootstrap: float
    mcnemar: float | None


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Difference:
    """Whether two models differ, from their scores on the same examples, in the same order.

    All tests are two-sided. The permutation test (Fisher 1935) flips signs of differences; the
    bootstrap draws examples with replacement (Efron & Tibshirani 1993, chapter 16); McNemar's
    (1947) is the exact binomial test on the examples that only one model gets right. All of them
    take examples for independent, and the two trained models as they are: another seed may differ.

    Raises:
        InvalidArguments: the numbers of scores differ, are below 2, or one is not finite.
    """
    from scipy import stats

    a, b = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    checks = Checks()
    checks.that(len(a) == len(b), "scores", f"{len(a)} and {len(b)}", "the same examples")
    checks.that(len(a) > 1, "scores", len(a), "two examples or more")
    finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
    checks.that(finite, "scores", "NaN or infinity", "finite numbers")
    checks.done()
    gaps = b - a
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    mcnemar = None
    if binary:
        won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
        mcnemar = float(stats.binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    if not gaps.any():
        return Difference(len(a), 0.0, 0.0, 0.0, 1.0, 1.0, mcnemar)
    batch = max(1, _AT_ONCE // len(gaps))
    flipped = stats.permutation_test(
        (gaps,),
        _mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        batch=batch,
        rng=np.random.default_rng(seed),
    )
    drawn = stats.bootstrap(
        (gaps,),
        np.mean,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=batch,
        rng=np.random.default_rng(seed),
    )
    means = drawn.bootstrap_distribution
    tails = min((means <= 0).sum(), (means >= 0).sum())
    return Difference(
        examples=len(a),
        mean=float(gaps.mean()),
        low=float(drawn.confidence_interval.low),
        high=float(drawn.confidence_interval.high),
        permutation=float(flipped.pvalue),
        bootstrap=float(min(1.0, 2 * (tails + 1) / (len(means) + 1))),
        mcnemar=mcnemar,
    )


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(values.mean(axis=axis))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979): valid however they depend.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
