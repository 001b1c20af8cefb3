"""Selection of the next token: functions of logits (..., V), without state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from etude.errors import Checks
from etude.exclusivity import is_reserved_elsewhere
from etude.generation.generation_config import check_sampling

Generators = torch.Generator | Sequence[torch.Generator] | None
"""The source of randomness: one generator for all rows, or one per row.

None means torch's default generator. While another thread trains, None means a new generator,
because drawing from the default generator would change that training.
"""


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Returns logits / temperature.

    A temperature below 1 sharpens the distribution, a temperature above 1 flattens it.
    """
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k largest logits, largest first, and their token ids, both of shape (..., k).

    All V logits are returned if k >= V."""
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return values, ids


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Replaces the logits of all tokens outside the nucleus by minus infinity; returns the result.

    The nucleus is the smallest set of most probable tokens with a total probability of at least p
    (Holtzman et al. 2019, arXiv:1904.09751, section 3.1). With p above 0 it always contains the
    most probable token; with p = 0 it is empty. With p >= 1, all tokens are kept.
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    outside = before >= p
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Replaces the logits of improbable tokens by minus infinity, and returns the result.

    A token is improbable if its probability is below p times that of the most probable token
    (Nguyen et al. 2024, arXiv:2407.01082, section 3).
    """
    if p == 0:
        return logits
    probabilities = logits.softmax(dim=-1)
    least = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < least, -torch.inf)


def choose(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    greedy: bool = False,
    generator: Generators = None,
) -> Tensor:
    """Samples a token id from each row of logits of shape (..., V); the result has the shape (...).

    The temperature is applied first, then top-k, top-p and min-p.

    Args:
        temperature: the divisor of the logits; 0 selects the most probable token.
        top_k: the number of most probable tokens to sample from; None for no limit.
        top_p: the total probability of the nucleus to sample from; see `keep_top_p`. None for no
            limit.
        min_p: the minimum probability of a token, relative to that of the most probable token; None
            for no limit.
        greedy: whether to select the most probable token, regardless of the other arguments.
        generator: the source of randomness, on the logits' device; one generator per row of logits
            (B, V) makes the rows independent of each other. None is torch's default generator.

    Raises:
        InvalidArguments: a negative temperature, top_k below 1, top_p outside (0, 1], min_p
            outside [0, 1].
    """
    return sampler(temperature, top_k, top_p, min_p, greedy, generator)(logits)


def sampler(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    greedy: bool,
    generator: Generators,
) -> Callable[[Tensor], Tensor]:
    """Returns a function that maps logits to token ids, as `choose` does with these arguments.

    The arguments are checked only once, before the function is returned."""
    checks = Checks()
    check_sampling(checks, temperature, top_k, top_p, min_p)
    checks.done()
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
        if min_p is not None:
            logits = keep_min_p(logits, min_p)
        chosen = draw(logits.softmax(dim=-1), generator)
        # Draws among k tokens: random numbers for the whole vocabulary cost more than all the rest.
        return chosen if ids is None else ids.gather(-1, chosen[..., None])[..., 0]

    return sample


def most_probable(logits: Tensor) -> Tensor:
    """Returns the id of the largest logit in each row of logits (..., V), as a tensor (...)."""
    return logits.argmax(dim=-1)


def draw(probabilities: Tensor, generator: Generators = None) -> Tensor:
    """Samples an id from each row of probabilities of shape (..., V); returns a tensor (...).

    For each id i, an exponentially distributed number with rate p_i is drawn; the result is the id
    with the smallest number. It is i with probability p_i. `torch.multinomial` draws the same ids,
    but its input checks cost more than the draw.
    """
    times = torch.empty_like(probabilities)
    if generator is None and is_reserved_elsewhere():
        generator = _fresh_generator(probabilities.device)
    if generator is None or isinstance(generator, torch.Generator):
        times.exponential_(generator=generator)
    else:
        for row, source in zip(times, generator, strict=True):
            row.exponential_(generator=source)
    return (probabilities / times).argmax(dim=-1)


def _fresh_generator(device: torch.device) -> torch.Generator:
    """Returns a new generator of random numbers on `device`, with a random seed."""
    generator = torch.Generator(device)
    generator.seed()
    return generator
