"""Which ways of choosing tokens make sense together; said without importing torch."""

from __future__ import annotations

import math
from typing import Literal

from etude.errors import Checks

MOST = 10_000_000
"""Tokens, samples or beams: more are a mistake."""
EarlyStopping = bool | Literal["never"]


def check_options(
    *,
    max_new_tokens: int = 1,
    min_new_tokens: int = 0,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    greedy: bool = False,
    beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    checks: Checks | None = None,
) -> None:
    """The options of `etude.generation.generate.generate`, each and together.

    Args:
        checks: gets what is wrong; without it, `InvalidArguments` is raised here.
    """
    found = Checks() if checks is None else checks
    found.that(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    most = f"0 to max_new_tokens = {max_new_tokens}"
    fits = 0 <= min_new_tokens <= max(max_new_tokens, 0)
    found.that(fits, "min_new_tokens", min_new_tokens, most)
    for name, count in (("max_new_tokens", max_new_tokens), ("samples", samples), ("beams", beams)):
        found.that(count <= MOST, name, count, f"at most {MOST:,}")
    found.positive(samples=samples, beams=beams, repetition_penalty=repetition_penalty)
    hint = "0 forbids no repetition"
    found.that(no_repeat_ngram >= 0, "no_repeat_ngram", no_repeat_ngram, "0 or more tokens", hint)
    check_sampling(found, temperature, top_k, top_p, min_p)
    found.that(math.isfinite(length_penalty), "length_penalty", length_penalty, "a finite number")
    ways = "true, false or never"
    found.that(early_stopping in (True, False, "never"), "early_stopping", early_stopping, ways)
    if beams > 1:
        found.that(samples <= beams, "samples", samples, f"at most beams = {beams}")
    if beams > 1 or greedy:
        beside, why = "greedy", "the likeliest token is taken, none is drawn"
        if beams > 1:
            beside, why = f"beams = {beams}", "a beam search draws nothing"
        for key, value, neutral in (
            ("temperature", temperature, 1.0),
            ("top_k", top_k, None),
            ("top_p", top_p, None),
            ("min_p", min_p, None),
        ):
            expected = f"{neutral or 'no value'} beside {beside}"
            found.that(value == neutral, key, value, expected, why)
    if beams <= 1:
        expected, hint = "1.0 without a beam search", "beams=4 searches"
        found.that(length_penalty == 1, "length_penalty", length_penalty, expected, hint)
        expected = "false without a beam search"
        found.that(early_stopping is False, "early_stopping", early_stopping, expected, hint)
    if checks is None:
        found.done()


def check_sampling(
    checks: Checks,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    """Notes values that describe no distribution."""
    finite = math.isfinite(temperature)
    checks.that(finite and temperature >= 0, "temperature", temperature, "a number of 0 or more")
    checks.that(top_k is None or top_k >= 1, "top_k", top_k, "1 or more", "leave it out for all")
    checks.that(top_p is None or 0 < top_p <= 1, "top_p", top_p, "a probability in (0, 1]")
    checks.that(min_p is None or 0 <= min_p <= 1, "min_p", min_p, "a fraction in [0, 1]")
