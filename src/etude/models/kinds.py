"""Kinds of layers: a pattern of kinds, repeated over a model's layers.

With the pattern [local, local, global], layers 0, 1, 3, 4, ... are local and 2, 5, ... global; a
model of two layers has two local ones. A kind sets the parts that its layers have instead of the
model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from etude.errors import Checks, nearest
from etude.nn.mask import Mask
from etude.nn.parts import Part
from etude.nn.position import Position, embeds


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """Parts of the layers of one kind; None is the model's part.

    Attributes:
        mask: a mask with the same `causal` as the model's.
        attention, feedforward, block: see `etude.models.decoder.Decoder`.
        position: position part for all layers of the kind. It may act on queries, keys or scores,
            not on the embeddings, which only the model's position part changes.
    """

    mask: Part | None = None
    attention: Part | None = None
    position: Part | None = None
    feedforward: Part | None = None
    block: Part | None = None


def kinds_of_layers(
    pattern: Sequence[str] | None, kinds: Mapping[str, LayerKind] | None, layers: int
) -> tuple[str | None, ...]:
    """Returns the name of each layer's kind; None for all layers without a pattern.

    Raises:
        InvalidArguments: the pattern and the kinds don't fit together.
    """
    checks = Checks()
    stated = dict(kinds or {})
    if pattern is None:
        for name in stated:
            checks.that(False, f"kinds.{name}", name, "a kind in pattern, which is null")
        checks.done()
        return (None,) * layers
    expected = "one or more names of kinds, or null"
    checks.that(len(pattern) > 0, "pattern", list(pattern), expected)
    for name in dict.fromkeys(pattern):
        if name not in stated:
            expected = f"one of the kinds: {', '.join(map(str, stated)) or 'there are none'}"
            hint = nearest(name, stated) if stated else None
            default = f"kinds.{name}={{}} defines one with the model's own parts"
            checks.that(False, "pattern", name, expected, f"{hint}; {default}" if hint else default)
    for name in stated:
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)):
            expected = "a name of letters, digits and _ that is no method of a ModuleDict"
            checks.that(False, f"kinds.{name}", name, expected)
        else:
            checks.that(name in pattern, f"kinds.{name}", name, "a kind in pattern")
    checks.done()
    return tuple(pattern[i % len(pattern)] for i in range(layers))


def check_mask(checks: Checks, kind: str, mask: Mask, own: Mask) -> None:
    """Records a problem if a kind's mask has another `causal` than the model's."""
    behaviour = "hides" if own.causal else "doesn't hide"
    expected = f"a mask that {behaviour} later keys, as the model's"
    checks.that(mask.causal == own.causal, f"kinds.{kind}.mask", type(mask).__name__, expected)


def check_position(checks: Checks, kind: str, position: Position) -> None:
    """Records a problem if a kind's position part acts on the embeddings."""
    expected = "a position part that acts on queries, keys or scores, not on the embeddings"
    name = type(position).__name__
    checks.that(not embeds(position), f"kinds.{kind}.position", name, expected)
