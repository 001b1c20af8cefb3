"""Counts the parameters, FLOPs and memory of a config's model, from models with a few layers.

Layers are alike or repeat a pattern, so parameters, operations and bytes grow by the same amount
with each repetition of the pattern, and the counts at two depths determine those at any depth. A
model of a billion layers is counted as fast as a model of four layers. If the constructor of a
module receives the index of its layer, layers may differ: such a model is counted as a whole, up to
`_MAX_COUNTED` layers. With more layers, it is counted as if they did not differ.
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

_LAYER_KEYS = ("layers", "decoder_layers")
_LINEAR_FROM = 3
"""Number of layers from which each further layer adds the same amount to the peak memory of a step.
"""
_MAX_COUNTED = 256

Build = Callable[[Node], Any]
"""Function that builds a model from its config node, with the vocabulary size and the number of
labels of the data.
"""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters of a model.

    Attributes:
        total: Number of all parameters.
        trained: Number of trainable parameters.
        per_layer: Number of parameters that one more layer adds. If different layers follow a
            repeating pattern (`etude.models.kinds`), this is the mean over one repetition. It is 0
            for a model without the argument `layers`.
    """

    total: int
    trained: int
    per_layer: int


def with_layers(node: Node, layers: int) -> Node:
    """Returns a copy of a model's config node (its class and arguments) with at most `layers`
    layers. The node of a custom class is returned unchanged.

    Args:
        node: Config node of the model: its class and arguments.
        layers: Maximum number of layers in each of encoder and decoder. If different layers
            follow a repeating pattern, this is the maximum number of its repetitions.
    """
    most = layers * _period(node)
    return _replace_layers(
        node, {key: min(count, most) for key, count in _layer_counts(node).items()}
    )


def count_parameters(node: Node, build: Build, lora: LoRA | None = None) -> ParameterCounts:
    """Returns the numbers of parameters of the model that `node` describes, without allocating
    memory for them.

    Args:
        node: Config node of the model: its class and arguments.
        build: Function that builds a model from a node.
        lora: Options of a low-rank adaptation; None for a model without adapters.

    Raises:
        RequestError: A tensor is larger than 2**63 bytes.
    """

    def count(small_node: Node) -> tuple[int, int]:
        with shapes_only():
            model = build_addressable(build, small_node)
            if lora is not None:
                adapt(model, lora)
        parameters = list(model.parameters())
        trained = (p.numel() for p in parameters if p.requires_grad)
        return sum(p.numel() for p in parameters), sum(trained)

    total, trained = _extrapolate(node, count, 1)
    per_layer = 0
    if "layers" in _layer_counts(node):
        base, period = with_layers(node, 1), _period(node)
        deep = _replace_layers(base, {"layers": 2 * period})
        per_layer = (count(deep)[0] - count(_replace_layers(base, {"layers": period}))[0]) // period
    return ParameterCounts(total, trained, per_layer)


def count_cost(node: Node, build: Build, **options: Any) -> Cost:
    """Returns the FLOPs and the memory of one training step of the model that `node` describes.

    The result is that of `etude.models.cost.cost`, computed from models with few layers.

    Args:
        node: Config node of the model: its class and arguments.
        build: Function that builds a model from a node.
        **options: Arguments of `etude.models.cost.cost`.

    Raises:
        Uncountable: The model cannot be counted.
    """
    outer: list[int] = []

    def count(small_node: Node) -> tuple[int, ...]:
        small_cost = cost(lambda: build(small_node), **options)
        outer.append(small_cost.outer_bytes)
        return astuple(small_cost)

    counted = Cost(*_extrapolate(node, count, _LINEAR_FROM))
    activations = max(counted.central_bytes, *outer)
    return replace(counted, activation_bytes=activations, outer_bytes=max(outer))


def build_addressable(build: Build, node: Node) -> Any:
    """Returns `build(node)`: the model of the config node `node` (its class and arguments).

    Raises:
        RequestError: A tensor is larger than 2**63 bytes.
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
        expected = "tensors smaller than 2**63 bytes"
        hint = f"large values: {keys}" if keys else None
        raise RequestError(Problem("model", expected, hint=hint)) from error


def _layer_counts(node: Node) -> dict[str, int]:
    """Returns a dict from the arguments `layers` and `decoder_layers` of a built-in model to the
    numbers that its config node sets; empty for a custom class. Arguments that are not set are
    omitted.
    """
    if not node.is_ours:
        return {}
    stated = {key: node.arguments.get(key) for key in _LAYER_KEYS}
    return {key: n for key, n in stated.items() if isinstance(n, int) and n > 0}


def _period(node: Node) -> int:
    """Returns the number of layers after which the pattern of a model's layers repeats; 1 if all
    layers are alike. `etude.models.kinds` describes such patterns.
    """
    pattern = node.arguments.get("pattern")
    return len(pattern) if isinstance(pattern, list) and pattern else 1


def _replace_layers(node: Node, layers: dict[str, int]) -> Node:
    return replace(node, arguments={**node.arguments, **layers})


def _layers_may_differ(node: Node) -> bool:
    """Returns whether the layers of a model may differ: whether a module's constructor receives the
    index of its layer or the number of layers.
    """
    for value in node.arguments.values():
        if isinstance(value, dict) and any(
            isinstance(kind, Node) and _layers_may_differ(kind) for kind in value.values()
        ):
            return True
        if isinstance(value, Node) and value.partial:
            names = value.description.parameters.keys() - value.arguments.keys()
            if names & {"layer", "layers"}:
                return True
    return False


def _extrapolate(
    node: Node, count: Callable[[Node], tuple[int, ...]], first: int
) -> tuple[int, ...]:
    """Returns the result of `count(node)`, extrapolated from the results for two smaller models.
    For a model of few layers, `count(node)` is called directly.

    Args:
        node: Config node of the model: its class and arguments.
        count: Function that counts a model; its results grow linearly from `first` layers on.
        first: Minimum number of layers of the smaller model. The larger model has one more layer
            or, if different layers follow a pattern, one more repetition of the pattern.
    """
    layer_counts, period = _layer_counts(node), _period(node)
    first = max(first, period)
    fewest = {
        key: first + (layers - first) % period if layers > first else layers
        for key, layers in layer_counts.items()
    }
    is_small = all(layers <= fewest[key] + period for key, layers in layer_counts.items())
    if is_small or (_layers_may_differ(node) and sum(layer_counts.values()) <= _MAX_COUNTED):
        return count(node)
    smallest = result = count(_replace_layers(node, fewest))
    for key, layers in layer_counts.items():
        if periods := (layers - fewest[key]) // period:
            more = count(_replace_layers(node, fewest | {key: fewest[key] + period}))
            triples = zip(result, more, smallest, strict=True)
            result = tuple(a + periods * (b - c) for a, b, c in triples)
    return result
