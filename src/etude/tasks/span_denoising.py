"""Restoring spans that were taken out of a text (T5-style pretraining)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.data.objective import Arrays, Numbers, WindowObjective
from etude.errors import Checks, Problem, RequestError
from etude.tasks.base import Setup
from etude.tasks.translation import TargetTask

SENTINEL = "<extra_id_{}>"


@dataclass(frozen=True)
class SpanObjective(WindowObjective):
    """The source is a window with each noise span replaced by a sentinel; the target names each
    sentinel with the span that it stands for.

    Raffel et al. 2019, arXiv:1910.10683, section 3.1.4, and the authors' code: of T tokens
    round(T rate) are noise, in round(noise / mean) spans; the lengths of the noise spans, and of
    those between, are drawn uniformly among all ways to divide them; a window begins with
    a span that stays. So all windows of T tokens have sources, and targets, of one length.

    Args:
        rate: the part of the tokens that is taken out.
        mean: the mean length of a span.
        sentinels: the ids that stand for the spans, and
        end: what ends both source and target, once the tokenizer is known.
    """

    rate: float = 0.15
    mean: float = 3.0
    sentinels: tuple[int, ...] = ()
    end: int | None = None

    packs = False
    shortest = 2

    def raw(self, length: int) -> int:
        return length - 1  # the source ends with a token of its own

    def spans(self, length: int) -> tuple[int, int]:
        """Noise tokens in a window, and the spans that they make."""
        noise = min(max(round(length * self.rate), 1), max(1, length - 1))
        count = min(max(round(noise / self.mean), 1), noise, max(1, length - noise))
        return noise, count

    def special_tokens(self, known: Mapping[str, int]) -> list[str]:
        names = [SENTINEL.format(number) for number in range(100)]
        return [name for name in names if name not in known]

    def bound(self, tokenizer: Any, meta: Any) -> SpanObjective:
        special = tokenizer.special_tokens()
        if tokenizer.end_of_text is None:
            expected = "a tokenizer with an end-of-text token"
            raise RequestError(Problem("data.tokenizer", expected))
        ids = tuple(special[SENTINEL.format(number)] for number in range(100))
        return replace(self, sentinels=ids, end=tokenizer.end_of_text)

    def __call__(self, windows: Numbers, random: np.random.Generator) -> Arrays:
        length = windows.shape[1]
        noise, count = self.spans(length)
        if count > len(self.sentinels) or length < 2:
            expected = f"a window with at most {len(self.sentinels)} spans, and 2 tokens or more"
            raise RequestError(Problem("data.sequence_length", expected, length))
        sources, targets = [], []
        for window in windows:
            taken = _parted(noise, count, random)
            stays = _parted(length - noise, count, random)
            source: list[int] = []
            target: list[int] = []
            place = 0
            for sentinel, keep, take in zip(self.sentinels, stays, taken, strict=False):
                source += [*window[place : place + keep], sentinel]
                target += [sentinel, *window[place + keep : place + keep + take]]
                place += keep + take
            assert self.end is not None
            sources.append([*source, self.end])
            targets.append([*target, self.end])
        return {"source": np.array(sources), "labels": np.array(targets)}


def _parted(total: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`total` as a sum of `count` positive numbers, all ways being equally likely."""
    cuts = np.sort(random.permutation(total - 1)[: count - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


class SpanDenoising(TargetTask):
    """Predicts the spans that were taken out of a text; the loss is the mean cross-entropy over
    the targets, sentinels and end included.

    Args:
        setup: what the run gives.
        rate: the part of the tokens that is taken out.
        mean_span: the mean length of what is taken out, in tokens.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        rate: float = 0.15,
        mean_span: float = 3.0,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__(setup, label_smoothing=label_smoothing, z_loss=z_loss, monitor=monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> SpanObjective:
        rate, mean = arguments.get("rate", 0.15), arguments.get("mean_span", 3.0)
        checks = Checks()
        checks.that(0 < rate < 1, "rate", rate, "a part between 0 and 1")
        checks.that(1 <= mean < float("inf"), "mean_span", mean, "1 token or more")
        checks.done()
        return SpanObjective(rate, mean)
