"""Model families and their names in messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.regressor import Regressor

_FAMILIES = {
    Decoder: ("a decoder", "model=nano"),
    Encoder: ("an encoder", "model=encoder_nano"),
    EncoderDecoder: ("an encoder-decoder", "model=transformer_nano"),
    Regressor: ("a regressor", "model=regressor_nano"),
}


def is_of_other_family(model: Any, supported: Sequence[type]) -> bool:
    """Returns whether a model belongs to a built-in family (decoder, encoder, ...) that is not
    among the classes `supported`.

    Returns false for a custom model, which belongs to no family, and if `supported` is empty.
    """
    is_known = isinstance(model, tuple(_FAMILIES))
    return is_known and bool(supported) and not isinstance(model, tuple(supported))


def family_names(families: Sequence[type]) -> tuple[str, str]:
    """Returns two texts for a message: the names of model families ("a decoder or an encoder"), and
    overrides that select such models ("model=nano or model=encoder_nano").

    A custom class is named by its class name, and has no override. Texts without entries are empty.
    """
    entries = [_FAMILIES.get(kind, (kind.__name__, "")) for kind in families]
    choices = " or ".join(choice for _, choice in entries if choice)
    return " or ".join(name for name, _ in entries), choices


def lacks_head(model: Any, required: str | None) -> bool:
    """Returns whether a model is an encoder without the required head.

    Args:
        required: type of logits (`gives`) that the head must return; None requires no head.
    """
    if required is None or not isinstance(model, Encoder):
        return False
    return getattr(model.head, "gives", None) != required


def has_head(module: Any) -> bool:
    """Returns whether a module has a replaceable head, as encoders have."""
    return hasattr(getattr(module, "head", None), "gives")


def head_class_name(module: Any) -> str:
    """Returns the class name of a module's head; `NoneType` if the module has no head."""
    return type(getattr(module, "head", None)).__name__
