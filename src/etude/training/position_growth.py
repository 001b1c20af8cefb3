"""Extends learned positions in a run that starts from other weights (`init_from.grow_positions`).

A position module with a learned row for each position (`Position.bounded`) has as many rows as in
the model that `init_from` loads. `init_from.grow_positions=true` adds rows, which are initialised
as in a new model.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from etude.config.targets import resolve_class
from etude.errors import Problem, RequestError
from etude.nn.position import Position

_ROWS = ("position.weight", "encoder.position.weight", "decoder.position.weight")
_GROW = "to add untrained positions, set init_from.grow_positions=true"


def resolve_max_length(node: Mapping[str, Any], config: Any, stated: int | None) -> int:
    """Returns the `max_length` of the model of a run that starts from the weights of another model.

    It is that of the other model, with two exceptions. For positions that are not learned, `stated`
    is used if it is set. With `init_from.grow_positions`, the result is `stated` or, if that is
    None, `data.sequence_length`.

    Args:
        node: Config of the other model, which `init_from` loads.
        config: Config of the run.
        stated: `model.max_length` if the user has set it, otherwise None.

    Raises:
        RequestError: `model.max_length` or `init_from.grow_positions` doesn't fit the positions of
            the other model; for example, the result with `init_from.grow_positions` is not larger
            than the other model's `max_length`.
    """
    options, source = config.init_from, int(node["max_length"])
    position = node.get("position") or {}
    target = str(position.get("_target_"))
    bounded = getattr(resolve_class(target, "model.position", config.extensions), "bounded", False)
    key = "init_from.grow_positions"
    if not bounded:
        if options.grow_positions:
            name = target.rpartition(".")[2]
            expected = f"false, because {name} has no learned positions"
            hint = "to use longer texts, set model.max_length"
            raise RequestError(Problem(key, expected, True, hint))
        return source if stated is None else stated
    if stated is not None and stated < source:
        hint = "data.sequence_length may be shorter than model.max_length"
        expected = f"at least {source}, the number of positions in init_from.source"
        raise RequestError(Problem("model.max_length", expected, stated, hint))
    if not options.grow_positions:
        if stated is not None and stated > source:
            expected = f"at most {source}, the number of learned positions in init_from.source"
            raise RequestError(Problem("model.max_length", expected, stated, _GROW))
        return source
    if options.lora.rank:
        expected = "false, because with init_from.lora the new positions would stay untrained"
        raise RequestError(Problem(key, expected, True))
    for pattern in options.freeze:
        if pattern == "body" or any(fnmatchcase(name, pattern) for name in _ROWS):
            expected = "false, because the new positions would be frozen and stay untrained"
            hint = f"init_from.freeze contains {pattern!r}"
            raise RequestError(Problem(key, expected, True, hint))
    needed = int(config.data.get("sequence_length") or 0)
    longest = stated if stated is not None else max(source, needed)
    if longest == source:
        hint = f"data.sequence_length = {needed}"
        expected = f"false, because the {source} positions in init_from.source are enough"
        raise RequestError(Problem(key, expected, True, hint))
    return longest


def sequence_length_problem(model: Any, length: int, *, from_source: bool) -> Problem:
    """Returns a problem for a `data.sequence_length` that exceeds the model's `max_length`.

    Args:
        model: Model of the run.
        length: Length of the data's sequences, in tokens.
        from_source: Whether the model starts from the weights of `init_from.source`.
    """
    limit = model.max_length
    expected = f"at most the model's max_length, {limit}"
    hint = f"set model.max_length={length}"
    if from_source and any(part.limit is not None for part in _positions(model).values()):
        expected = f"at most {limit}, the number of positions in init_from.source"
        hint = f"use shorter sequences; {_GROW}"
    elif from_source:
        hint += f"; it is {limit} in init_from.source, but this kind of positions has no limit"
    return Problem("data.sequence_length", expected, length, hint)


def extend_positions(module: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    """Returns the learned position vectors in `tensor`, followed by the additional rows that the
    parameter of the same name in `module` has.

    Returns None if the tensor contains no learned position vectors, or if `module` has no
    additional rows.

    Args:
        module: Model of the run.
        name: Name of the tensor.
        tensor: Tensor of this name in the weights from which the run starts.
    """
    owner, _, leaf = name.rpartition(".")
    part = _positions(module).get(owner)
    if part is None or not part.bounded:
        return None
    own: Tensor = getattr(part, leaf).detach()
    if own.shape[1:] != tensor.shape[1:] or len(own) <= len(tensor):
        return None
    result = own.clone()
    result[: len(tensor)] = tensor
    return result


def _positions(module: nn.Module) -> dict[str, Position]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Position)}
