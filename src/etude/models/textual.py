"""A trained module with its tokenizer, as what it is good for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder

Textual = LanguageModel | Seq2Seq | TextEncoder


def with_tokenizer(module: nn.Module, tokenizer: Any, labels: Sequence[str] = ()) -> Textual:
    """A decoder as a `LanguageModel`, an encoder-decoder as a `Seq2Seq`, an encoder as a
    `TextEncoder`.

    Args:
        labels: the names of what the module's head tells apart.
    """
    if isinstance(module, Decoder):
        return LanguageModel(module, tokenizer)
    if isinstance(module, EncoderDecoder):
        return Seq2Seq(module, tokenizer)
    return TextEncoder(module, tokenizer, labels=labels)  # type: ignore[arg-type]
