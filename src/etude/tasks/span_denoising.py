"""Span denoising (T5-style pretraining)."""

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
    """Objective (conversion to model inputs and targets) that replaces random spans of a window,
    the noise, by sentinels: special tokens such as `<extra_id_0>`. The target contains each
    sentinel, followed by the span that it replaces.

    As in Raffel et al. 2019 (arXiv:1910.10683, section 3.1.4) and the code of that paper: of the T
    tokens of a window, n = round(T * rate) are noise, in round(n / mean) spans. The lengths of the
    noise spans, and of the unchanged spans between them, are drawn uniformly among all ways to
    divide the tokens. A window begins with an unchanged span. So the sources of all windows of T
    tokens have the same length, and so have their targets.

    Args:
        rate: fraction of the tokens that are removed.
        mean: mean length of a noise span, in tokens.
        sentinels: ids of the sentinels; set once the tokenizer is known.
        end: id of the token that ends source and target; set once the tokenizer is known.
    """

    rate: float = 0.15
    mean: float = 3.0
    sentinels: tuple[int, ...] = ()
    end: int | None = None

    packs = False
    shortest = 2

    def raw(self, length: int) -> int:
        return length - 1  # the source ends with an extra token

    def spans(self, length: int) -> tuple[int, int]:
        """Returns the numbers of noise tokens and of noise spans in a window of `length` tokens."""
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
            hint = "set data.tokenizer.end_of_text"
            raise RequestError(Problem("data.tokenizer", expected, hint=hint))
        ids = tuple(special[SENTINEL.format(number)] for number in range(100))
        return replace(self, sentinels=ids, end=tokenizer.end_of_text)

    def __call__(self, windows: Numbers, random: np.random.Generator) -> Arrays:
        length = windows.shape[1]
        noise, count = self.spans(length)
        if count > len(self.sentinels) or length < 2:
            expected = (
                f"a length of at least 2 tokens with at most {len(self.sentinels)} removed spans"
            )
            raise RequestError(Problem("data.sequence_length", expected, length))
        sources, targets = [], []
        for window in windows:
            removed = _random_partition(noise, count, random)
            retained = _random_partition(length - noise, count, random)
            source: list[int] = []
            target: list[int] = []
            position = 0
            for sentinel, keep, remove in zip(self.sentinels, retained, removed, strict=False):
                source += [*window[position : position + keep], sentinel]
                target += [sentinel, *window[position + keep : position + keep + remove]]
                position += keep + remove
            assert self.end is not None
            sources.append([*source, self.end])
            targets.append([*target, self.end])
        return {"source": np.array(sources), "labels": np.array(targets)}


def _random_partition(total: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Returns `count` positive integers whose sum is `total`. The sequence is drawn uniformly among
    all such sequences.
    """
    cuts = np.sort(random.permutation(total - 1)[: count - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


class SpanDenoising(TargetTask):
    """Prediction of the removed spans of a text; the loss is the mean cross-entropy over the
    targets, including the sentinels and the end-of-text token.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        rate: fraction of the tokens that are removed.
        mean_span: mean length of a removed span, in tokens.
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
        checks.that(0 < rate < 1, "rate", rate, "a fraction between 0 and 1")
        expected = "a finite number of tokens, at least 1"
        checks.that(1 <= mean < float("inf"), "mean_span", mean, expected)
        checks.done()
        return SpanObjective(rate, mean)
