"""What a config's model costs, counted on models of a few layers.

Layers are alike, so parameters, operations and bytes grow by the same amount with each: two depths
say what any depth takes. A model of a billion layers is counted as fast as one of four.
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

Build = Callable[[Node], Any]
"""Makes a model of its node, with the sizes that come from the data."""


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has.

    Attributes:
        total: all of them.
        trained: those that have a gradient.
        a_layer: those of one more of `model.layers`; 0 for a model without that argument.
    """

    total: int
    trained: int
    a_layer: int


def with_layers(node: Node, layers: int) -> Node:
    """A model of at most so many layers a side, else the same; a user's class stays as it is."""
    fewer = {key: min(count, layers) for key, count in _sides(node).items()}
    return replace(node, arguments={**node.arguments, **fewer})


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
        one = with_layers(node, 1)
        two = replace(one, arguments={**one.arguments, "layers": 2})
        a_layer = count(two)[0] - count(one)[0]
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
    if not node.target.startswith("etude."):
        return {}
    found = {key: node.arguments.get(key) for key in _SIDES}
    return {key: n for key, n in found.items() if isinstance(n, int) and n > 0}


def _linear(node: Node, count: Callable[[Node], tuple[int, ...]], first: int) -> tuple[int, ...]:
    """`count(node)`, by models of `first` layers and one more, from which on it grows evenly."""
    sides = _sides(node)
    if all(layers <= first + 1 for layers in sides.values()):
        return count(node)
    fewest = with_layers(node, first)
    at = found = count(fewest)
    for key, layers in sides.items():
        if layers > first:
            more = count(replace(fewest, arguments={**fewest.arguments, key: first + 1}))
            each = zip(found, more, at, strict=True)
            found = tuple(a + (layers - first) * (b - c) for a, b, c in each)
    return found
