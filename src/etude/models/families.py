"""The families of our models, by the names that users know."""

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


def of_another(model: Any, wanted: Sequence[type]) -> bool:
    """Whether a model is of another family than is wanted; a user's own is of none."""
    ours = isinstance(model, tuple(_FAMILIES))
    return ours and bool(wanted) and not isinstance(model, tuple(wanted))


def called(families: Sequence[type]) -> tuple[str, str]:
    """What families are called, and the configs that have one."""
    known = [_FAMILIES.get(kind, (kind.__name__, "")) for kind in families]
    choices = " or ".join(choice for _, choice in known if choice)
    return " or ".join(name for name, _ in known), choices


def misses_head(model: Any, wanted: str | None) -> bool:
    """Whether an encoder has no head, or one that gives something else than is wanted; None wants
    nothing.
    """
    if wanted is None or not isinstance(model, Encoder):
        return False
    return getattr(model.head, "gives", None) != wanted


def has_head(module: Any) -> bool:
    """Whether a module has a head that can be replaced: an encoder's."""
    return hasattr(getattr(module, "head", None), "gives")


def head_of(module: Any) -> str:
    """The name of the class of a module's head; `NoneType` without."""
    return type(getattr(module, "head", None)).__name__
