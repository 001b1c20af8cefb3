"""Continuing sequences token by token, with anything that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.beams import beam_search
from etude.generation.decoding import decoding
from etude.generation.options import GenerationConfig
from etude.generation.processors import (
    MinNewTokens,
    NoRepeatNGrams,
    Processor,
    RepetitionPenalty,
    apply,
)
from etude.generation.reader import CausalModel, Reader
from etude.generation.sampling import Generators, sampler
from etude.generation.stopping import StopConditions


@torch.inference_mode()
def generate(
    model: CausalModel,
    tokens: Tensor,
    config: GenerationConfig | None = None,
    *,
    keep: Tensor | None = None,
    generator: Generators = None,
    processors: Sequence[Processor] = (),
    stop_token: int | Sequence[int] | None = None,
    stop: Callable[[Tensor], Tensor] | None = None,
    use_cache: bool = True,
    on_token: Callable[[Tensor], None] | None = None,
    **options: Any,
) -> Tensor:
    """Continues `tokens` (B, T), T >= 1, to (B * samples, T + n) with n <= max_new_tokens.

    The logits pass, in the order of `transformers`, the repetition penalty, n-grams, minimum
    length, `processors`, and last temperature, top-k, top-p and min-p. Past `model.window` the
    next token depends on the last `window` tokens alone; see `Reader`.

    Args:
        config: how many tokens are written, and how they are chosen. The samples of a row stand
            together; with a cache the row itself is read once for all of them.
        keep: (B, T), false where a token is padding, which stands before the others of its row: a
            row is continued as it would be without its padding.
        generator: of the draws; one a row, or one for all.
        processors: further ones.
        stop_token: a row that has produced it, or one of them, is filled with it (the first) from
            there on; when all rows have, generation ends.
        stop: says of the new tokens (R, n) which rows end, (R,); they are filled likewise, or
            with 0.
        use_cache: keep keys and values; without it every token costs a pass over all before it.
        on_token: called with each new column of ids (B * samples,); not in a beam search.
        options: fields of `config`, instead of one or to change some of it.

    Raises:
        InvalidArguments: values that describe no distribution, or don't go together; no tokens to
            start from; a model whose logits are no numbers.
    """
    B, T = tokens.shape
    checks = Checks()
    checks.that(T > 0, "tokens", tuple(tokens.shape), "at least one token to start from")
    settings = config or GenerationConfig()
    with checks.collecting():
        settings = replace(settings, **options)
        alone = on_token is None or settings.beams == 1
        checks.that(alone, "on_token", on_token, "None in a beam search")
        if isinstance(generator, Sequence):
            rows, count = B * settings.samples, len(generator)
            checks.that(count == rows, "generator", count, f"one, or {rows}")
    padding = None if keep is None else _padding(keep, tokens, checks)
    checks.done()
    if settings.max_new_tokens == 0:
        return tokens.repeat_interleave(settings.samples, dim=0)

    stop_tokens = [stop_token] if isinstance(stop_token, int) else list(stop_token or ())
    ends = StopConditions(stop_tokens, stop)
    steps = [*_processors(settings, T, ends), *processors]
    begin = tokens if keep is None else tokens.masked_fill(~keep, -1)
    with decoding(getattr(model, "module", model)):
        reader = Reader(model, B, T + settings.max_new_tokens, padding, use_cache)
        if settings.beams > 1:
            result = beam_search(reader, begin, settings, ends, processors=steps)
            has_nan = bool(result.scores.isnan().any())
            text = result.tokens[:, : settings.samples].flatten(0, 1)
        else:
            text, has_nan = _generate_tokens(
                reader, begin, settings, ends, steps, generator, on_token
            )
    if has_nan:
        raise InvalidArguments(Problem("model", "logits that are numbers", "NaN"))
    if keep is not None:
        text[:, :T] = tokens.repeat_interleave(settings.samples, dim=0)
    return text


def _processors(config: GenerationConfig, prompt: int, ends: StopConditions) -> list[Processor]:
    """What the options do to the logits, for prompts of so many tokens."""
    steps: list[Processor] = []
    if config.repetition_penalty != 1:
        steps.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram:
        steps.append(NoRepeatNGrams(config.no_repeat_ngram))
    if config.min_new_tokens and ends.tokens:
        steps.append(MinNewTokens(config.min_new_tokens, prompt, ends.tokens))
    return steps


def _generate_tokens(
    reader: Reader,
    tokens: Tensor,
    config: GenerationConfig,
    ends: StopConditions,
    processors: Sequence[Processor],
    generator: Generators,
    on_token: Callable[[Tensor], None] | None,
) -> tuple[Tensor, bool]:
    """A token a step, each chosen for good; and whether the logits were no numbers."""
    choose = sampler(
        config.temperature, config.top_k, config.top_p, config.min_p, config.greedy, generator
    )
    T, samples = tokens.shape[1], config.samples
    stop_tokens, stop, fill = ends.tokens, ends.rule, ends.fill
    end = T + config.max_new_tokens
    text = tokens.new_empty(len(tokens) * samples, end)
    text[:, :T] = tokens.repeat_interleave(samples, dim=0)
    ending = torch.tensor(stop_tokens, dtype=torch.long, device=tokens.device)
    may_stop = stop is not None or len(stop_tokens) > 0
    stopped = torch.zeros(len(text), dtype=torch.bool, device=tokens.device)
    # The samples of a row are one row so far.
    logits = reader.read(tokens, T).repeat_interleave(samples, dim=0)
    reader.repeat(samples)
    for length in range(T, end):
        if length > T:
            logits = reader.read(text, length)
        if processors:
            logits = apply(processors, text[:, :length], logits)
        chosen = choose(logits)
        if may_stop:
            chosen = chosen.masked_fill(stopped, fill)
        text[:, length] = chosen
        if len(stop_tokens) == 1:
            stopped |= chosen == fill
        elif stop_tokens:
            stopped |= torch.isin(chosen, ending)
        if stop is not None:
            stopped |= stop(text[:, T : length + 1])
        if on_token is not None:
            on_token(chosen)
        if may_stop and bool(stopped.all()):
            end = length + 1
            break
    return text[:, :end], bool(logits.isnan().any())


def _padding(keep: Tensor, tokens: Tensor, checks: Checks) -> Tensor | None:
    """How many columns before each row are padding, (B,); None where there are none."""
    if not checks.that(keep.shape == tokens.shape, "keep", tuple(keep.shape), "one for each token"):
        return None
    ordered = bool((keep[:, 1:] >= keep[:, :-1]).all())
    checks.that(ordered, "keep", "padding between", "padding before the tokens of a row only")
    checks.that(bool(keep[:, -1:].all()), "keep", "an empty row", "a token or more in each row")
    padding = (~keep).sum(dim=1)
    return padding if bool(padding.any()) else None
