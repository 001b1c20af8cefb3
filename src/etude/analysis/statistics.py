"""Confidence intervals of means over seeds, and tests of the difference between two models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.errors import Checks

MIN_VALUES = 3
"""Minimum number of values for an interval; fewer values do not determine the spread."""
RESAMPLES = 9999
MAX_PERMUTATIONS = 200_000
"""Maximum number of permutations that are all computed."""
_BATCH_NUMBERS = 2**24  # numbers drawn at a time


def interval(
    values: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Returns a bootstrap confidence interval of the mean of the values.

    The interval is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know
    About the Bootstrap", section 4.5). The percentile bootstrap is too narrow for few values, as it
    uses n instead of n - 1 degrees of freedom. The percentiles are therefore moved outwards so
    that, for normal values, the interval is as long as Student's t interval. The interval cannot
    leave the range of the values: with three values, it contains the true mean at most three times
    in four.

    Args:
        values: values, such as one per seed.
        level: confidence level.
        seed: seed of the resampling.

    Returns:
        The lower and the upper end; None for fewer than three values.
    """
    checks = Checks()
    checks.that(0 < level < 1, "level", level, "a fraction between 0 and 1")
    checks.done()
    if len(values) < MIN_VALUES:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    from scipy import stats

    n = len(values)
    tail = stats.norm.cdf(stats.t.ppf((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1)))
    ends = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        confidence_level=1 - 2 * tail,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH_NUMBERS // n),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return max(float(ends.low), min(values)), min(
        float(ends.high), max(values)
    )  # guards against rounding


@dataclass(frozen=True)
class PairedTests:
    """Result of tests between two models on the same examples.

    Attributes:
        examples: number of examples.
        mean: mean of the second model's scores minus the first's.
        low: lower end of the 95 % bootstrap interval of that mean.
        high: upper end of this interval.
        permutation: p-value of the sign-flip permutation test.
        bootstrap: p-value of the paired bootstrap.
        mcnemar: p-value of McNemar's exact test; None if a score is neither 0 nor 1.
    """

    examples: int
    mean: float
    low: float
    high: float
    permutation: float
    bootstrap: float
    mcnemar: float | None


def paired_tests(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> PairedTests:
    """Tests whether two models differ, from their scores on the same examples in the same order.

    All tests are two-sided. The permutation test (Fisher 1935) flips signs of the examples' score
    differences. The bootstrap draws examples with replacement (Efron & Tibshirani 1993, chapter
    16). McNemar's test (1947) is the exact binomial test on the examples that only one model gets
    right. All tests assume independent examples. They compare two trained models, so models trained
    with other seeds can give other results.

    Args:
        first: scores of the first model.
        second: scores of the second model.
        seed: seed of the random signs and of the drawn examples.

    Raises:
        InvalidArguments: the two numbers of scores differ or are below 2, or a score is not finite.
    """
    from scipy import stats

    a, b = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    checks = Checks()
    lengths = f"{len(a)} scores and {len(b)} scores"
    checks.that(len(a) == len(b), "scores", lengths, "two lists of equal length")
    checks.that(len(a) > 1, "scores", lengths, "at least two scores in each list")
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
        return PairedTests(len(a), 0.0, 0.0, 0.0, 1.0, 1.0, mcnemar)
    batch = max(1, _BATCH_NUMBERS // len(gaps))
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
    return PairedTests(
        examples=len(a),
        mean=float(gaps.mean()),
        low=float(drawn.confidence_interval.low),
        high=float(drawn.confidence_interval.high),
        permutation=float(flipped.pvalue),
        bootstrap=float(min(1.0, 2 * (tails + 1) / (len(means) + 1))),
        mcnemar=mcnemar,
    )


@dataclass(frozen=True)
class SeedTest:
    """Result of a permutation test between two groups of runs.

    Attributes:
        difference: mean of the second group minus that of the first.
        p: two-sided p-value.
        smallest: smallest p-value that this number of runs permits.
        paired: whether the runs were paired, such as by their seed.
        exact: whether all permutations were computed; otherwise, p is from random permutations.
    """

    difference: float
    p: float
    smallest: float
    paired: bool
    exact: bool


def seed_test(first: Sequence[float], second: Sequence[float], *, paired: bool = False) -> SeedTest:
    """Tests whether two groups of runs differ in their mean, by a permutation test (Fisher 1935).

    If `paired` is false, the permutations are all assignments of the runs to the two groups. If
    `paired` is true, they are all swaps of the two values of a pair. Under the null hypothesis that
    the group of a run has no effect, all permutations are equally likely. The p-value is twice the
    smaller tail, as in `scipy.stats.permutation_test`. If there are more than `MAX_PERMUTATIONS`
    permutations, random permutations are sampled.

    Args:
        first: values of the first group.
        second: values of the second group.
        paired: whether values at the same position belong together, such as those of one seed.

    Raises:
        InvalidArguments: a group is empty, or `paired` is true and the groups differ in size.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    checks = Checks()
    lengths = f"{len(a)} values and {len(b)} values"
    checks.that(min(len(a), len(b)) > 0, "values", lengths, "at least one value in each list")
    if paired:
        checks.that(len(a) == len(b), "values", lengths, "two lists of equal length")
    checks.done()
    count = 2 ** len(a) if paired else math.comb(len(a) + len(b), len(a))
    exact = count <= MAX_PERMUTATIONS
    rng = np.random.default_rng(0)
    if paired:
        signs: Any = (
            list(itertools.product((1.0, -1.0), repeat=len(a)))
            if exact
            else rng.choice((1.0, -1.0), size=(RESAMPLES, len(a)))
        )
        differences = np.asarray(signs) @ (b - a) / len(a)
    else:
        everything = np.concatenate([a, b])
        order = range(len(everything))
        chosen: Any = (
            list(itertools.combinations(order, len(b)))
            if exact
            else [rng.permutation(len(everything))[: len(b)] for _ in range(RESAMPLES)]
        )
        sums = everything[np.asarray(chosen)].sum(axis=1)
        differences = sums / len(b) - (everything.sum() - sums) / len(a)
    observed = float(b.mean() - a.mean())
    rounding = 1e-12 * float(np.abs(np.concatenate([a, b])).max())
    extra = 0 if exact else 1  # the observed assignment counts as one of the sampled ones
    tails = [
        ((tail + rounding >= 0).sum() + extra) / (len(differences) + extra)
        for tail in (differences - observed, observed - differences)
    ]
    smallest = min(1.0, 2 / (count if exact else len(differences) + 1))
    return SeedTest(observed, float(min(1.0, 2 * min(tails))), smallest, paired, exact)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(values.mean(axis=axis))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple comparisons (Holm 1979), in the same order.

    The correction is also valid if the tests depend on each other.

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
