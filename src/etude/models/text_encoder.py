"""An encoder together with its tokenizer: text in, vectors or what the head says out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from etude.generation.decoding import evaluating
from etude.models.encoder import Encoder
from etude.models.padding import right_padded


class FramingTokenizer(Protocol):
    """What is needed of a tokenizer."""

    def framed(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with the special tokens around it."""


class Read(NamedTuple):
    """What an encoder says of texts.

    Attributes:
        output: (B, T, D) without a head; else what the head gives, such as (B, T, V).
        keep: (B, T), false where a shorter text is padded.
    """

    output: Tensor
    keep: Tensor


class TextEncoder:
    """An encoder and its tokenizer.

    Example:
        output, keep = model.read(["A sentence.", "Another one."])

    Args:
        module: the encoder.
        tokenizer: the one it was trained with.
        labels: the names of what the module's head tells apart, by number.
    """

    writes = False  # texts

    def __init__(
        self, module: Encoder, tokenizer: FramingTokenizer, *, labels: Sequence[str] = ()
    ) -> None:
        self.module, self.tokenizer, self.labels = module, tokenizer, list(labels)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.module.parameters()).device

    def __call__(self, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Token ids (B, T) to the module's output for them; (T,) to that of one text."""
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        output: Tensor = self.module(tokens[None] if tokens.ndim == 1 else tokens)
        return output[0] if tokens.ndim == 1 else output

    @torch.inference_mode()
    def read(self, texts: str | Sequence[str]) -> Read:
        """The output for texts as one batch, each with its special tokens around it.

        A text longer than the model's positions is cut; the special token at its end stays.
        """
        asked = [texts] if isinstance(texts, str) else list(texts)
        longest = self.module.max_length
        rows = [
            ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
            for ids in self.tokenizer.framed(asked)
        ]
        tokens, keep = right_padded(rows, self.device)
        with evaluating(self.module):
            return Read(self.module(tokens, keep=keep), keep)

    def mean(self, texts: str | Sequence[str]) -> Tensor:
        """The mean vector of each text's tokens, (B, D), as sentence encoders take it (Reimers &
        Gurevych 2019, arXiv:1908.10084, section 3); for a module without a head.
        """
        output, keep = self.read(texts)
        weights = keep[..., None].to(output.dtype)
        return (output * weights).sum(1) / weights.sum(1)
