"""Effect of the scale 1/sqrt(d_k) in attention (Vaswani et al. 2017, section 3.2.1, footnote 4).

Queries and keys have independent components of mean 0 and variance 1, as the footnote assumes. They
pass through Étude's own attention with its scale and with a scale of 1. All measured numbers are
computed from the attention weights, the output of the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from etude.analysis.curves import new_figure, style_axes
from etude.errors import Checks
from etude.nn.attention import reference_attention
from etude.papers.claims import Reading

SCALED, UNSCALED = "#1d4ed8", "#c2410c"
EXPECTED: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.2, "zorder": 3}


@dataclass(frozen=True)
class SoftmaxStatistics:
    """Statistics of the softmax of attention, over all heads and queries.

    Attributes:
        variance: mean variance of a query's logits over the keys.
        entropy: mean entropy of a query's weights, in nats.
        gradient: median over queries and keys of dp/dx = p (1 - p), the derivative of a weight p
            with respect to its own logit x.
    """

    variance: float
    entropy: float
    gradient: float


def softmax_statistics(weights: Tensor) -> SoftmaxStatistics:
    """Returns variance of the logits, entropy and gradient of the softmax, given attention weights.

    The logits of a query are computed as the logarithms of its weights. They differ from the true
    logits by a constant, which does not change the variance. In float64, the weights are above zero
    even if logits differ by 700.

    Args:
        weights: attention weights, of shape (B, H, T, S): B sequences, H heads, T queries, S keys.
            Each row (last dimension) sums to 1.
    """
    return SoftmaxStatistics(
        variance=weights.log().var(dim=-1).mean().item(),
        entropy=torch.special.entr(weights).sum(dim=-1).mean().item(),
        gradient=(weights * (1 - weights)).median().item(),
    )


class AttentionScale:
    """Measurement of the softmax of random attention for several d_k (the dimensions of a query),
    with and without the scale 1/sqrt(d_k).

    There are four measured values for every width d_k above 1. The negative control, a case in
    which the claim must not hold, is in brackets. `variance/d_k`: variance of the unscaled logits
    (that of the scaled logits). `scaled_variance/d_k`: variance of the scaled logits (that of the
    unscaled logits). `entropy_gap/d_k`: entropy of the scaled softmax minus that of the unscaled
    softmax, in nats (the same difference at d_k = 1, where the scale is 1). `gradient_ratio/d_k`:
    gradient of the unscaled softmax divided by that of the scaled softmax (the same ratio at d_k =
    1).

    Args:
        widths: values of d_k, including 1.
        heads: H, the number of heads, which are independent repetitions with the same seed.
        queries: T, the number of queries.
        keys: S, the number of keys.

    Raises:
        InvalidArguments: 1 is not in `widths`, a size is not positive, or there is only one key.
    """

    def __init__(self, *, widths: list[int], heads: int, queries: int, keys: int) -> None:
        checks = Checks()
        checks.positive(heads=heads, queries=queries, keys=keys)
        hint = "the softmax over one key is always 1"
        checks.that(keys != 1, "keys", keys, "at least 2", hint)
        expected = "positive widths, including 1 (the negative control)"
        checks.that(1 in widths and min(widths) > 0, "widths", widths, expected)
        checks.done()
        self.widths = sorted(set(widths))
        self.heads, self.queries, self.keys = heads, queries, keys

    @property
    def cells(self) -> set[str]:
        """Keys of the measured values, such as `variance/64`."""
        kinds = ("variance", "scaled_variance", "entropy_gap", "gradient_ratio")
        return {f"{kind}/{width}" for kind in kinds for width in self.widths if width > 1}

    def measure(self, seeds: Sequence[int], figures: Path) -> dict[str, Reading]:
        """Returns a dict from each key in `cells` to the measured values, and draws `softmax.png`.

        Args:
            seeds: seeds; each is measured once.
            figures: existing folder for the figure.
        """
        scaled: dict[int, list[SoftmaxStatistics]] = {width: [] for width in self.widths}
        unscaled: dict[int, list[SoftmaxStatistics]] = {width: [] for width in self.widths}
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            for width in self.widths:
                q, k = self.draw(width, random)
                scaled[width].append(softmax_statistics(self.attend(q, k, scale=None)))
                unscaled[width].append(softmax_statistics(self.attend(q, k, scale=1.0)))
        plot(scaled, unscaled, self.keys, figures / "softmax.png")
        return _build_readings(scaled, unscaled)

    def draw(self, width: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns random queries of shape (1, H, T, K) and random keys of shape (1, H, S, K).

        H is the number of heads, T that of queries, S that of keys; K is `width`. The components
        are independent and normally distributed with mean 0 and variance 1.
        """
        q, k = (
            torch.randn(1, self.heads, length, width, generator=random, dtype=torch.float64)
            for length in (self.queries, self.keys)
        )
        return q, k

    def attend(self, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
        """Returns the attention weights of queries and keys, of shape (1, H, T, S).

        H is the number of heads, T that of queries, S that of keys. The weights are the output of
        attention if its values are the identity matrix.

        Args:
            q, k: queries and keys, from `draw`.
            scale: factor of the logits; None is 1/sqrt(d_k).
        """
        v = torch.eye(self.keys, dtype=q.dtype).expand(1, self.heads, -1, -1)
        return reference_attention(q, k, v, causal=False, scale=scale)


def _build_readings(
    scaled: dict[int, list[SoftmaxStatistics]], unscaled: dict[int, list[SoftmaxStatistics]]
) -> dict[str, Reading]:
    pairs = {d: list(zip(scaled[d], unscaled[d], strict=True)) for d in scaled}
    gap = {d: [with_.entropy - without.entropy for with_, without in pairs[d]] for d in pairs}
    ratio = {d: [without.gradient / with_.gradient for with_, without in pairs[d]] for d in pairs}
    readings: dict[str, Reading] = {}
    for d in (width for width in pairs if width > 1):
        unscaled_variance, scaled_variance = (
            [s.variance for s in unscaled[d]],
            [s.variance for s in scaled[d]],
        )
        readings[f"variance/{d}"] = Reading(unscaled_variance, scaled_variance)
        readings[f"scaled_variance/{d}"] = Reading(scaled_variance, unscaled_variance)
        readings[f"entropy_gap/{d}"] = Reading(gap[d], gap[1])
        readings[f"gradient_ratio/{d}"] = Reading(ratio[d], ratio[1])
    return readings


def plot(
    scaled: dict[int, list[SoftmaxStatistics]],
    unscaled: dict[int, list[SoftmaxStatistics]],
    keys: int,
    path: Path,
) -> None:
    """Draws variance, entropy and gradient over d_k, next to the values expected for Gaussian
    logits.

    For normally distributed logits of mean 0 and variance 1 over S keys, the expected entropy is
    about ln S - 1/2: the entropy is ln Z minus the mean of the logits, weighted by the attention
    weights. Z is the denominator of the softmax; ln Z is about ln S + 1/2, and the weighted mean is
    about 1.

    Args:
        scaled, unscaled: statistics with and without the scale: a dict from each d_k to a list with
            one item for each seed.
        keys: S, the number of keys.
        path: path of the PNG file.
    """

    figure = new_figure(10, 3.6)
    widths = sorted(scaled)
    panels = [
        ("variance", "variance of the logits", ""),
        ("entropy", "entropy of the softmax", "nats"),
        ("gradient", "gradient of the median weight", "p (1 − p)"),
    ]
    for axes, (field, title, unit) in zip(figure.subplots(1, 3), panels, strict=True):
        for statistics, color, label in (
            (unscaled, UNSCALED, r"logits $q\cdot k$"),
            (scaled, SCALED, r"logits $q\cdot k\,/\sqrt{d_k}$"),
        ):
            means = [fmean(getattr(each, field) for each in statistics[width]) for width in widths]
            axes.plot(widths, means, "o-", color=color, markersize=4, linewidth=1.6, label=label)
        _dress(axes, title, unit, widths)

    variance, entropy, gradient = figure.axes
    variance.set_yscale("log", base=2)
    variance.set_yticks(widths, labels=[str(width) for width in widths])
    variance.plot(widths, widths, label="$d_k$, footnote 4", **EXPECTED)
    variance.legend(frameon=False)
    uniform = math.log(keys)
    entropy.set_ylim(0, uniform * 1.12)
    for height, text, side in (
        (uniform, f"ln {keys}: all weights equal", "bottom"),
        (uniform - 0.5, f"ln {keys} − 1/2", "top"),
    ):
        entropy.axhline(height, **EXPECTED)
        entropy.annotate(
            text,
            (widths[-1], height),
            xytext=(0, 3 if side == "bottom" else -5),
            textcoords="offset points",
            ha="right",
            va=side,
            fontsize=8,
        )
    gradient.set_yscale("log")
    figure.savefig(path, metadata={"Software": None})


def _dress(axes: Any, title: str, unit: str, widths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, labels=[str(width) for width in widths])
    axes.set_xlabel("$d_k$")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    style_axes(axes)
