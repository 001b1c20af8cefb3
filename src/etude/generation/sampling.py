"""Choosing the next token: pure functions on logits (..., V)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from etude.errors import Checks


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature: below 1 sharpens the distribution, above 1 flattens it."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits (..., k), largest first, and their ids; all of them where k >= V."""
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return values, ids


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The nucleus: the smallest set of most probable tokens that has probability p or more; the
    logits of the others become minus infinity (Holtzman et al. 2019, arXiv:1904.09751,
    section 3.1). With p above 0 the most probable token always stays.
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    outside = before >= p
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)


def choose(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Token ids (...) drawn from logits (..., V): temperature first, then top-k, then top-p.

    Args:
        temperature: 0 is its limit, the most probable token.
        top_k: draw from the k most probable tokens only.
        top_p: draw from the nucleus of probability p only.
        greedy: take the most probable token, whatever the other arguments say.
        generator: the source of randomness, on the logits' device; torch's own if None.

    Raises:
        InvalidArguments: a negative temperature, top_k below 1, top_p outside (0, 1].
    """
    return sampler(temperature, top_k, top_p, greedy, generator)(logits)


def sampler(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    greedy: bool,
    generator: torch.Generator | None,
) -> Callable[[Tensor], Tensor]:
    """`choose` for many tokens: its arguments are checked once, here."""
    check_sampling(temperature, top_k, top_p)
    if greedy or temperature == 0:
        return most_probable

    def sample(logits: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if temperature != 1:
            logits = scale_temperature(logits, temperature)
        ids = None
        if top_k is not None:
            logits, ids = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        chosen = draw(logits.softmax(dim=-1), generator)
        # From k tokens alone: random numbers for a whole vocabulary take longer than all the rest.
        return chosen if ids is None else ids.gather(-1, chosen[..., None])[..., 0]

    return sample


def most_probable(logits: Tensor) -> Tensor:
    """The ids (...) of the largest logits (..., V)."""
    return logits.argmax(dim=-1)


def draw(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ids (...) drawn from probabilities (..., V): i with probability p_i.

    Of independent exponential times with rates p_i, the first is the i-th with probability p_i.
    `torch.multinomial` draws the very same ids, after checks of its input that cost more than the
    draw.
    """
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).argmax(dim=-1)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises `InvalidArguments` for values that describe no distribution."""
    checks = Checks()
    finite = math.isfinite(temperature)
    checks.that(finite and temperature >= 0, "temperature", temperature, "a number of 0 or more")
    checks.that(top_k is None or top_k >= 1, "top_k", top_k, "1 or more", "leave it out for all")
    checks.that(top_p is None or 0 < top_p <= 1, "top_p", top_p, "a probability in (0, 1]")
    checks.done()
