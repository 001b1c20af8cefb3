"""Rotary positions in a released config, in both spellings: `rope_theta` with `rope_scaling`, and
`rope_parameters` (transformers 5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from etude.interop.hf_config import HFConfig, is_number, is_off
from etude.nn.position import LinearRotary, Llama3Rotary, Position, Rotary

LLAMA3 = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original_length": "original_max_position_embeddings",
}
"""Our arguments and the released names."""
NUMBERS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": LLAMA3,
}
"""The kinds of scaling, and the numbers that each has, likewise."""


def rotary(
    config: HFConfig, *, base: str = "rope_theta", fraction: str | None = None, part: float = 1.0
) -> Callable[..., Position]:
    """The position part that a config describes.

    Args:
        base: the field of the older spelling with the base.
        fraction: the field with the part of the width that is turned; None: all of it is.
        part: that part where the config does not say.
    """
    theta = config.number(base, 10000.0)
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    said: Any = scaling or parameters or {}
    where = "rope_scaling" if scaling else "rope_parameters"
    turned = part if fraction is None else config.number(fraction, part)
    if fraction is None:
        config.only("partial_rotary_factor", 1, 1.0)
    if not isinstance(said, dict) or any(isinstance(each, dict) for each in said.values()):
        config.refuse(where, "one object for all layers", said)
        said = {}
    kind = said.get("rope_type", said.get("type", "default"))
    numbers = ("rope_theta", "partial_rotary_factor", *LLAMA3.values())
    wrong = [name for name in numbers if said.get(name) is not None and not is_number(said[name])]
    for name in wrong:
        config.refuse(f"{where}.{name}", "a number", said[name])
    if wrong:
        return Rotary
    theta = theta if said.get("rope_theta") is None else said["rope_theta"]
    stated = said.get("partial_rotary_factor")
    within = turned if stated is None else stated
    if fraction is None and within != 1:
        config.refuse(f"{where}.partial_rotary_factor", "1", within)
    common: dict[str, Any] = {
        "base": float(theta),
        "fraction": turned if fraction is None else float(within),
    }
    names = NUMBERS.get(str(kind))
    if names is None:
        config.refuse(f"{where}.rope_type", f"one of {', '.join(NUMBERS)}", kind)
        return Rotary
    older = said.get("type", kind)
    if older != kind:
        config.refuse(f"{where}.type", f"what rope_type says, {kind}", older)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *names.values()}
    for name in said.keys() - known:
        if not is_off(said[name]):
            config.refuse(f"{where}.{name}", f"no such number in the scaling {kind}", said[name])
    if kind == "default":
        return partial(Rotary, **common)
    if kind == "llama3":
        said = {LLAMA3["original_length"]: config.get("max_position_embeddings"), **said}
    missing = [name for name in names.values() if said.get(name) is None]
    for name in missing:
        config.refuse(f"{where}.{name}", f"a number: {kind} needs it")
    if missing:
        return Rotary
    stated = {ours: said[name] for ours, name in names.items()}
    return partial(LinearRotary if kind == "linear" else Llama3Rotary, **common, **stated)


def rope_fields(position: object, *, base: str = "rope_theta") -> dict[str, Any]:
    """The fields that describe a position part, in the spelling that all versions read."""
    if not isinstance(position, Rotary):
        return {}
    fields: dict[str, Any] = {base: position.base}
    if type(position) is LinearRotary:
        fields["rope_scaling"] = {"rope_type": "linear", "factor": position.factor}
    elif type(position) is Llama3Rotary:
        said = {name: getattr(position, ours) for ours, name in LLAMA3.items()}
        fields["rope_scaling"] = {"rope_type": "llama3", **said}
    return fields
