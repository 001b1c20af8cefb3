"""Continuing sequences token by token, with anything that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.decoding import decoding
from etude.generation.sampling import sampler


class CausalModel(Protocol):
    """What `generate` needs of a model (an `nn.Module` besides)."""

    @property
    def window(self) -> int:
        """The number of tokens that the next one may depend on."""

    def new_cache(self, batch: int, length: int) -> Any:
        """An empty cache for `batch` sequences of up to `length` tokens; see `KVCache`."""

    def __call__(self, tokens: Tensor, cache: Any, *, last_only: bool) -> Tensor:
        """Logits of the last position (B, 1, V), given what the cache holds."""


@torch.inference_mode()
def generate(
    model: CausalModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    stop_token: int | None = None,
    use_cache: bool = True,
    on_token: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continues `tokens` (B, T), T >= 1, to (B * samples, T + n) with n <= max_new_tokens.

    Once a sequence is longer than `model.window`, the next token depends on the last `window`
    tokens alone, read anew at positions 0, 1, ...: with and without a cache the same.

    Args:
        samples: continuations of each row, which stand together; with a cache the row itself is
            read once for all of them.
        temperature, top_k, top_p, greedy, generator: see `etude.generation.sampling.choose`.
        stop_token: a row that has produced it is filled with it from there on; when all rows
            have, generation ends.
        use_cache: keep keys and values; without it every token costs a pass over all before it.
        on_token: called with each new column of ids (B * samples,).

    Raises:
        InvalidArguments: values that describe no distribution, no tokens to start from; a model
            whose logits are no numbers.
    """
    choose = sampler(temperature, top_k, top_p, greedy, generator)
    B, T = tokens.shape
    checks = Checks()
    checks.that(T > 0, "tokens", tuple(tokens.shape), "at least one token to start from")
    checks.that(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    checks.positive(samples=samples)
    checks.done()

    rows, end = B * samples, T + max_new_tokens
    text = tokens.new_empty(rows, end)
    text[:, :T] = tokens.repeat_interleave(samples, dim=0)
    stopped = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
    cache = model.new_cache(B, min(model.window, end)) if use_cache else None
    with decoding(model):
        for length in range(T, end):
            if cache is not None and length <= model.window:
                unread = text[:, cache.length : length]
            else:
                cache, unread = None, text[:, max(0, length - model.window) : length]
            if length == T:  # the samples of a row are one row so far
                logits = model(unread[::samples], cache, last_only=True)[:, -1]
                logits = logits.repeat_interleave(samples, dim=0)
                if cache is not None and samples > 1:
                    cache.repeat(samples)
            else:
                logits = model(unread, cache, last_only=True)[:, -1]
            chosen = choose(logits)
            if stop_token is not None:
                chosen = chosen.masked_fill(stopped, stop_token)
                stopped |= chosen == stop_token
            text[:, length] = chosen
            if on_token is not None:
                on_token(chosen)
            if stop_token is not None and bool(stopped.all()):
                end = length + 1
                break
    if max_new_tokens and bool(logits.isnan().any()):
        raise InvalidArguments(Problem("model", "logits that are numbers", "NaN"))
    return text[:, :end]
