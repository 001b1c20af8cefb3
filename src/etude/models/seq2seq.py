"""An encoder-decoder together with its tokenizer: a source text in, its target out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etude.generation.decoding import evaluating
from etude.generation.words import Tokenizer
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.padding import even, right_padded
from etude.models.text_generator import Begun, TextGenerator, nothing_to_start_from


class Seq2Seq(TextGenerator):
    """An encoder-decoder and its tokenizer.

    It reads a source with the tokenizer's end of text after it, as T5 and Marian; what it
    generates is the target alone.

    Example:
        model.generate("translate English to German: Good morning.", beams=4, length_penalty=0.6)

    Args:
        module: the encoder-decoder.
        tokenizer: the one it was trained with, for source and target.
        stop_tokens: ids that end a text, besides the tokenizer's end of text.
    """

    continues = False

    def __init__(
        self, module: EncoderDecoder, tokenizer: Tokenizer, *, stop_tokens: Sequence[int] = ()
    ) -> None:
        super().__init__(module, tokenizer, stop_tokens=stop_tokens)
        self.module = module

    def __call__(self, source: Tensor | Sequence[int], target: Tensor | Sequence[int]) -> Tensor:
        """Source ids (B, M) and target ids (B, T) to logits (B, T, V); (M,) and (T,) to (T, V).

        The target begins with `module.start_token`.
        """
        ids = [torch.as_tensor(x, dtype=torch.long, device=self.device) for x in (source, target)]
        alone = ids[0].ndim == 1
        logits: Tensor = self.module(*(x[None] if alone else x for x in ids))
        return logits[0] if alone else logits

    def _encode(self, text: str) -> list[int]:
        end = self.tokenizer.end_of_text
        ids = [*self.tokenizer.encode(text), *([] if end is None else [end])]
        if not ids:
            raise nothing_to_start_from(text)
        return ids

    def _begin(self, prompts: list[list[int]]) -> Begun:
        source, keep = right_padded(prompts, self.device)
        with torch.inference_mode(), evaluating(self.module):
            reading = self.module.reading(source, None if even(prompts) else keep)
        start = source.new_full((len(prompts), 1), self.module.start_token)
        return Begun(reading, start, None, [0] * len(prompts))
