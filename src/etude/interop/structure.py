"""Structure of a module as a dict, to check whether a `config.json` describes the module."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn

from etude.models.body import Body
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.mask import Mask
from etude.nn.position import embeds

PLAIN_TYPES = (int, float, str, bool, type(None), tuple)
IGNORED = ("training", "dropout", "p", "inplace", "recompute", "embedding_dim", "padding_idx",
            "max_norm", "norm_type", "scale_grad_by_freq", "sparse")  # fmt: skip
"""Attributes that have no effect in evaluation mode, or that follow from a parameter's shape."""


def module_structure(module: nn.Module) -> dict[str, Any]:
    """Returns a dict of the class, the simple attributes (such as numbers and strings) and the
    parameter shapes of each submodule.

    The keys are paths: `blocks.0.attention` for a class, `blocks.0.attention.heads` for an
    attribute, and `blocks.0.attention.qkv.weight` for the shape of a parameter. Two modules with
    equal structures and equal weights compute the same output.
    """
    structure: dict[str, Any] = {}
    bodies = [(path, part) for path, part in module.named_modules() if isinstance(part, Body)]
    # Where layers differ, masks and positions are compared layer by layer: the names of the layer
    # kinds are arbitrary.
    differing = [(path, body) for path, body in bodies if not body.alike]
    left_out = [_join(path, "kinds") for path, _ in bodies]
    left_out += [_join(path, "mask") for path, _ in differing]
    left_out += [_join(path, "position") for path, part in differing if not embeds(part.position)]
    for path, part in module.named_modules():
        if isinstance(part, nn.Dropout | nn.ModuleList):
            continue
        structure |= _part_structure(path, part)
    structure = {path: value for path, value in structure.items() if not _is_inside(path, left_out)}
    for path, body in differing:
        for i in range(len(body.blocks)):
            for name, part in zip(("mask", "position"), body.at_layer(i), strict=True):
                structure |= _part_structure(_join(path, f"blocks.{i}.{name}"), part)
    return structure


def _part_structure(path: str, part: Any) -> dict[str, Any]:
    """Returns a dict of the class, simple attributes and parameter shapes of the submodule `part`.

    The keys are `path` for the class, and `path` with the name of an attribute or parameter for its
    value or shape; the shape of a parameter that is None is None. Masks in `part` are included.
    """
    structure: dict[str, Any] = {
        path: MultiHeadAttention if type(part) is ReferenceAttention else type(part)
    }
    for key, value in vars(part).items():
        if key.startswith("_") or key in IGNORED:
            continue
        if isinstance(value, Mask):
            structure |= _part_structure(_join(path, key), value)
        elif isinstance(value, PLAIN_TYPES):
            structure[_join(path, key)] = value
    for key, parameter in getattr(part, "_parameters", {}).items():
        structure[_join(path, key)] = None if parameter is None else tuple(parameter.shape)
    return structure


def _is_inside(path: str, outer: list[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in outer)


def structure_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Returns a message for each difference between two results of `module_structure`.

    A difference that occurs in several blocks gives only one message. If the classes of two
    submodules differ, the attributes of the submodules are not compared.
    """
    ours, theirs = _per_layer(ours, theirs), _per_layer(theirs, ours)
    messages: dict[str, str] = {}
    outer: list[str] = []
    for path in sorted(ours.keys() | theirs.keys(), key=lambda path: (path.count("."), path)):
        a, b = ours.get(path), theirs.get(path)
        if _equal_values(a, b) or any(path.startswith(each) for each in outer):
            continue
        if isinstance(a, type) or isinstance(b, type):
            outer.append(path + "." if path else "")
        where = re.sub(r"\bblocks\.\d+", "blocks", path) or "model"
        messages.setdefault(where, f"{where} is {_value_text(a)}, not {_value_text(b)}")
    return list(messages.values())


def _per_layer(alike: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns the structure `alike` with its mask and position module repeated for each layer.

    The result can then be compared with `other`, whose layers differ in their masks or positions.
    Both arguments are results of `module_structure`. If `other` does not have a mask and a position
    module for each layer, returns `alike` unchanged.
    """
    numbers = [path.split(".")[1] for path in other if re.fullmatch(r"blocks\.\d+\.mask", path)]
    if not numbers or "mask" not in alike:
        return alike
    own = {path: value for path, value in alike.items() if _is_inside(path, ["mask", "position"])}
    rest = {path: value for path, value in alike.items() if path not in own}
    return rest | {f"blocks.{i}.{path}": value for i in numbers for path, value in own.items()}


def _equal_values(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)  # one may come from a decimal in a config
    return a == b


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    return value.__name__ if isinstance(value, type) else str(value)
