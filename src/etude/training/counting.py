"""What a config's model costs, counted on models of a few layers.

Layers are alike, or repeat a pattern, so parameters, operations and bytes grow by the same amount
with each period: two depths say what any depth takes. A model of a billion layers is counted as
fast as one of four. Where a part asks for the number of its layer it may differ in each: such a
model is counted as a whole, up to `_COUNTED` layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

from etude.config.nodes import Node
from etude.errors import Problem, RequestError
from etude.models.cost import Cost, cost
from etude.nn.drawing import shapes_only
from etude.nn.lora import LoRA, adapt

_SIDES = ("layers", "decoder_layers")
_ALIKE = 3
"""Layers from which on each further one adds the same to a step's peak of memory."""
_COUNTED = 256

Build = Callable[[Node], Any]
"""Makes a model of its node, with the sizes that come from the data."""


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has.

    Attributes:
        total: all of them.
        trained: those that have a gradient.
        a_layer: those of one more of `model.layers`, on average over a pattern; 0 for a model
            without that argument.
    """

    total: int
    trained: int
    a_layer: int


def with_layers(node: Node, layers: int) -> Node:
    """A model of at most so many layers a side, or so many periods of its pattern; else the same. A
    user's class stays as it is.
    """
    most = layers * _period(node)
    return _of_layers(node, {key: min(count, most) for key, count in _sides(node).items()})


def parameters_of(node: Node, build: Build, lora: LoRA | None = None) -> Parameters:
    """Counts a model without building it.

    Args:
        lora: changes that it gets.

    Raises:
        RequestError: a matrix has more elements than can be addressed.
    """

    def count(few: Node) -> tuple[int, int]:
        with shapes_only():
            model = addressed(build, few)
            if lora is not None:
                adapt(model, lora)
        parameters = list(model.parameters())
        trained = (p.numel() for p in parameters if p.requires_grad)
        return sum(p.numel() for p in parameters), sum(trained)

    total, trained = _linear(node, count, 1)
    a_layer = 0
    if "layers" in _sides(node):
        one, period = with_layers(node, 1), _period(node)
        two = _of_layers(one, {"layers": 2 * period})
        a_layer = (count(two)[0] - count(_of_layers(one, {"layers": period}))[0]) // period
    return Parameters(total, trained, a_layer)


def cost_of(node: Node, build: Build, **options: Any) -> Cost:
    """`etude.models.cost.cost` of a model; the options are that function's.

    Raises:
        Uncountable: as there.
    """
    outer: list[int] = []

    def count(few: Node) -> tuple[int, ...]:
        found = cost(lambda: build(few), **options)
        outer.append(found.outer_bytes)
        return astuple(found)

    counted = Cost(*_linear(node, count, _ALIKE))
    activations = max(counted.central_bytes, *outer)
    return replace(counted, activation_bytes=activations, outer_bytes=max(outer))


def addressed(build: Build, node: Node) -> Any:
    """What `build` makes of a node.

    Raises:
        RequestError: a tensor has more elements than can be addressed.
    """
    try:
        return build(node)
    except (RuntimeError, OverflowError, TypeError) as error:
        if "overflow" not in str(error).lower():
            raise
        keys = ", ".join(
            f"model.{key}={value}"
            for key, value in node.arguments.items()
            if isinstance(value, int) and value >= 10**6
        )
        expected = "sizes whose matrices can be addressed, in 2**63 bytes"
        raise RequestError(Problem("model", expected, hint=keys or None)) from error


def _sides(node: Node) -> dict[str, int]:
    """The numbers of layers that a model of ours states; positive ones."""
    if not node.is_ours:
        return {}
    found = {key: node.arguments.get(key) for key in _SIDES}
    return {key: n for key, n in found.items() if isinstance(n, int) and n > 0}


def _period(node: Node) -> int:
    """The number of layers after which they repeat."""
    pattern = node.arguments.get("pattern")
    return len(pattern) if isinstance(pattern, list) and pattern else 1


def _of_layers(node: Node, layers: dict[str, int]) -> Node:
    return replace(node, arguments={**node.arguments, **layers})


def _varies(node: Node) -> bool:
    """Whether a part asks where it stands, and so may be another in each layer."""
    for value in node.arguments.values():
        if isinstance(value, dict) and any(
            isinstance(kind, Node) and _varies(kind) for kind in value.values()
        ):
            return True
        if isinstance(value, Node) and value.partial:
            names = value.described.parameters.keys() - value.arguments.keys()
            if names & {"layer", "layers"}:
                return True
    return False


def _linear(node: Node, count: Callable[[Node], tuple[int, ...]], first: int) -> tuple[int, ...]:
    """`count(node)`, by models of `first` layers or a few more, and one period more than that, from
    which on it grows evenly.
    """
    sides, period = _sides(node), _period(node)
    first = max(first, period)
    fewest = {
        key: first + (layers - first) % period if layers > first else layers
        for key, layers in sides.items()
    }
    whole = all(layers <= fewest[key] + period for key, layers in sides.items())
    if whole or (_varies(node) and sum(sides.values()) <= _COUNTED):
        return count(node)
    at = found = count(_of_layers(node, fewest))
    for key, layers in sides.items():
        if periods := (layers - fewest[key]) // period:
            more = count(_of_layers(node, fewest | {key: fewest[key] + period}))
            each = zip(found, more, at, strict=True)
            found = tuple(a + periods * (b - c) for a, b, c in each)
    return found
