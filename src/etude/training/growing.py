"""Positions beyond those of the weights that a run begins with.

A position part with a learned row for each position (`Position.bounded`) ends with its source.
`init_from.grow_positions=true` adds rows; they begin as a new model's do, untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from etude.config.targets import resolve
from etude.errors import Problem, RequestError
from etude.nn.position import Position

_ROWS = ("position.weight", "encoder.position.weight", "decoder.position.weight")
_GROW = "init_from.grow_positions=true adds rows, which begin untrained"


def grown_length(node: Mapping[str, Any], config: Any, stated: int | None) -> int:
    """The model's `max_length` in a run that begins with a source's weights.

    Args:
        node: the source's model.
        config: of the run.
        stated: `model.max_length` where the user typed it.

    Raises:
        RequestError: the source has another number of positions, or there is nothing to grow.
    """
    asked, source = config.init_from, int(node["max_length"])
    position = node.get("position") or {}
    target = str(position.get("_target_"))
    bounded = getattr(resolve(target, "model.position", config.extensions), "bounded", False)
    key = "init_from.grow_positions"
    if not bounded:
        if asked.grow_positions:
            name = target.rpartition(".")[2]
            hint = f"model.max_length alone says how long a text may be: {name} has no rows"
            raise RequestError(Problem(key, "false for this source", True, hint))
        return source if stated is None else stated
    if stated is not None and stated < source:
        hint = "a shorter data.sequence_length needs no shorter model"
        raise RequestError(Problem("model.max_length", f"the source's {source}", stated, hint))
    if not asked.grow_positions:
        if stated is not None and stated > source:
            expected = f"at most the source's {source} learned positions"
            raise RequestError(Problem("model.max_length", expected, stated, _GROW))
        return source
    if asked.lora.rank:
        expected = "false beside init_from.lora, which would leave the new rows untrained"
        raise RequestError(Problem(key, expected, True))
    for pattern in asked.freeze:
        if pattern == "body" or any(fnmatchcase(name, pattern) for name in _ROWS):
            expected = "false beside what freezes the positions: the new rows would stay untrained"
            raise RequestError(Problem(key, expected, True, f"init_from.freeze has {pattern!r}"))
    needed = int(config.data.get("sequence_length") or 0)
    longest = stated if stated is not None else max(source, needed)
    if longest == source:
        hint = f"data.sequence_length = {needed}"
        expected = f"false: the source's {source} positions suffice"
        raise RequestError(Problem(key, expected, True, hint))
    return longest


def too_long(model: Any, length: int, *, from_source: bool) -> Problem:
    """`data.sequence_length` is above the model's `max_length`.

    Args:
        model: which reads that data.
        length: of the data's sequences.
        from_source: the model begins with weights that exist.
    """
    limit = model.max_length
    expected = f"at most the model's max_length, {limit}"
    hint = f"model.max_length={length} makes room"
    if from_source and any(part.limit is not None for part in _positions(model).values()):
        expected = f"at most the {limit} positions that the source has"
        hint = f"shorter sequences; {_GROW}"
    elif from_source:
        hint += f"; the source was meant for {limit}, and has no limit"
    return Problem("data.sequence_length", expected, length, hint)


def grown(module: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    """The source's rows of learned positions, then those that `module` has beyond them.

    None if the tensor is no such part, or has no fewer rows than the module's.
    """
    owner, _, leaf = name.rpartition(".")
    part = _positions(module).get(owner)
    if part is None or not part.bounded:
        return None
    mine: Tensor = getattr(part, leaf).detach()
    if mine.shape[1:] != tensor.shape[1:] or len(mine) <= len(tensor):
        return None
    result = mine.clone()
    result[: len(tensor)] = tensor
    return result


def _positions(module: nn.Module) -> dict[str, Position]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Position)}
