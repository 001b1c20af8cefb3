"""A trained module, with its tokenizer if it reads text, as what it is good for."""

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
    """A module that writes texts, ready to; None of another."""
    found: Any = for_use(module, tokenizer)
    return found if isinstance(found, LanguageModel | Seq2Seq) else None


def for_use(module: nn.Module, tokenizer: Any, labels: Sequence[str] = ()) -> Trained:
    """A decoder as a `LanguageModel`, an encoder-decoder as a `Seq2Seq`, an encoder as a
    `TextEncoder`, a regressor, which has no use for the tokenizer, as a `NumberModel`. A class of
    the user's is a `LanguageModel` if it has what generation needs, else a `TextEncoder`.

    Args:
        labels: the names of what the module's head tells apart.
    """
    if isinstance(module, Regressor):
        return NumberModel(module)
    if isinstance(module, EncoderDecoder):
        return Seq2Seq(module, tokenizer)
    if isinstance(module, CausalModel) and not isinstance(module, Encoder):
        return LanguageModel(module, tokenizer)  # type: ignore[arg-type]
    return TextEncoder(module, tokenizer, labels=labels)  # type: ignore[arg-type]
