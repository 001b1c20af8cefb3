"""Generation of token sequences with any model that maps tokens to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.beams import beam_search
from etude.generation.generation_config import GenerationConfig
from etude.generation.model_modes import fast_decoding
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
    """Generates new tokens after each row of `tokens` (B, T), with T >= 1.

    Returns the prompts with their n new tokens, (B * samples, T + n), where n <= max_new_tokens.

    The logits pass, in the order of `transformers`, through the repetition penalty, the n-gram and
    the minimum-length constraints, `processors`, temperature, top-k, top-p and min-p. Once a text
    is longer than `model.window`, the next token depends on its last `window` tokens; see `Reader`.

    Args:
        config: the options of generation; None for the defaults. The samples of a prompt are
            adjacent rows; with a cache the prompt is read once for all of them.
        keep: mask (B, T), false for padding, which must precede the tokens of its row. The
            continuation of a row does not depend on its padding. None means no padding.
        generator: the source of randomness: one generator per row of the result (B * samples), or
            one for all rows; None for torch's default generator.
        processors: additional processors of the logits.
        stop_token: the id of the stop token, or the ids of several. After its end, a row is filled
            with the first of these ids, or with 0 if there are none; generation ends when all rows
            have ended.
        stop: a function that maps the new tokens of R rows, of shape (R, n), to booleans of shape
            (R,), true for rows that end. It is called after each new token.
        use_cache: whether to cache keys and values. Without a cache, each new token requires a pass
            over the whole text.
        on_token: a function that is called at each step with the new token id of each row, a
            tensor of shape (B * samples,); not available in a beam search.
        options: values that replace fields of `config`, such as `temperature`.

    Raises:
        InvalidArguments: options are invalid or incompatible; there are no tokens to start from;
            the model's logits are NaN.
    """
    B, T = tokens.shape
    checks = Checks()
    expected = "a shape (batch, length) with at least one token to start from in each row"
    checks.that(T > 0, "tokens", tuple(tokens.shape), expected)
    settings = config or GenerationConfig()
    with checks.collecting():
        settings = replace(settings, **options)
        can_stream = on_token is None or settings.beams == 1
        checks.that(
            can_stream, "on_token", on_token, "None, because a beam search does not stream tokens"
        )
        if isinstance(generator, Sequence):
            rows, count = B * settings.samples, len(generator)
            checks.that(
                count == rows,
                "generator",
                f"{count} generators",
                f"one generator for all rows, or {rows} generators (one per row)",
            )
    padding = None if keep is None else _padding(keep, tokens, checks)
    checks.done()
    if settings.max_new_tokens == 0:
        return tokens.repeat_interleave(settings.samples, dim=0)

    stop_tokens = [stop_token] if isinstance(stop_token, int) else list(stop_token or ())
    ends = StopConditions(stop_tokens, stop)
    steps = [*_processors(settings, T, ends), *processors]
    prompts = tokens if keep is None else tokens.masked_fill(~keep, -1)
    with fast_decoding(getattr(model, "module", model)):
        reader = Reader(model, B, T + settings.max_new_tokens, padding, use_cache)
        if settings.beams > 1:
            result = beam_search(reader, prompts, settings, ends, processors=steps)
            has_nan = bool(result.scores.isnan().any())
            text = result.tokens[:, : settings.samples].flatten(0, 1)
        else:
            text, has_nan = _generate_tokens(
                reader, prompts, settings, ends, steps, generator, on_token
            )
    if has_nan:
        raise InvalidArguments(Problem("model", "a model whose logits are not NaN"))
    if keep is not None:
        text[:, :T] = tokens.repeat_interleave(settings.samples, dim=0)
    return text


def _processors(config: GenerationConfig, prompt: int, ends: StopConditions) -> list[Processor]:
    """Returns the processors (functions that change the logits) that the options in `config` need.

    Args:
        prompt: the length of the prompts in tokens, including padding.
        ends: the stop conditions.
    """
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
    """Returns the prompts with their n new tokens, and whether the last logits contained NaN.

    Args:
        reader: computes the logits.
        tokens: the prompts, of shape (B, T).
        config, ends, processors, generator: see `generate`.
        on_token: function that is called with each new column of tokens, of shape (B * samples,).

    Returns:
        The tokens, of shape (B * samples, T + n), and whether the last logits contained NaN.
    """
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
    # The prompt is read once for all samples of a row.
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
    """Returns the number of padding columns at the start of each row of a mask.

    The result has the shape (B,); it is None if no row has padding. Adds a problem to `checks` for
    each reason why the mask is not valid.

    Args:
        keep: mask of shape (B, T), false for padding.
        tokens: token ids to which the mask belongs.
    """
    expected = f"the shape of the tokens, {tuple(tokens.shape)}"
    if not checks.that(keep.shape == tokens.shape, "keep", tuple(keep.shape), expected):
        return None
    ordered = bool((keep[:, 1:] >= keep[:, :-1]).all())
    expected = "false (padding) only before the first token of each row"
    checks.that(ordered, "keep", "padding after tokens", expected)
    checks.that(bool(keep[:, -1:].all()), "keep", "an empty row", "at least one token in each row")
    padding = (~keep).sum(dim=1)
    return padding if bool(padding.any()) else None
