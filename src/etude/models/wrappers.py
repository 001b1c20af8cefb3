"""Wrappers of trained modules: text generators, text encoders and number models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from etude.generation.reader import CausalModel
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.models.regressor import NumberModel, Regressor
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder

Writer = LanguageModel | Seq2Seq
Textual = LanguageModel | Seq2Seq | TextEncoder
Trained = Textual | NumberModel


def writer(module: nn.Module, tokenizer: Any) -> Writer | None:
    """Returns a `LanguageModel` or `Seq2Seq` that generates text with a module and its tokenizer;
    None if the module doesn't generate text.
    """
    model: Any = wrap_trained(module, tokenizer)
    return model if isinstance(model, LanguageModel | Seq2Seq) else None


def wrap_trained(module: nn.Module, tokenizer: Any, labels: Sequence[str] = ()) -> Trained:
    """Returns a wrapper that combines a trained module with its tokenizer.

    A decoder becomes a `LanguageModel`, an encoder-decoder a `Seq2Seq`, an encoder a `TextEncoder`,
    and a regressor, which needs no tokenizer, a `NumberModel`. A module of a custom class becomes a
    `LanguageModel` if it has the methods that generation needs
    (`etude.generation.reader.CausalModel`), otherwise a `TextEncoder`.

    Args:
        labels: names of the head's classes or tags, by index.
    """
    if isinstance(module, Regressor):
        return NumberModel(module)
    if isinstance(module, EncoderDecoder):
        return Seq2Seq(module, tokenizer)
    if isinstance(module, CausalModel) and not isinstance(module, Encoder):
        return LanguageModel(module, tokenizer)  # type: ignore[arg-type]
    return TextEncoder(module, tokenizer, labels=labels)  # type: ignore[arg-type]
