"""Text in, text out: what models that write have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.generate import generate
from etude.generation.options import EarlyStopping, GenerationConfig
from etude.generation.processors import Processor
from etude.generation.reader import CausalModel
from etude.generation.sampling import Generators
from etude.generation.streaming import Continuation
from etude.generation.words import ForbiddenWords, Spelling, StopText, Tokenizer
from etude.nn.memory import memory_for


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

    Attributes:
        continues: whether a text begins with its prompt.
    """

    continues: ClassVar[bool] = True

    writes = True  # texts

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

        A text that continues a prompt begins with the prompt exactly as it was typed, also where
        the tokenizer reads something else (lower case, unknown characters); then comes what the new
        tokens add to the prompt's. It ends at a stop token, which is not shown, at a text of
        `stop`, or after `max_new_tokens`. It does not depend on the other prompts of its batch, but
        for the rounding of sums: the same greedy text, and with a seed the same draws, as alone.

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
            stream: called with pieces of text as they come, the prompt first; joined they are the
                text, and each ends with a whole character. For one prompt and one sample, and not
                with beams.
            batch_size: the most texts, or beams, that are worked on at a time.
            ready: called with the texts of each batch when they are done, in order.

        Returns:
            A string for one prompt and one sample; else a list, prompt after prompt.

        Raises:
            InvalidArguments: options that describe no distribution, or don't go together; an
                empty prompt where the tokenizer has no end of text; a stream of several texts.
        """
        prompts, stops, words = _listed(prompt), _listed(stop), _listed(forbidden)
        single = isinstance(prompt, str) and samples == 1
        checks = Checks()
        with checks.collecting():
            config = GenerationConfig(
                samples=samples, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, greedy=greedy,
                beams=beams, length_penalty=length_penalty, early_stopping=early_stopping,
                repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram,
            )  # fmt: skip
        alone = stream is None or single
        checks.that(alone, "stream", stream, "one prompt and one sample")
        forward = stream is None or beams == 1
        checks.that(forward, "stream", stream, "no beam search, which looks back")
        checks.positive(batch_size=batch_size)
        _check_texts(checks, prompts, stops, words)
        checks.done()
        encoded = [self._encode(text) for text in prompts]
        self._check_room(len(encoded), config, batch_size)
        forbid = [ForbiddenWords(self.spelling, words)] if words else []
        steps = [*forbid, *processors]
        seeds = None if seed is None else _seeds(seed, encoded, samples)
        done: list[str] = []
        at_once = max(1, batch_size // max(samples, beams))
        for first in range(0, len(encoded), at_once):
            batch = slice(first, first + at_once)
            rows = slice(first * samples, (first + at_once) * samples)
            drawn = None if seeds is None else self._generators(seeds[rows])
            texts = prompts[batch], encoded[batch]
            written = self._write(*texts, config, steps, drawn, stops, stream)
            done += written
            if ready is not None:
                ready(written)
        return done[0] if single else done

    def _generators(self, seeds: Sequence[int]) -> list[torch.Generator]:
        """One for each text, where the weights lie."""
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def _check_room(self, prompts: int, config: GenerationConfig, batch_size: int) -> None:
        """Compares the texts of a batch, their cache and the logits with the memory there is.

        Raises:
            InvalidArguments: says what takes how much.
        """
        there = memory_for(self.device)
        if there is None:
            return
        new, beams = config.max_new_tokens, config.beams
        copies = max(config.samples, beams)
        rows = min(max(1, batch_size // copies), prompts) * copies
        module: Any = self._module
        weights = next(module.parameters())
        vocabulary = getattr(getattr(module, "embedding", None), "num_embeddings", 1)
        kept = min(new, getattr(module, "max_length", new))  # positions in the cache, at least
        blocks = getattr(getattr(module, "decoder", module), "blocks", ())
        heads = sum(
            2 * getattr(block.attention, "kv_heads", 0) * getattr(block.attention, "head_dim", 0)
            for block in blocks
            if hasattr(block, "attention")
        )
        takes = rows * (new * 8 + kept * heads * weights.itemsize + vocabulary * 4)
        if takes > there:
            key, value = ("beams", beams) if beams > 1 else ("samples", copies)
            if rows == 1 or new > rows:
                key, value = "max_new_tokens", new
            gib = f"{takes / 2**30:,.1f} GiB"
            expected = f"what fits into {there / 2**30:,.1f} GiB of memory; this takes {gib}"
            raise InvalidArguments(Problem(key, expected, value))

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
        texts: list[str],
        encoded: list[list[int]],
        config: GenerationConfig,
        processors: list[Processor],
        generator: Generators,
        stops: list[str],
        stream: Callable[[str], None] | None,
    ) -> list[str]:
        """The texts of a batch of prompts, which are given as typed and as read."""
        batch = self._begin(encoded)
        typed = texts if self.continues else [""] * len(texts)
        T, tokens = batch.tokens.shape[1], batch.tokens
        prompts = [row[T - n :] for row, n in zip(tokens.tolist(), batch.shown, strict=True)]
        begins = any(not self.tokenizer.decode(ids) for ids in prompts)
        ending = StopText(self.spelling, stops, begins=begins) if stops else None
        streaming = None
        if stream is not None:
            streaming = _Stream(self._continuation(prompts[0], ending), stream)
            streaming.show(typed[0])
        rows = generate(
            batch.model,
            tokens,
            config,
            keep=batch.keep,
            generator=generator,
            processors=processors,
            stop_token=self.stop_tokens,
            stop=ending,
            on_token=None if streaming is None else streaming.read,
        ).tolist()
        if streaming is not None:
            streaming.show(streaming.text.finish())
        samples = len(rows) // len(prompts)
        return [
            typed[i // samples] + self._text(prompts[i // samples], row[T:], ending)
            for i, row in enumerate(rows)
        ]

    def _text(self, prompt: list[int], new: list[int], ending: StopText | None) -> str:
        """The text of the new tokens up to their end; the same as the pieces of a stream."""
        text, pieces = self._continuation(prompt, ending), []
        for end, token in enumerate(new, 1):
            pieces.append(text.push(token))
            if text.ended or (
                ending is not None and ending.ends(new[max(0, end - ending.reach - 1) : end])
            ):
                break
        return "".join([*pieces, text.finish()])

    def _continuation(self, prompt: list[int], ending: StopText | None) -> Continuation:
        stops = () if ending is None else ending.texts
        return Continuation(self.tokenizer, prompt, self.stop_tokens, stops)


class _Stream:
    """Passes a text on as its tokens come; no empty pieces."""

    def __init__(self, text: Continuation, stream: Callable[[str], None]) -> None:
        self.text, self.stream = text, stream

    def read(self, column: Tensor) -> None:
        """Takes the next id, (1,)."""
        self.show(self.text.push(int(column)))

    def show(self, piece: str) -> None:
        if piece:
            self.stream(piece)


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _check_texts(checks: Checks, prompts: list[str], stops: list[str], words: list[str]) -> None:
    for where, texts in (("prompt", prompts), ("stop", stops), ("forbidden", words)):
        for text in texts:
            checks.that(_is_unicode(text), where, text, "text that UTF-8 can hold")
    checks.that(all(stops), "stop", stops, "texts that are not empty")
    checks.that(all(words), "forbidden", words, "words that are not empty")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; bytes of a command line may come as half pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nothing_to_start_from(text: str) -> InvalidArguments:
    """An empty prompt for a tokenizer that has no end of text."""
    expected = "some text: this tokenizer has no end-of-text token to start from"
    return InvalidArguments(Problem("prompt", expected, text))


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
