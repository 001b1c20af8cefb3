"""Beam search: continuations of prompts with the highest probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.generation.generation_config import GenerationConfig
from etude.generation.processors import Processor, apply
from etude.generation.reader import Reader
from etude.generation.stopping import StopConditions

_MASKED = -1e9
"""The score of excluded candidates. It is finite, so that sums with it are never NaN."""
DONE_FRACTION = 0.25
"""The fraction of prompts that must be done before they are removed from the batch.

Prompts are not removed one by one, because each removal copies all remaining prompts.
"""


@dataclass(frozen=True)
class BeamSearchResult:
    """The result of a beam search, the best hypotheses first.

    Attributes:
        tokens: ids of B prompts of T tokens, each followed by up to n new tokens; shape
            (B, beams, T + n). Shorter texts are padded at the end with the first stop token, or
            with 0 if there is none (`StopConditions.fill`).
        scores: scores of the hypotheses (see `beam_search`), of shape (B, beams); NaN if the logits
            of a prompt were NaN.
    """

    tokens: Tensor
    scores: Tensor


def beam_search(
    reader: Reader,
    tokens: Tensor,
    config: GenerationConfig,
    ends: StopConditions,
    *,
    processors: Sequence[Processor] = (),
) -> BeamSearchResult:
    """Returns the best continuations of B prompts that a beam search finds.

    A hypothesis is a finished continuation: it meets a stop condition or has `max_new_tokens` new
    tokens. Its score is log p(new tokens) / n^length_penalty,
    where n is the number of its new tokens, including the stop token (Wu et al. 2016,
    arXiv:1609.08144, section 7, whose penalty is another power law).

    Each step ranks the continuations of all beams of a prompt and considers at least the best
    2 * `beams`, so that `beams` unfinished continuations remain. Finished continuations among the
    best `beams` become hypotheses. Prompts whose search is done are removed from the batch when
    they are at least the fraction `DONE_FRACTION` of its prompts.

    Args:
        reader: a new `Reader` of the B prompts, which has not read any tokens yet.
        tokens: token ids of the prompts, of shape (B, T).
        config: the options. A beam search uses `max_new_tokens`, `beams`, `length_penalty` and
            `early_stopping`.
        ends: the stop conditions of a hypothesis.
        processors: see `etude.generation.processors`; they receive only the unfinished prompts.
    """
    beams, length_penalty = config.beams, config.length_penalty
    max_new_tokens, early_stopping = config.max_new_tokens, config.early_stopping
    stop_tokens, stop = ends.tokens, ends.rule
    B, T = tokens.shape
    device = tokens.device
    end = T + max_new_tokens
    width = max(2, 1 + len(stop_tokens)) * beams  # candidates per step
    ending = torch.tensor(stop_tokens, dtype=torch.long, device=device)
    text = tokens.new_full((B, beams, end), ends.fill)
    text[..., :T] = tokens[:, None]
    scores = torch.full((B, beams), _MASKED, device=device)
    scores[:, 0] = 0.0  # all beams are equal at first: continue one
    improvable = torch.ones(B, 1, dtype=torch.bool, device=device)

    logits = reader.read(tokens, T)
    reader.repeat(beams)
    logits = logits.repeat_interleave(beams, dim=0)
    precision = torch.promote_types(logits.dtype, torch.float32)
    active = torch.arange(B, device=device)  # indices of the unfinished prompts
    # `results` has all prompts, `current` the active ones.
    results, current = (_Hypotheses.empty(text, precision) for _ in range(2))
    for length in range(T, end):
        B = len(active)
        if length > T:
            logits = reader.read(text.view(B * beams, end), length)
        log_p = logits.log_softmax(dim=-1, dtype=precision)
        if processors:
            log_p = apply(processors, text.view(B * beams, end)[:, :length], log_p)
        V = log_p.shape[-1]
        total = (log_p.view(B, beams, V) + scores[..., None]).view(B, beams * V)
        best, index = total.topk(min(width, beams * V), dim=-1)  # (B, width), best first
        parent, token = index // V, index % V

        is_end = torch.isin(token, ending) if len(stop_tokens) else torch.zeros_like(best).bool()
        if stop is not None:
            new = torch.cat((_gather_beams(text[..., T:length], parent), token[..., None]), dim=-1)
            is_end = is_end | stop(new.flatten(0, 1)).view_as(is_end)
        if length + 1 == end:
            is_end = torch.ones_like(is_end)

        if bool(is_end[:, :beams].any()):
            n = length + 1 - T
            ended = is_end & (torch.arange(is_end.shape[1], device=device) < beams)
            value = best / n**length_penalty + _MASKED * ~ended + _MASKED * ~improvable
            if early_stopping is True:
                value = value + _MASKED * current.complete.all(dim=-1, keepdim=True)
            candidates = _gather_beams(text, parent)
            candidates[..., length] = token
            current = current.merge_best(candidates, value, ended, length + 1)

        scores, continuing = (best + _MASKED * is_end).topk(beams, dim=-1)
        if length + 1 == end or bool(is_end.all()):
            break
        n = max_new_tokens if early_stopping == "never" and length_penalty > 0 else length + 1 - T
        worst = torch.where(current.complete, current.scores.amin(dim=1, keepdim=True), _MASKED)
        within_reach = (scores[:, :1] / n**length_penalty > worst).any(dim=-1, keepdim=True)
        improvable = improvable & within_reach
        done = ~improvable[:, 0]
        if early_stopping is True:
            done = done | current.complete.all(dim=1)
        count = int(done.sum())
        if count == B:
            break

        parent, token = parent.gather(1, continuing), token.gather(1, continuing)
        rows = beams * torch.arange(B, device=device)[:, None] + parent
        text = text.view(B * beams, end)
        if count >= DONE_FRACTION * B and reader.can_drop:
            results.update(active, current)
            stay = (~done).nonzero()[:, 0]
            current = current.select(stay)
            active, scores, improvable = active[stay], scores[stay], improvable[stay]
            token, rows = token[stay], rows[stay].view(-1)
            text = text.index_select(0, rows)
            reader.select(rows)
        elif bool((rows.view(-1) != torch.arange(B * beams, device=device)).any()):
            rows = rows.view(-1)
            since = _first_difference(text.view(B, beams, end), T, length)
            text[:, since:length] = text[:, since:length].index_select(0, rows)
            reader.select(rows, since)
        text[:, length] = token.view(-1)
        text = text.view(-1, beams, end)
    results.update(active, current)
    # A prompt without hypotheses had NaN logits.
    is_empty = ~results.complete.any(dim=1, keepdim=True)
    values = results.scores.masked_fill(is_empty, torch.nan)
    return BeamSearchResult(results.tokens[..., : max(T, int(results.lengths.max()))], values)


@dataclass(frozen=True)
class _Hypotheses:
    """The best hypotheses (finished texts) of B prompts: up to `beams` per prompt.

    Attributes:
        tokens: token ids, of shape (B, beams, end); `end` is the maximum length of a text in
            tokens, including its prompt.
        scores: scores of shape (B, beams), the best first.
        complete: mask of shape (B, beams), false where a prompt has fewer hypotheses.
        lengths: length of each text in tokens, including its prompt; shape (B, beams).
    """

    tokens: Tensor
    scores: Tensor
    complete: Tensor
    lengths: Tensor

    @classmethod
    def empty(cls, text: Tensor, dtype: torch.dtype) -> _Hypotheses:
        """Returns an object that contains no hypotheses yet.

        Args:
            text: token ids of shape (B, beams, end); a placeholder for hypotheses to come.
            dtype: dtype of the scores.
        """
        shape, device = text.shape[:2], text.device
        return cls(
            text.clone(),
            torch.full(shape, _MASKED, dtype=dtype, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
            torch.zeros(shape, dtype=torch.long, device=device),
        )

    def merge_best(
        self, candidates: Tensor, value: Tensor, ended: Tensor, length: int
    ) -> _Hypotheses:
        """Returns the `beams` best of these hypotheses and N candidates for each prompt.

        This object is not changed.

        Args:
            candidates: the tokens of the candidates, of shape (B, N, end).
            value: the scores of the candidates, of shape (B, N); very low for unfinished ones.
            ended: mask of shape (B, N), true for finished candidates, which become hypotheses.
            length: the number of tokens of each candidate, including the prompt.
        """
        scores, order = torch.cat((self.scores, value), dim=1).topk(self.scores.shape[1], dim=-1)
        lengths = torch.full_like(ended, length, dtype=torch.long)
        return _Hypotheses(
            _gather_beams(torch.cat((self.tokens, candidates), dim=1), order),
            scores,
            torch.cat((self.complete, ended), dim=1).gather(1, order),
            torch.cat((self.lengths, lengths), dim=1).gather(1, order),
        )

    def select(self, prompts: Tensor) -> _Hypotheses:
        """Returns the hypotheses of P selected prompts.

        Args:
            prompts: indices of the selected prompts, of shape (P,).
        """
        fields = (self.tokens, self.scores, self.complete, self.lengths)
        return _Hypotheses(*(x[prompts] for x in fields))

    def update(self, prompts: Tensor, others: _Hypotheses) -> None:
        """Replaces the hypotheses of P selected prompts.

        Args:
            prompts: indices of the selected prompts, of shape (P,).
            others: the new hypotheses of these P prompts.
        """
        self.tokens[prompts], self.scores[prompts] = others.tokens, others.scores.to(self.scores)
        self.complete[prompts], self.lengths[prompts] = others.complete, others.lengths


def _gather_beams(text: Tensor, index: Tensor) -> Tensor:
    """Selects N beams of each of B prompts.

    Args:
        text: a row of L numbers for each beam, of shape (B, beams, L).
        index: for each prompt, the indices of the selected beams, of shape (B, N).

    Returns:
        The rows of the selected beams, of shape (B, N, L).
    """
    return text.gather(1, index[..., None].expand(*index.shape, text.shape[-1]))


def _first_difference(text: Tensor, prompt: int, length: int) -> int:
    """Returns the first column at which the beams of any prompt differ; `length` if none differ.

    All earlier columns are equal in all beams of a prompt. They need not be copied when beams are
    reordered.

    Args:
        text: token ids, of shape (B, beams, L).
        prompt: the length of the prompts, which are equal in all beams.
        length: the number of columns to compare, including the prompt.
    """
    new = text[:, :, prompt:length]
    differs = (new != new[:, :1]).any(dim=1).any(dim=0)  # (length - prompt,)
    return prompt + int(differs.int().argmax()) if bool(differs.any()) else length
