"""Conversion of the settings of rotary positions between `config.json` and Étude.

Two formats are supported: `rope_theta` with `rope_scaling` (older), and `rope_parameters`
(transformers 5).
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
"""The name in `config.json` of each argument of `Llama3Rotary`."""
NUMBERS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": LLAMA3,
}
"""The types of scaling, each with the names of its class's arguments in `config.json`."""


def rotary(
    config: HFConfig, *, base: str = "rope_theta", fraction: str | None = None, part: float = 1.0
) -> Callable[..., Position]:
    """Returns the rotary position class that a config describes, with its arguments.

    Unsupported or invalid settings add problems to the config.

    Args:
        base: the name of the field with the rotary base, in the older format.
        fraction: the name of the field with the fraction of the head dimension that is rotated;
            None if the full head dimension is always rotated.
        part: the rotated fraction if that field is missing.
    """
    theta = config.number(base, 10000.0)
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    values: Any = scaling or parameters or {}
    where = "rope_scaling" if scaling else "rope_parameters"
    rotated = part if fraction is None else config.number(fraction, part)
    if fraction is None:
        config.only("partial_rotary_factor", 1, 1.0)
    if not isinstance(values, dict) or any(isinstance(each, dict) for each in values.values()):
        expected = "one JSON object that applies to all layers, without objects as values"
        config.refuse(where, expected, values)
        values = {}
    kind = values.get("rope_type", values.get("type", "default"))
    numbers = ("rope_theta", "partial_rotary_factor", *LLAMA3.values())
    wrong = [
        name for name in numbers if values.get(name) is not None and not is_number(values[name])
    ]
    for name in wrong:
        config.refuse(f"{where}.{name}", "a number", values[name])
    if wrong:
        return Rotary
    theta = theta if values.get("rope_theta") is None else values["rope_theta"]
    factor = values.get("partial_rotary_factor")
    factor = rotated if factor is None else factor
    if fraction is None and factor != 1:
        config.refuse(f"{where}.partial_rotary_factor", "1", factor)
    common: dict[str, Any] = {
        "base": float(theta),
        "fraction": rotated if fraction is None else float(factor),
    }
    names = NUMBERS.get(str(kind))
    if names is None:
        config.refuse(f"{where}.rope_type", f"one of {', '.join(NUMBERS)}", kind)
        return Rotary
    older = values.get("type", kind)
    if older != kind:
        config.refuse(f"{where}.type", f"the same value as rope_type ({kind})", older)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *names.values()}
    for name in values.keys() - known:
        if not is_off(values[name]):
            expected = f"no such field, since rope_type is {kind}"
            config.refuse(f"{where}.{name}", expected, values[name])
    if kind == "default":
        return partial(Rotary, **common)
    if kind == "llama3":
        values = {LLAMA3["original_length"]: config.get("max_position_embeddings"), **values}
    missing = [name for name in names.values() if values.get(name) is None]
    for name in missing:
        config.refuse(f"{where}.{name}", f"a number, required by rope_type {kind}")
    if missing:
        return Rotary
    arguments = {ours: values[name] for ours, name in names.items()}
    return partial(LinearRotary if kind == "linear" else Llama3Rotary, **common, **arguments)


def rope_fields(position: object, *, base: str = "rope_theta") -> dict[str, Any]:
    """Returns the `config.json` fields of a position module, in the older format.

    All versions of `transformers` read this format. The dict is empty if the positions are not
    rotary.

    Args:
        base: the name of the field with the rotary base.
    """
    if not isinstance(position, Rotary):
        return {}
    fields: dict[str, Any] = {base: position.base}
    if type(position) is LinearRotary:
        fields["rope_scaling"] = {"rope_type": "linear", "factor": position.factor}
    elif type(position) is Llama3Rotary:
        values = {name: getattr(position, ours) for ours, name in LLAMA3.items()}
        fields["rope_scaling"] = {"rope_type": "llama3", **values}
    return fields
