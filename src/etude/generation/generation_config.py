"""Options of text generation, with checks. The module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Literal

from etude.errors import Checks

MAX_COUNT = 10_000_000
"""Maximum number of new tokens, of samples and of beams; larger numbers are typing errors."""
EarlyStopping = bool | Literal["never"]
_TYPES: Mapping[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Options of generation: the length of the texts, and how each token is selected.

    Args:
        samples: the number of continuations of each prompt. A beam search returns its best
            continuations, so that `samples` is at most `beams`.
        max_new_tokens: the maximum number of new tokens.
        min_new_tokens: the number of new tokens that are generated before stop tokens are allowed;
            other stop conditions are not affected.
        temperature, top_k, top_p, min_p, greedy: see `etude.generation.sampling.choose`.
        beams: the number of beams; a number above 1 selects a beam search.
        length_penalty: for a beam search, divides the log-probability of a text by its length to
            the power of this number: above 0 favours longer texts, below 0 shorter ones.
        early_stopping: when a beam search ends. `False`: when the best unfinished text, at its
            current length, scores below the worst of the `beams` finished texts. `"never"`: when no
            unfinished text can score above it. `True`: when there are `beams` finished texts.
        repetition_penalty: above 1, makes tokens that occur in the prompt or the new text less
            probable; 1 has no effect.
        no_repeat_ngram: the length of n-grams that may occur only once in the prompt and the new
            text; 0 allows all repetitions.

    Raises:
        InvalidArguments: options are invalid or incompatible.
    """

    samples: int = 1
    max_new_tokens: int = 100
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    greedy: bool = False
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        checks = Checks()
        self._check_types(checks)
        checks.done()
        self._check_counts(checks)
        check_sampling(checks, self.temperature, self.top_k, self.top_p, self.min_p)
        self._check_search(checks)
        if self.beams > 1 or self.greedy:
            self._check_no_sampling(checks)
        checks.done()

    def _check_types(self, checks: Checks) -> None:
        for field in fields(self):
            value, (kind, _, other) = getattr(self, field.name), str(field.type).partition(" | ")
            if kind not in _TYPES or (value is None and other == "None"):
                continue
            wanted, expected = _TYPES[kind]
            is_valid = isinstance(value, wanted) and isinstance(value, bool) is (wanted is bool)
            checks.that(is_valid, field.name, value, expected)

    def _check_counts(self, checks: Checks) -> None:
        most = self.max_new_tokens
        checks.that(most >= 0, "max_new_tokens", most, "a number of at least 0")
        fits = 0 <= self.min_new_tokens <= max(most, 0)
        expected = f"a number from 0 to max_new_tokens = {most}"
        checks.that(fits, "min_new_tokens", self.min_new_tokens, expected)
        for name in ("max_new_tokens", "samples", "beams"):
            count = getattr(self, name)
            checks.that(count <= MAX_COUNT, name, count, f"at most {MAX_COUNT:,}")
        for name in ("samples", "beams", "repetition_penalty"):
            checks.positive(**{name: getattr(self, name)})
        n, hint = self.no_repeat_ngram, "0 allows all repetitions"
        checks.that(n >= 0, "no_repeat_ngram", n, "a number of at least 0", hint)

    def _check_search(self, checks: Checks) -> None:
        penalty, early = self.length_penalty, self.early_stopping
        checks.that(math.isfinite(penalty), "length_penalty", penalty, "a finite number")
        known = early in (True, False, "never")
        checks.that(known, "early_stopping", early, "true, false or never")
        if self.beams > 1:
            enough = self.samples <= self.beams
            checks.that(enough, "samples", self.samples, f"at most beams = {self.beams}")
            return
        expected, hint = "1.0 without a beam search", "beams=4 selects a beam search"
        checks.that(penalty == 1, "length_penalty", penalty, expected, hint)
        expected = "false without a beam search"
        checks.that(early is False or not known, "early_stopping", early, expected, hint)

    def _check_no_sampling(self, checks: Checks) -> None:
        other, why = "greedy", "greedy decoding does not sample"
        if self.beams > 1:
            other, why = f"beams = {self.beams}", "a beam search does not sample"
        neutrals = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}
        for key, neutral in neutrals.items():
            value, expected = getattr(self, key), f"{neutral or 'no value'} with {other}"
            checks.that(value == neutral, key, value, expected, why)


def check_sampling(
    checks: Checks,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    """Adds a problem to `checks` for each sampling option with an invalid value."""
    is_valid = math.isfinite(temperature) and temperature >= 0
    checks.that(is_valid, "temperature", temperature, "a finite number of at least 0")
    expected, hint = "a number of at least 1", "to sample from all tokens, omit top_k"
    checks.that(top_k is None or top_k >= 1, "top_k", top_k, expected, hint)
    checks.that(
        top_p is None or 0 < top_p <= 1, "top_p", top_p, "a probability above 0 and at most 1"
    )
    checks.that(min_p is None or 0 <= min_p <= 1, "min_p", min_p, "a fraction from 0 to 1")
