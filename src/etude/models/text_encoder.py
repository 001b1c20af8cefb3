"""Encoder with its tokenizer, which maps texts to vectors or to the outputs of its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from etude.activations.inspectable import InspectableWrapper, first_row
from etude.arguments import as_list, check_arguments
from etude.errors import InvalidArguments, Problem
from etude.generation.model_modes import evaluation_mode
from etude.models.encoder import Encoder
from etude.models.padding import cut, right_padded


class FramingTokenizer(Protocol):
    """Tokenizer interface that `TextEncoder` requires."""

    def framed(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, with the special tokens around it."""


class EncoderOutput(NamedTuple):
    """Output of an encoder for a batch of B texts, padded to T tokens.

    Attributes:
        output: vectors of shape (B, T, D) if the encoder has no head; otherwise the head's logits,
            of a shape such as (B, T, V).
        keep: mask of shape (B, T), false at padding.
    """

    output: Tensor
    keep: Tensor


class TextEncoder(InspectableWrapper):
    """An encoder with its tokenizer, which maps texts to vectors or to the outputs of its head.

    Example:
        output, keep = model.read(["A sentence.", "Another one."])

    Args:
        module: the encoder.
        tokenizer: the tokenizer that the encoder was trained with.
        labels: names of the head's classes or tags, by index.
    """

    writes = False

    def __init__(
        self, module: Encoder, tokenizer: FramingTokenizer, *, labels: Sequence[str] = ()
    ) -> None:
        self.module, self.tokenizer, self.labels = module, tokenizer, list(labels)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.module.parameters()).device

    @check_arguments(InvalidArguments)
    def __call__(self, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Maps token ids (B, T) to the module's output, or ids (T,) to the output for one text.

        All texts have the same number of tokens; nothing is treated as padding.
        """
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        output: Tensor = self.module(tokens[None] if tokens.ndim == 1 else tokens)
        return first_row(output) if tokens.ndim == 1 else output

    @check_arguments(InvalidArguments)
    def input_ids(self, text: str, longest: int | None = None) -> list[int]:
        """Returns the ids that the module reads for a text, with special tokens around it.

        Args:
            text: the text.
            longest: largest number of ids; the last tokens of a longer text are cut off, but not
                the final special token. None cuts nothing off.
        """
        return cut(self.tokenizer.framed([text])[0], longest)

    @check_arguments(InvalidArguments)
    @torch.inference_mode()
    def read(self, texts: str | Sequence[str]) -> EncoderOutput:
        """Returns the module's output for one batch of all `texts`, to which special tokens are
        added, and the mask `keep` of the tokens that are no padding. A single text is a batch with
        B = 1.

        If a text is too long for the model, its last tokens are cut off; the final special token
        remains.
        """
        inputs = as_list(texts)
        if not inputs:
            raise InvalidArguments(Problem("texts", "at least one text", inputs))
        longest = self.module.max_length
        rows = [cut(ids, longest) for ids in self.tokenizer.framed(inputs)]
        tokens, keep = right_padded(rows, self.device)
        with evaluation_mode(self.module):
            return EncoderOutput(self.module(tokens, keep=keep), keep)

    @check_arguments(InvalidArguments)
    def mean(self, texts: str | Sequence[str]) -> Tensor:
        """Returns the mean of the vectors of each text's tokens, with shape (B, D) for B texts, as
        in sentence encoders (Reimers & Gurevych 2019, arXiv:1908.10084, section 3). Special tokens
        are included, padding is not. The module must have no head.
        """
        output, keep = self.read(texts)
        weights = keep[..., None].to(output.dtype)
        return (output * weights).sum(1) / weights.sum(1)
