"""Base class of models that generate text from text."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from etude.activations.inspectable import InspectableWrapper
from etude.arguments import as_list, check_arguments
from etude.errors import Checks, InvalidArguments, Problem, nearest
from etude.generation.generate import generate
from etude.generation.generation_config import EarlyStopping, GenerationConfig
from etude.generation.processors import Processor
from etude.generation.reader import CausalModel
from etude.generation.sampling import Generators
from etude.generation.streaming import Continuation
from etude.generation.text_constraints import (
    ForbiddenWords,
    StopText,
    Tokenizer,
    TokenTexts,
    problem_of_ids,
)
from etude.nn.memory import memory_for


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts, ready for generation.

    Args:
        model: the model that returns the logits.
        tokens: (B, T), ids to continue.
        keep: (B, T), false where a token is padding; None without padding.
        shown: for each row, the number of its last tokens that encode the text of the prompt;
            tokens before them are padding or special tokens.
    """

    model: CausalModel
    tokens: Tensor
    keep: Tensor | None
    shown: list[int]


class TextGenerator(InspectableWrapper, ABC):
    """Base class of models that generate text with a module and its tokenizer.

    Args:
        module: the module that returns the logits.
        tokenizer: the tokenizer that the module was trained with.
        stop_tokens: ids that end a text, in addition to the tokenizer's end-of-text token.

    Attributes:
        continues: whether the generated text begins with its prompt.
        writes: whether the model generates text: true here, false in the wrappers `TextEncoder` and
            `NumberModel`.
    """

    continues: ClassVar[bool] = True

    writes = True

    def __init__(
        self, module: nn.Module, tokenizer: Tokenizer, *, stop_tokens: Sequence[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        ends = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self.stop_tokens = list(dict.fromkeys([*ends, *stop_tokens]))
        self._module = module

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self._module.parameters()).device

    @check_arguments(InvalidArguments)
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
        """Returns texts that continue the prompts, or for an encoder-decoder, the target texts.

        A text that continues a prompt begins with the prompt exactly as it was typed, even where
        the tokenizer normalises it (lower case, unknown characters); the text of the new tokens
        follows. A text ends before a stop token or a `stop` text, or after `max_new_tokens`. It
        does not depend on the other prompts of its batch, except for rounding: greedy texts and,
        with a seed, sampled texts are the same as those of a batch with a single prompt.

        Args:
            prompt: one prompt, or several, which are continued as a batch.
            samples: number of texts per prompt; with beam search, the best texts.
            max_new_tokens: largest number of new tokens.
            min_new_tokens: number of new tokens before a stop token is allowed.
            temperature, top_k, top_p, min_p, greedy: see `etude.generation.sampling.choose`.
            beams, length_penalty, early_stopping, repetition_penalty, no_repeat_ngram: see
                `GenerationConfig`.
            stop: texts that end the generated text; they are not part of it.
            forbidden: words that are not generated, in any case and however they are tokenized.
            processors: functions that change the logits of each token before it is selected;
                called with the token ids so far, (B, T), and the logits, (B, V).
            seed: random seed; each text is a function of the seed, the prompt and its index among
                the prompt's samples. None uses torch's global generator.
            stream: called with each piece of the text when it is generated, beginning with the
                prompt. A piece ends with a whole character; all pieces together are the text. Only
                for one prompt and one sample, without beam search.
            batch_size: largest number of texts, or beams, in a batch.
            ready: called with the texts of each batch when they are done, in order.

        Returns:
            A string for one prompt and one sample; otherwise a list, ordered by prompt.

        Raises:
            InvalidArguments: options are invalid or cannot be combined; a prompt is empty and the
                tokenizer has no end-of-text token; `stream` is set for several texts.
        """
        prompts, stops, words = as_list(prompt), as_list(stop), as_list(forbidden)
        is_single = isinstance(prompt, str) and samples == 1
        checks = Checks()
        with checks.collecting():
            config = GenerationConfig(
                samples=samples, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, greedy=greedy,
                beams=beams, length_penalty=length_penalty, early_stopping=early_stopping,
                repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram,
            )  # fmt: skip
        is_allowed = stream is None or is_single
        expected = "a call with one prompt and one sample, which streaming requires"
        checks.that(is_allowed, "stream", stream, expected)
        is_allowed = stream is None or beams == 1
        expected = "a call without beam search, which does not support streaming"
        checks.that(is_allowed, "stream", stream, expected, "set beams=1")
        checks.positive(batch_size=batch_size)
        _check_texts(checks, prompts, stops, words)
        checks.done()
        encoded = [self._encode(text) for text in prompts]
        self._check_room(len(encoded), config, batch_size)
        forbidding = [ForbiddenWords(self.spelling, words)] if words else []
        steps = [*forbidding, *processors]
        seeds = None if seed is None else _seeds(seed, encoded, samples)
        finished: list[str] = []
        batch_prompts = max(1, batch_size // max(samples, beams))
        for first in range(0, len(encoded), batch_prompts):
            batch = slice(first, first + batch_prompts)
            rows = slice(first * samples, (first + batch_prompts) * samples)
            generators = None if seeds is None else self._generators(seeds[rows])
            texts = prompts[batch], encoded[batch]
            new_texts = self._write(*texts, config, steps, generators, stops, stream)
            finished += new_texts
            if ready is not None:
                ready(new_texts)
        return finished[0] if is_single else finished

    @check_arguments(InvalidArguments)
    def generate_ids(
        self, prompts: Sequence[Sequence[int]] | Tensor, *, seed: int | None = None, **options: Any
    ) -> list[list[int]]:
        """Returns the token ids that the model generates for prompts of ids.

        For models without a tokenizer, and for ids that no text encodes.

        Args:
            prompts: ids of the prompts, including special tokens; lists may differ in length.
            seed: as for `generate`.
            options: the other arguments of `generate` that choose tokens, such as `samples`,
                `max_new_tokens` and `temperature`; see `GenerationConfig`.

        Returns:
            A list of ids for each prompt and sample, ordered by prompt, without the prompt and
            without the stop token.

        Raises:
            InvalidArguments: there are no prompts, a prompt is empty, or an option is invalid.
        """
        checks = Checks()
        if isinstance(prompts, Tensor):
            is_matrix = prompts.ndim == 2 and not prompts.is_floating_point()
            expected = "lists of ids, or a matrix of ids (sequences, tokens)"
            checks.that(is_matrix, "prompts", tuple(prompts.shape), expected)
            checks.done()
        rows = [[int(token) for token in prompt] for prompt in prompts]
        size: int = self._module.get_submodule("embedding").num_embeddings  # type: ignore[assignment]
        for row in rows:
            if problem := problem_of_ids(torch.tensor(row, dtype=torch.long), size, "prompts"):
                checks.problems.append(problem)
        known = [field.name for field in fields(GenerationConfig)]
        for name in options.keys() - known:
            checks.that(False, name, options[name], "an option of generation", nearest(name, known))
        expected = "at least one prompt, each with at least one id"
        checks.that(bool(rows) and all(rows), "prompts", rows, expected)
        checks.done()
        config = GenerationConfig(**options)
        self._check_room(len(rows), config, len(rows) * max(config.samples, config.beams))
        batch = self._begin(rows)
        T = batch.tokens.shape[1]
        generators = None
        if seed is not None:
            generators = self._generators(_seeds(seed, rows, config.samples))
        outputs = generate(
            batch.model, batch.tokens, config, keep=batch.keep, generator=generators,
            stop_token=self.stop_tokens,
        )  # fmt: skip
        return [self._until_stop(row[T:]) for row in outputs.tolist()]

    def _until_stop(self, new: list[int], stops: Sequence[int] = ()) -> list[int]:
        """Returns the ids before the first stop token."""
        every = {*self.stop_tokens, *stops}
        return list(itertools.takewhile(lambda token: token not in every, new))

    def _generators(self, seeds: Sequence[int]) -> list[torch.Generator]:
        """Returns a random number generator for each of `seeds`, on the device of the weights."""
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def _check_room(self, prompts: int, config: GenerationConfig, batch_size: int) -> None:
        """Checks that the texts of a batch, their cache and the logits fit into the memory of the
        module's device.

        Nothing is checked if the size of the memory is unknown.

        Args:
            prompts: number of prompts.
            config: options of the generation.
            batch_size: largest number of texts, or beams, in a batch.

        Raises:
            InvalidArguments: the memory is too small; the message states the required memory.
        """
        available = memory_for(self.device)
        if available is None:
            return
        new, beams = config.max_new_tokens, config.beams
        copies = max(config.samples, beams)
        rows = min(max(1, batch_size // copies), prompts) * copies
        module: Any = self._module
        weights = next(module.parameters())
        vocabulary = getattr(getattr(module, "embedding", None), "num_embeddings", 1)
        cached = min(new, getattr(module, "max_length", new))  # positions in the cache, at least
        blocks = getattr(getattr(module, "decoder", module), "blocks", ())
        heads = sum(
            2 * getattr(block.attention, "kv_heads", 0) * getattr(block.attention, "head_dim", 0)
            for block in blocks
            if hasattr(block, "attention")
        )
        required = rows * (new * 8 + cached * heads * weights.itemsize + vocabulary * 4)
        if required > available:
            key, value = ("beams", beams) if beams > 1 else ("samples", copies)
            if rows == 1 or new > rows:
                key, value = "max_new_tokens", new
            gib = f"{required / 2**30:,.1f} GiB"
            limit = f"{available / 2**30:,.1f} GiB of memory"
            expected = f"a value with which generation needs at most {limit}, not {gib}"
            raise InvalidArguments(Problem(key, expected, value))

    @check_arguments(InvalidArguments)
    def answer(
        self, prompt: Sequence[int], *, max_new_tokens: int = 100, stop_tokens: Sequence[int] = ()
    ) -> str:
        """Returns the greedily decoded text that follows a prompt of ids, without the prompt.

        Args:
            prompt: the module's input, including special tokens.
            stop_tokens: further ids that end the text.
        """
        stops = [*self.stop_tokens, *stop_tokens]
        batch = self._begin([list(prompt)])
        T = batch.tokens.shape[1]
        row = generate(
            batch.model, batch.tokens, max_new_tokens=max_new_tokens, greedy=True, stop_token=stops
        )
        return self.tokenizer.decode(self._until_stop(row[0, T:].tolist(), stop_tokens))

    @cached_property
    def spelling(self) -> TokenTexts:
        """The text of each token of the tokenizer."""
        return TokenTexts(self.tokenizer)

    @check_arguments(InvalidArguments)
    def input_ids(self, text: str, longest: int | None = None) -> list[int]:
        """Returns the ids that the module reads for a text, with special tokens around it.

        Args:
            text: the text.
            longest: largest number of ids; the last tokens of a longer text are cut off, but not a
                special token at its end. None cuts nothing off.

        Raises:
            InvalidArguments: the text is empty and the tokenizer has no end-of-text token.
        """
        return self._encode(text)[:longest]

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Returns the module's input ids for a prompt."""

    @abstractmethod
    def _begin(self, prompts: list[list[int]]) -> PromptBatch:
        """Returns the prompts, given as token ids, as a batch."""

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
        """Returns the texts generated for a batch of prompts, ordered by prompt.

        If `continues` is true, each text begins with its prompt.

        Args:
            texts, encoded: the prompts as they were typed, and as token ids.
            config: options of the generation.
            processors: logits processors.
            generator: one random number generator per text, or one for all; None for torch's
                default generator (see `etude.generation.sampling.Generators`).
            stops: texts that end a generated text.
            stream: see `generate`.
        """
        batch = self._begin(encoded)
        typed = texts if self.continues else [""] * len(texts)
        T, tokens = batch.tokens.shape[1], batch.tokens
        prompts = [row[T - n :] for row, n in zip(tokens.tolist(), batch.shown, strict=True)]
        may_begin = any(not self.tokenizer.decode(ids) for ids in prompts)
        ending = StopText(self.spelling, stops, begins=may_begin) if stops else None
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
        """Returns the text of the generated tokens `new`, which follow the tokens `prompt`. The
        text ends before the first stop token or stop text (detected by `ending`). Streaming
        produces the same text in pieces.
        """
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
    """Incremental decoder, which decodes a text token by token and passes each non-empty piece to
    `stream`.

    Args:
        text: receives each token, and returns the next piece of the text.
        stream: called with each piece.
    """

    def __init__(self, text: Continuation, stream: Callable[[str], None]) -> None:
        self.text, self.stream = text, stream

    def read(self, column: Tensor) -> None:
        """Decodes the next token, whose id is the only element of `column`."""
        self.show(self.text.push(int(column)))

    def show(self, piece: str) -> None:
        if piece:
            self.stream(piece)


def _check_texts(checks: Checks, prompts: list[str], stops: list[str], words: list[str]) -> None:
    for where, texts in (("prompt", prompts), ("stop", stops), ("forbidden", words)):
        for text in texts:
            checks.that(_is_unicode(text), where, text, "text that can be encoded as UTF-8")
    checks.that(all(stops), "stop", stops, "non-empty texts")
    checks.that(all(words), "forbidden", words, "non-empty words")


def _is_unicode(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8.

    Bytes of the command line that are not UTF-8 become lone surrogates, which cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def empty_prompt_error(text: str) -> InvalidArguments:
    """Returns the error to raise if a prompt is empty and the tokenizer has no end-of-text token,
    with which generation would start.

    Args:
        text: the prompt, for the message.
    """
    expected = "a non-empty text, because the tokenizer has no end-of-text token"
    return InvalidArguments(Problem("prompt", expected, text))


def _seeds(seed: int, prompts: list[list[int]], samples: int) -> list[int]:
    """Returns a random seed for each text to generate: `samples` seeds for each prompt (a list of
    token ids).

    The seed of a text depends only on `seed`, the prompt, and the number of earlier texts for the
    same prompt. Other prompts do not change it.
    """
    seeds, counts = [], Counter[tuple[int, ...]]()
    for ids in prompts:
        name = hashlib.sha256(repr((seed, ids)).encode()).digest()
        for _ in range(samples):
            number = counts[tuple(ids)]
            counts[tuple(ids)] += 1
            digest = hashlib.sha256(name + number.to_bytes(8, "big")).digest()
            seeds.append(int.from_bytes(digest[:8], "big") >> 1)
    return seeds
