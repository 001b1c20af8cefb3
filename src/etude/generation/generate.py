"""Continuing sequences token by token, with anything that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from etude.errors import Checks
from etude.generation.sampling import check_sampling, choose


class CausalModel(Protocol):
    """What `generate` needs of a model (an `nn.Module` besides)."""

    @property
    def window(self) -> int:
        """The number of tokens that the next one may depend on."""

    def new_cache(self, batch: int, length: int) -> Any:
        """An empty cache for `batch` sequences of up to `length` tokens."""

    def __call__(self, tokens: Tensor, cache: Any, *, last_only: bool) -> Tensor:
        """Logits of the last position (B, 1, V), given what the cache holds."""


@torch.inference_mode()
def generate(
    model: CausalModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    stop_token: int | None = None,
    use_cache: bool = True,
    on_token: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continues `tokens` (B, T), T >= 1, to (B, T + n) with n <= max_new_tokens.

    Once a sequence is longer than `model.window`, the next token depends on the last `window`
    tokens alone, read anew at positions 0, 1, ...: with and without a cache the same.

    Args:
        temperature, top_k, top_p, greedy, generator: see `etude.generation.sampling.choose`.
        stop_token: a row that has produced it is filled with it from there on; when all rows
            have, generation ends.
        use_cache: keep keys and values; without it every token costs a pass over all before it.
        on_token: called with each new column of ids (B,).

    Raises:
        InvalidArguments: values that describe no distribution, no tokens to start from.
    """
    check_sampling(temperature, top_k, top_p)
    B, T = tokens.shape
    checks = Checks()
    checks.that(T > 0, "tokens", tuple(tokens.shape), "at least one token to start from")
    checks.that(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    checks.done()

    stopped = torch.zeros(B, dtype=torch.bool, device=tokens.device)
    cache = model.new_cache(B, min(model.window, T + max_new_tokens)) if use_cache else None
    with evaluating(model):
        for _ in range(max_new_tokens):
            if cache is not None and tokens.shape[1] <= model.window:
                unread = tokens[:, cache.length :]
            else:
                cache, unread = None, tokens[:, -model.window :]
            logits = model(unread, cache, last_only=True)[:, -1]
            chosen = choose(
                logits,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                greedy=greedy,
                generator=generator,
            )
            if stop_token is not None:
                chosen = chosen.masked_fill(stopped, stop_token)
                stopped |= chosen == stop_token
            tokens = torch.cat((tokens, chosen[:, None]), dim=1)
            if on_token is not None:
                on_token(chosen)
            if stop_token is not None and bool(stopped.all()):
                break
    return tokens


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode within; afterwards every submodule is as it was, frozen ones too."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
