"""A trained model together with its tokenizer: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from etude.errors import Checks, InvalidArguments, Problem
from etude.generation.generate import generate
from etude.models.decoder import Decoder


class Tokenizer(Protocol):
    """What a language model needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document, if there is one."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def decode(self, ids: list[int]) -> str:
        """Ids to text; bytes that form no character become U+FFFD."""


class LanguageModel:
    """A decoder and its tokenizer.

    Example:
        model.generate("To be, or", samples=5, max_new_tokens=50, top_p=0.9, seed=0)

    Args:
        module: the decoder.
        tokenizer: the one it was trained with.
    """

    def __init__(self, module: Decoder, tokenizer: Tokenizer) -> None:
        self.module = module
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.module.parameters()).device

    def __call__(self, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Token ids (B, T) to logits (B, T, V); (T,) to (T, V)."""
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        logits: Tensor = self.module(tokens[None] if tokens.ndim == 1 else tokens)
        return logits[0] if tokens.ndim == 1 else logits

    def generate(
        self,
        prompt: str | list[str],
        *,
        samples: int = 1,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        seed: int | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> str | list[str]:
        """Continues a prompt; the text returned begins with it, as the tokenizer reads it.

        A continuation ends at the tokenizer's end of text, which is not shown, or after
        `max_new_tokens`. An empty prompt starts a new document.

        Args:
            prompt: one, or several, which are continued in turn.
            samples: continuations of each prompt.
            temperature, top_k, top_p, greedy: see `etude.generation.sampling.choose`.
            seed: makes the choices a function of it; torch's own generator if None.
            stream: called with pieces of text as they come, the prompt first; only whole
                characters. For one prompt and one sample.

        Returns:
            A string for one prompt and one sample; else a list, prompt after prompt.

        Raises:
            InvalidArguments: see `etude.generation.generate.generate`; an empty prompt where the
                tokenizer has no end of text; a stream of several texts.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        single = isinstance(prompt, str) and samples == 1
        checks = Checks()
        checks.positive(samples=samples)
        checks.that(stream is None or single, "stream", stream, "one prompt and one sample")
        checks.done()
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        begins = [self._encode(text) for text in prompts]

        texts = []
        for begin, visible in begins:
            reader = None if stream is None else _Reader(self.tokenizer, begin[visible:], stream)
            rows = generate(
                self.module,
                torch.tensor([begin], device=self.device),
                max_new_tokens=max_new_tokens,
                samples=samples,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                greedy=greedy,
                generator=generator,
                stop_token=self.tokenizer.end_of_text,
                on_token=None if reader is None else reader.read,
            ).tolist()
            if reader is not None:
                reader.finish()
            texts += [self._decode(row, visible, len(begin)) for row in rows]
        return texts[0] if single else texts

    def _encode(self, text: str) -> tuple[list[int], int]:
        """The ids to start from, and how many of them are not part of the text."""
        ids = self.tokenizer.encode(text)
        if ids:
            return ids, 0
        end = self.tokenizer.end_of_text
        if end is None:
            expected = "some text: this tokenizer has no end-of-text token to start from"
            raise InvalidArguments(Problem("prompt", expected, text))
        return [end], 1

    def _decode(self, row: list[int], first: int, continuation: int) -> str:
        """The text of row[first:], up to the end of text that the continuation reached."""
        end = self.tokenizer.end_of_text
        stop = row.index(end, continuation) if end in row[continuation:] else len(row)
        return self.tokenizer.decode(row[first:stop])


class _Reader:
    """Passes text on as its ids come, keeping back a character whose bytes are not all there."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: list[int], stream: Callable[[str], None]
    ) -> None:
        self.tokenizer, self.ids, self.stream = tokenizer, list(prompt), stream
        self.shown = 0
        self._show(self.tokenizer.decode(self.ids))

    def read(self, column: Tensor) -> None:
        """Takes the next id, (1,)."""
        token = int(column)
        if token == self.tokenizer.end_of_text:
            return
        self.ids.append(token)
        self._show(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def finish(self) -> None:
        """Shows what is left, an unfinished character as U+FFFD."""
        self._show(self.tokenizer.decode(self.ids))

    def _show(self, text: str) -> None:
        if len(text) > self.shown:
            self.stream(text[self.shown :])
            self.shown = len(text)
