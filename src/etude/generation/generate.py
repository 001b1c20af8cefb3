"""Continuing sequences token by token, with anything that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.beams import beam_search
from etude.generation.decoding import decoding
from etude.generation.options import EarlyStopping, check_options
from etude.generation.processors import (
    MinNewTokens,
    NoRepeatNGrams,
    Processor,
    RepetitionPenalty,
    apply,
)
from etude.generation.reader import CausalModel, Reader
from etude.generation.sampling import Generators, sampler


@torch.inference_mode()
def generate(
    model: CausalModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    keep: Tensor | None = None,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    greedy: bool = False,
    generator: Generators = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    min_new_tokens: int = 0,
    processors: Sequence[Processor] = (),
    stop_token: int | Sequence[int] | None = None,
    stop: Callable[[Tensor], Tensor] | None = None,
    use_cache: bool = True,
    on_token: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continues `tokens` (B, T), T >= 1, to (B * samples, T + n) with n <= max_new_tokens.

    The logits pass, in the order of `transformers`, the repetition penalty, n-grams, minimum
    length, `processors`, and last temperature, top-k, top-p and min-p. Past `model.window` the
    next token depends on the last `window` tokens alone; see `Reader`.

    Args:
        keep: (B, T), false where a token is padding, which stands before the others of its row: a
            row is continued as it would be without its padding.
        samples: continuations of each row, which stand together; with a cache the row itself is
            read once for all of them. Of a beam search, the best ones.
        temperature, top_k, top_p, min_p, greedy, generator: see
            `etude.generation.sampling.choose`; one generator a row, or one for all.
        beams: above 1, a beam search; with length_penalty and early_stopping, see
            `etude.generation.beams.beam_search`.
        repetition_penalty: of tokens that have occurred, the prompt's among them; 1 is none.
        no_repeat_ngram: so many tokens in a row occur once only, in prompt and text; 0 is off.
        min_new_tokens: no stop token before; a `stop` is not held back.
        processors: further ones.
        stop_token: a row that has produced it, or one of them, is filled with it (the first) from
            there on; when all rows have, generation ends.
        stop: says of the new tokens (R, n) which rows end, (R,); they are filled likewise, or
            with 0.
        use_cache: keep keys and values; without it every token costs a pass over all before it.
        on_token: called with each new column of ids (B * samples,); not in a beam search.

    Raises:
        InvalidArguments: values that describe no distribution, or don't go together; no tokens to
            start from; a model whose logits are no numbers.
    """
    B, T = tokens.shape
    checks = Checks()
    checks.that(T > 0, "tokens", tuple(tokens.shape), "at least one token to start from")
    check_options(
        max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, samples=samples,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, greedy=greedy, beams=beams,
        length_penalty=length_penalty, early_stopping=early_stopping,
        repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram, checks=checks,
    )  # fmt: skip
    checks.that(on_token is None or beams == 1, "on_token", on_token, "None in a beam search")
    padding = None if keep is None else _padding(keep, tokens, checks)
    rows = B * samples
    if isinstance(generator, Sequence):
        checks.that(len(generator) == rows, "generator", len(generator), f"one, or {rows}")
    checks.done()

    stop_tokens = [stop_token] if isinstance(stop_token, int) else list(stop_token or ())
    fill = stop_tokens[0] if stop_tokens else 0
    steps: list[Processor] = []
    if repetition_penalty != 1:
        steps.append(RepetitionPenalty(repetition_penalty))
    if no_repeat_ngram:
        steps.append(NoRepeatNGrams(no_repeat_ngram))
    if min_new_tokens and stop_tokens:
        steps.append(MinNewTokens(min_new_tokens, T, stop_tokens))
    steps += processors

    begin = tokens if keep is None else tokens.masked_fill(~keep, -1)
    if max_new_tokens == 0:
        return tokens.repeat_interleave(samples, dim=0)
    with decoding(getattr(model, "module", model)):
        reader = Reader(model, B, T + max_new_tokens, padding, use_cache)
        if beams > 1:
            found = beam_search(
                reader, begin, max_new_tokens=max_new_tokens, beams=beams,
                length_penalty=length_penalty, early_stopping=early_stopping, processors=steps,
                stop_tokens=stop_tokens, stop=stop, fill=fill,
            )  # fmt: skip
            bad = bool(found.scores.isnan().any())
            text = found.tokens[:, :samples].flatten(0, 1)
        else:
            choose = sampler(temperature, top_k, top_p, min_p, greedy, generator)
            text, bad = _write(
                reader, begin, T + max_new_tokens, samples, choose, steps, stop_tokens, stop,
                fill, on_token,
            )  # fmt: skip
    if bad:
        raise InvalidArguments(Problem("model", "logits that are numbers", "NaN"))
    if keep is not None:
        text[:, :T] = tokens.repeat_interleave(samples, dim=0)
    return text


def _write(
    reader: Reader,
    tokens: Tensor,
    end: int,
    samples: int,
    choose: Callable[[Tensor], Tensor],
    processors: Sequence[Processor],
    stop_tokens: Sequence[int],
    stop: Callable[[Tensor], Tensor] | None,
    fill: int,
    on_token: Callable[[Tensor], None] | None,
) -> tuple[Tensor, bool]:
    """A token a step, each chosen for good; and whether the logits were no numbers."""
    T = tokens.shape[1]
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
