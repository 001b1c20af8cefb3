"""Text in, text out: what models that write have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.generate import generate
from etude.generation.options import EarlyStopping, check_options
from etude.generation.processors import Processor
from etude.generation.reader import CausalModel
from etude.generation.words import ForbiddenWords, Spelling, StopText, Tokenizer


@dataclass(frozen=True)
class Begun:
    """A batch that is ready to be continued.

    Args:
        model: gives the logits.
        tokens: (B, T), what is continued.
        keep: (B, T), false where a token is padding; None where none is.
        shown: how many of the last tokens of each row belong to the text.
    """

    model: CausalModel
    tokens: Tensor
    keep: Tensor | None
    shown: list[int]


class TextGenerator(ABC):
    """A module that writes, and its tokenizer.

    Args:
        module: gives the logits.
        tokenizer: the one it was trained with.
        stop_tokens: ids that end a text, besides the tokenizer's end of text.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Tokenizer, *, stop_tokens: Sequence[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        ends = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self.stop_tokens = list(dict.fromkeys([*ends, *stop_tokens]))
        self._module = module

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self._module.parameters()).device

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        samples: int = 1,
        max_new_tokens: int = 100,
        min_new_tokens: int = 0,
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
        stop: str | Sequence[str] = (),
        forbidden: str | Sequence[str] = (),
        processors: Sequence[Processor] = (),
        seed: int | None = None,
        stream: Callable[[str], None] | None = None,
        batch_size: int = 64,
        ready: Callable[[list[str]], None] | None = None,
    ) -> str | list[str]:
        """Continues a prompt, or writes the target of a source.

        A text ends at a stop token, which is not shown, at a text of `stop`, or after
        `max_new_tokens`. It does not depend on the other prompts of its batch, but for the
        rounding of sums: the same greedy text, and with a seed the same draws, as alone.

        Args:
            prompt: one, or several, which are continued together.
            samples: texts for each prompt; of a beam search, the best ones.
            min_new_tokens: no stop token before.
            temperature, top_k, top_p, min_p, greedy: see `etude.generation.sampling.choose`.
            beams, length_penalty, early_stopping: above 1, a beam search; see
                `etude.generation.beams.beam_search`.
            repetition_penalty, no_repeat_ngram: see `etude.generation.processors`.
            stop: texts that end a text and are not shown.
            forbidden: words that are not written; see `etude.generation.words.ForbiddenWords`.
            processors: what else is to be done to the logits; see `etude.generation.processors`.
            seed: makes the draws of a text a function of it, of the prompt, and of which of the
                prompt's samples it is; torch's own generator if None.
            stream: called with pieces of text as they come, the prompt first; only whole
                characters. For one prompt and one sample, and not with beams.
            batch_size: the most texts, or beams, that are worked on at a time.
            ready: called with the texts of each batch when they are done, in order.

        Returns:
            A string for one prompt and one sample; else a list, prompt after prompt.

        Raises:
            InvalidArguments: options that describe no distribution, or don't go together; an
                empty prompt where the tokenizer has no end of text; a stream of several texts.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        single = isinstance(prompt, str) and samples == 1
        stops = [stop] if isinstance(stop, str) else list(stop)
        words = [forbidden] if isinstance(forbidden, str) else list(forbidden)
        checks = Checks()
        check_options(
            max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, samples=samples,
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, beams=beams,
            length_penalty=length_penalty, early_stopping=early_stopping,
            repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram, checks=checks,
        )  # fmt: skip
        checks.that(stream is None or single, "stream", stream, "one prompt and one sample")
        checks.that(
            stream is None or beams == 1, "stream", stream, "no beam search, which looks back"
        )
        checks.positive(batch_size=batch_size)
        checks.that(all(stops), "stop", stops, "texts that are not empty")
        checks.that(all(words), "forbidden", words, "words that are not empty")
        checks.done()
        options: dict[str, Any] = {
            "samples": samples, "max_new_tokens": max_new_tokens, "greedy": greedy,
            "min_new_tokens": min_new_tokens, "temperature": temperature, "top_k": top_k,
            "top_p": top_p, "min_p": min_p, "beams": beams, "length_penalty": length_penalty,
            "early_stopping": early_stopping, "repetition_penalty": repetition_penalty,
            "no_repeat_ngram": no_repeat_ngram, "stop_token": self.stop_tokens,
        }  # fmt: skip
        forbid = [ForbiddenWords(self.spelling, words)] if words else []
        options["processors"] = [*forbid, *processors]
        ending = StopText(self.spelling, stops) if stops else None

        encoded = [self._encode(text) for text in prompts]
        seeds = None if seed is None else _seeds(seed, encoded, samples)
        at_once = max(1, batch_size // max(samples, beams))
        texts: list[str] = []
        for first in range(0, len(encoded), at_once):
            rows = slice(first * samples, (first + at_once) * samples)
            batch = self._begin(encoded[first : first + at_once])
            if seeds is not None:
                options["generator"] = [
                    torch.Generator(self.device).manual_seed(each) for each in seeds[rows]
                ]
            done = self._write(batch, ending, stream, options)
            texts += done
            if ready is not None:
                ready(done)
        return texts[0] if single else texts

    def answer(
        self, prompt: Sequence[int], *, max_new_tokens: int = 100, stop_tokens: Sequence[int] = ()
    ) -> str:
        """The text that follows a prompt of ids, the likeliest token after the other, alone.

        Args:
            prompt: all that the module reads, special tokens included.
            stop_tokens: further ones that end it.
        """
        stops = [*self.stop_tokens, *stop_tokens]
        begun = self._begin([list(prompt)])
        T = begun.tokens.shape[1]
        row = generate(
            begun.model, begun.tokens, max_new_tokens=max_new_tokens, greedy=True, stop_token=stops
        )
        new = row[0, T:].tolist()
        end = next((place for place, token in enumerate(new) if token in stops), len(new))
        return self.tokenizer.decode(new[:end])

    @cached_property
    def spelling(self) -> Spelling:
        """What the tokenizer's tokens spell."""
        return Spelling(self.tokenizer)

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """The ids that the module reads of a prompt."""

    @abstractmethod
    def _begin(self, prompts: list[list[int]]) -> Begun:
        """The prompts as one batch."""

    def _write(
        self,
        batch: Begun,
        ending: StopText | None,
        stream: Callable[[str], None] | None,
        options: dict[str, Any],
    ) -> list[str]:
        T, tokens = batch.tokens.shape[1], batch.tokens
        prompts = [row[T - n :] for row, n in zip(tokens.tolist(), batch.shown, strict=True)]
        streaming = None
        if stream is not None:
            streaming = _Stream(self.tokenizer, self.stop_tokens, prompts[0], ending, stream)
        rows = generate(
            batch.model,
            tokens,
            keep=batch.keep,
            stop=ending,
            on_token=None if streaming is None else streaming.read,
            **options,
        ).tolist()
        samples = len(rows) // len(prompts)
        texts = [self._text(prompts[i // samples], row[T:], ending) for i, row in enumerate(rows)]
        if streaming is not None:
            streaming.finish(texts[0])
        return texts

    def _text(self, prompt: list[int], new: list[int], ending: StopText | None) -> str:
        """The text of a prompt's tokens and of the new ones up to their end."""
        written: list[int] = []
        for token in new:
            if token in self.stop_tokens:
                break
            written.append(token)
            if ending is not None and ending.ends(written):
                break
        text = self.tokenizer.decode([*prompt, *written])
        return text if ending is None else ending.cut(text, _written_at(self.tokenizer, prompt))


class _Stream:
    """Passes text on as its tokens come, keeping back what may still change: a character whose
    bytes are not all there, the beginning of what ends the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_tokens: Sequence[int],
        prompt: list[int],
        ending: StopText | None,
        stream: Callable[[str], None],
    ) -> None:
        self.tokenizer, self.stop_tokens, self.ending = tokenizer, stop_tokens, ending
        self.ids, self.stream = list(prompt), stream
        self.start = _written_at(tokenizer, prompt)
        self.shown = 0
        self._show(tokenizer.decode(self.ids))

    def read(self, column: Tensor) -> None:
        """Takes the next id, (1,)."""
        token = int(column)
        if token in self.stop_tokens:
            return
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids).rstrip("\ufffd")
        if self.ending is not None:
            text = self.ending.cut(text, self.start)
            text = text[: len(text) - self.ending.unsure(text[self.start :])]
        self._show(text)

    def finish(self, text: str) -> None:
        """Shows what is left of the whole text, an unfinished character as U+FFFD."""
        self._show(text)

    def _show(self, text: str) -> None:
        if len(text) > self.shown:
            self.stream(text[self.shown :])
            self.shown = len(text)


def nothing_to_start_from(text: str) -> InvalidArguments:
    """An empty prompt for a tokenizer that has no end of text."""
    expected = "some text: this tokenizer has no end-of-text token to start from"
    return InvalidArguments(Problem("prompt", expected, text))


def _written_at(tokenizer: Tokenizer, prompt: list[int]) -> int:
    """Where in the text of prompt and continuation the continuation begins."""
    return len(tokenizer.decode(prompt)) if prompt else 0


def _seeds(seed: int, prompts: list[list[int]], samples: int) -> list[int]:
    """One for each text: a function of the seed, the prompt, and how many texts of the same prompt
    come before, so that neither neighbours nor the batch matter.
    """
    found, before = [], Counter[tuple[int, ...]]()
    for ids in prompts:
        name = hashlib.sha256(repr((seed, ids)).encode()).digest()
        for _ in range(samples):
            number = before[tuple(ids)]
            before[tuple(ids)] += 1
            digest = hashlib.sha256(name + number.to_bytes(8, "big")).digest()
            found.append(int.from_bytes(digest[:8], "big") >> 1)
    return found
