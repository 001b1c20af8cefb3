"""Conversion of a released model to a node of an Étude config, without the weights."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

from etude.config.table import table
from etude.interop.pretrained import LoadedModel
from etude.models.kinds import LayerKind


def model_node(loaded: LoadedModel) -> dict[str, Any]:
    """Returns the config node (`_target_` and arguments) that builds a released model's module.

    The node does not contain the weights.
    """
    arguments = {key: _to_plain(value) for key, value in loaded.arguments.items()}
    return {"_target_": table().identifier(type(loaded.module)), **arguments}


def _to_plain(value: Any) -> Any:
    if isinstance(value, partial):
        stated = {key: _to_plain(inner) for key, inner in value.keywords.items()}
        return {"_target_": table().identifier(value.func), "_partial_": True, **stated}
    if isinstance(value, type):
        return {"_target_": table().identifier(value), "_partial_": True}
    if isinstance(value, LayerKind):
        stated = {each.name: getattr(value, each.name) for each in fields(value)}
        return {key: _to_plain(part) for key, part in stated.items() if part is not None}
    if isinstance(value, dict):
        return {key: _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner) for inner in value]
    return value
