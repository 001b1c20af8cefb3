"""What a module is made of, as plain values: whether a released config describes it."""

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
"""Attributes that change nothing in what an evaluating module computes, or that a shape says."""


def module_structure(module: nn.Module) -> dict[str, Any]:
    """Each submodule's class, its plain attributes and the shapes of its parameters, by path.

    Two modules that agree in this compute the same with the same weights.
    """
    found: dict[str, Any] = {}
    bodies = [(path, part) for path, part in module.named_modules() if isinstance(part, Body)]
    # Of layers that differ, masks and positions are compared one by one, whatever the kinds' names.
    differing = [(path, body) for path, body in bodies if not body.alike]
    left_out = [_join(path, "kinds") for path, _ in bodies]
    left_out += [_join(path, "mask") for path, _ in differing]
    left_out += [_join(path, "position") for path, part in differing if not embeds(part.position)]
    for path, part in module.named_modules():
        if isinstance(part, nn.Dropout | nn.ModuleList):
            continue
        found |= _part_structure(path, part)
    found = {path: value for path, value in found.items() if not _is_inside(path, left_out)}
    for path, body in differing:
        for i in range(len(body.blocks)):
            for name, part in zip(("mask", "position"), body.at_layer(i), strict=True):
                found |= _part_structure(_join(path, f"blocks.{i}.{name}"), part)
    return found


def _part_structure(path: str, part: Any) -> dict[str, Any]:
    """One part's class, its plain attributes and the shapes of its parameters."""
    found: dict[str, Any] = {
        path: MultiHeadAttention if type(part) is ReferenceAttention else type(part)
    }
    for key, value in vars(part).items():
        if key.startswith("_") or key in IGNORED:
            continue
        if isinstance(value, Mask):
            found |= _part_structure(_join(path, key), value)
        elif isinstance(value, PLAIN_TYPES):
            found[_join(path, key)] = value
    for key, parameter in getattr(part, "_parameters", {}).items():
        found[_join(path, key)] = None if parameter is None else tuple(parameter.shape)
    return found


def _is_inside(path: str, outer: list[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in outer)


def structure_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where two results of `module_structure` differ, in words; each once for all blocks.

    A part of another class is told, and not what lies within it.
    """
    ours, theirs = _per_layer(ours, theirs), _per_layer(theirs, ours)
    said: dict[str, str] = {}
    within: list[str] = []
    for path in sorted(ours.keys() | theirs.keys(), key=lambda path: (path.count("."), path)):
        a, b = ours.get(path), theirs.get(path)
        if _same(a, b) or any(path.startswith(outer) for outer in within):
            continue
        if isinstance(a, type) or isinstance(b, type):
            within.append(path + "." if path else "")
        place = re.sub(r"\bblocks\.\d+", "blocks", path) or "model"
        said.setdefault(place, f"{place} {_value_text(a)}, not {_value_text(b)}")
    return list(said.values())


def _per_layer(alike: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Masks and positions of layers that are alike, stated as those of others that differ are."""
    numbers = [path.split(".")[1] for path in other if re.fullmatch(r"blocks\.\d+\.mask", path)]
    if not numbers or "mask" not in alike:
        return alike
    own = {path: value for path, value in alike.items() if _is_inside(path, ["mask", "position"])}
    found = {path: value for path, value in alike.items() if path not in own}
    return found | {f"blocks.{i}.{path}": value for i in numbers for path, value in own.items()}


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)  # one may have been typed
    return a == b


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value_text(value: object) -> str:
    if value is None:
        return "nothing"
    return value.__name__ if isinstance(value, type) else str(value)
