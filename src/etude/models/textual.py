"""A trained module, with its tokenizer if it reads text, as what it is good for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.models.regressor import NumberModel, Regressor
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder

Textual = LanguageModel | Seq2Seq | TextEncoder
Trained = Textual | NumberModel


def for_use(module: nn.Module, tokenizer: Any, labels: Sequence[str] = ()) -> Trained:
    """A decoder as a `LanguageModel`, an encoder-decoder as a `Seq2Seq`, an encoder as a
    `TextEncoder`, a regressor, which has no use for the tokenizer, as a `NumberModel`.

    Args:
        labels: the names of what the module's head tells apart.
    """
    if isinstance(module, Regressor):
        return NumberModel(module)
    if isinstance(module, Decoder):
        return LanguageModel(module, tokenizer)
    if isinstance(module, EncoderDecoder):
        return Seq2Seq(module, tokenizer)
    return TextEncoder(module, tokenizer, labels=labels)  # type: ignore[arg-type]
