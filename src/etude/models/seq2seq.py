"""Generation of target texts from source texts with an encoder-decoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etude.activations.inspectable import first_row
from etude.arguments import check_arguments
from etude.errors import InvalidArguments
from etude.generation.model_modes import evaluation_mode
from etude.generation.text_constraints import Tokenizer
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.padding import cut, have_equal_length, right_padded
from etude.models.text_generator import PromptBatch, TextGenerator, empty_prompt_error


class Seq2Seq(TextGenerator):
    """An encoder-decoder with its tokenizer, which maps source texts to target texts.

    The input is the source and the tokenizer's end-of-text token, as in T5 and Marian; the output
    is the target only.

    The method `generate` is that of `TextGenerator`.

    Example:
        model.generate("translate English to German: Good morning.", beams=4, length_penalty=0.6)

    Args:
        module: the encoder-decoder.
        tokenizer: the tokenizer that the model was trained with, for source and target.
        stop_tokens: ids that end a text, in addition to the tokenizer's end-of-text token.
    """

    continues = False

    def __init__(
        self, module: EncoderDecoder, tokenizer: Tokenizer, *, stop_tokens: Sequence[int] = ()
    ) -> None:
        super().__init__(module, tokenizer, stop_tokens=stop_tokens)
        self.module = module

    @check_arguments(InvalidArguments)
    def __call__(
        self,
        source: Tensor | Sequence[int] | Sequence[Sequence[int]],
        target: Tensor | Sequence[int] | Sequence[Sequence[int]],
    ) -> Tensor:
        """Maps source ids (B, M) and target ids (B, T) to logits (B, T, V).

        Also maps one source (M,) and one target (T,) to logits (T, V). A target begins with
        `module.start_token`.
        """
        ids = [torch.as_tensor(x, dtype=torch.long, device=self.device) for x in (source, target)]
        is_single = ids[0].ndim == 1
        logits: Tensor = self.module(*(x[None] if is_single else x for x in ids))
        return first_row(logits) if is_single else logits

    @check_arguments(InvalidArguments)
    def input_ids(self, text: str, longest: int | None = None) -> list[int]:
        ids = self._encode(text)
        return ids[:longest] if self.tokenizer.end_of_text is None else cut(ids, longest)

    def _encode(self, text: str) -> list[int]:
        end = self.tokenizer.end_of_text
        ids = [*self.tokenizer.encode(text), *([] if end is None else [end])]
        if not ids:
            raise empty_prompt_error(text)
        return ids

    def _begin(self, prompts: list[list[int]]) -> PromptBatch:
        source, keep = right_padded(prompts, self.device)
        with torch.inference_mode(), evaluation_mode(self.module):
            decoder = self.module.reading(source, None if have_equal_length(prompts) else keep)
        start = source.new_full((len(prompts), 1), self.module.start_token)
        return PromptBatch(decoder, start, None, [0] * len(prompts))
