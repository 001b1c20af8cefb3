"""What a module is made of, as plain values: whether a released config describes it."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn

from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.mask import Mask

PLAIN = (int, float, str, bool, type(None), tuple)
TRAINING = ("training", "dropout", "p", "inplace", "recompute", "embedding_dim", "padding_idx",
            "max_norm", "norm_type", "scale_grad_by_freq", "sparse")  # fmt: skip
"""Attributes that change nothing in what an evaluating module computes, or that a shape says."""


def parts(module: nn.Module) -> dict[str, Any]:
    """Each submodule's class, its plain attributes and the shapes of its parameters, by path.

    Two modules that agree in this compute the same with the same weights.
    """
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if isinstance(part, nn.Dropout | nn.ModuleList):
            continue
        found[path] = MultiHeadAttention if type(part) is ReferenceAttention else type(part)
        for key, value in vars(part).items():
            if key.startswith("_") or key in TRAINING:
                continue
            if isinstance(value, Mask):
                found[_join(path, key)] = type(value)
                found |= {_join(path, f"{key}.{k}"): v for k, v in vars(value).items()}
            elif isinstance(value, PLAIN):
                found[_join(path, key)] = value
        for key, parameter in part._parameters.items():
            found[_join(path, key)] = None if parameter is None else tuple(parameter.shape)
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where two results of `parts` differ, in words; each once for all blocks.

    A part of another class is told, and not what lies within it.
    """
    said: dict[str, str] = {}
    within: list[str] = []
    for path in sorted(ours.keys() | theirs.keys(), key=lambda path: (path.count("."), path)):
        a, b = ours.get(path), theirs.get(path)
        if _same(a, b) or any(path.startswith(outer) for outer in within):
            continue
        if isinstance(a, type) or isinstance(b, type):
            within.append(path + "." if path else "")
        place = re.sub(r"\bblocks\.\d+", "blocks", path) or "model"
        said.setdefault(place, f"{place} {_said(a)}, not {_said(b)}")
    return list(said.values())


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)  # one may have been typed
    return a == b


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _said(value: object) -> str:
    if value is None:
        return "nothing"
    return value.__name__ if isinstance(value, type) else str(value)
