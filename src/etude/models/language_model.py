"""Text generation with a decoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etude.activations.inspectable import first_row
from etude.arguments import check_arguments
from etude.errors import InvalidArguments
from etude.generation.text_constraints import Tokenizer, problem_of_ids
from etude.models.decoder import Decoder
from etude.models.padding import have_equal_length, left_padded
from etude.models.text_generator import PromptBatch, TextGenerator, empty_prompt_error

__all__ = ["LanguageModel", "Tokenizer"]


class LanguageModel(TextGenerator):
    """A decoder with its tokenizer, which continues texts.

    Generated text begins with the prompt, exactly as it was typed. An empty prompt starts a new
    document.

    The method `generate` is that of `TextGenerator`.

    Example:
        model.generate("To be, or", samples=5, max_new_tokens=50, top_p=0.9, seed=0)

    Args:
        module: the decoder.
        tokenizer: the tokenizer that the decoder was trained with.
        begin_token: id of a token before every prompt, such as Llama 2's `<s>`. If None, only an
            empty prompt is preceded by a token, the end-of-text token.
        stop_tokens: ids that end a text, in addition to the tokenizer's end-of-text token.
    """

    def __init__(
        self,
        module: Decoder,
        tokenizer: Tokenizer,
        *,
        begin_token: int | None = None,
        stop_tokens: Sequence[int] = (),
    ) -> None:
        super().__init__(module, tokenizer, stop_tokens=stop_tokens)
        self.module = module
        self.begin_token = begin_token

    @check_arguments(InvalidArguments)
    def __call__(self, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Maps token ids (B, T) to logits (B, T, V), or ids (T,) to logits (T, V)."""
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        size = self.module.embedding.num_embeddings
        if not tokens.is_cuda and (problem := problem_of_ids(tokens, size, "ids")):  # no GPU waits
            raise InvalidArguments(problem)
        logits: Tensor = self.module(tokens[None] if tokens.ndim == 1 else tokens)
        return first_row(logits) if tokens.ndim == 1 else logits

    @check_arguments(InvalidArguments)
    def input_ids(self, text: str, longest: int | None = None) -> list[int]:
        begin = [] if self.begin_token is None else [self.begin_token]
        return [*begin, *self._encode(text)][:longest]

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        if self.begin_token is None and self.tokenizer.end_of_text is None and not ids:
            raise empty_prompt_error(text)
        return ids

    def _begin(self, prompts: list[list[int]]) -> PromptBatch:
        start = self.tokenizer.end_of_text if self.begin_token is None else self.begin_token
        rows = []
        for ids in prompts:
            first = start if self.begin_token is not None or not ids else None
            rows.append(ids if first is None else [first, *ids])
        tokens, keep = left_padded(rows, self.device)
        return PromptBatch(
            self.module,
            tokens,
            None if have_equal_length(rows) else keep,
            [len(ids) for ids in prompts],
        )
