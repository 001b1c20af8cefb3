"""Layers that differ: a pattern of kinds, repeated over a model's layers.

With the pattern [local, local, global], layers 0, 1, 3, 4, ... are local and 2, 5, ... global; a
model of two layers has two local ones. A kind states what its layers have instead of the model's
own parts.
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
    """What layers of one kind have of their own; None is the model's part.

    Attributes:
        mask: of the same direction as the model's: both hide later keys, or neither.
        attention, feedforward, block: see `etude.models.decoder.Decoder`.
        position: one for all layers of the kind. Only the model's own position is added to the
            embeddings, so a kind's acts on queries, keys or scores.
    """

    mask: Part | None = None
    attention: Part | None = None
    position: Part | None = None
    feedforward: Part | None = None
    block: Part | None = None


def kinds_of_layers(
    pattern: Sequence[str] | None, kinds: Mapping[str, LayerKind] | None, layers: int
) -> tuple[str | None, ...]:
    """The name of each layer's kind; None for all of them without a pattern.

    Raises:
        InvalidArguments: pattern and kinds do not fit together.
    """
    checks = Checks()
    stated = dict(kinds or {})
    if pattern is None:
        for name in stated:
            checks.that(False, f"kinds.{name}", name, "a kind that pattern names; it is null")
        checks.done()
        return (None,) * layers
    expected = "names of kinds for the first layers, repeated over the others; null for none"
    checks.that(len(pattern) > 0, "pattern", list(pattern), expected)
    for name in dict.fromkeys(pattern):
        if name not in stated:
            expected = f"a kind in kinds ({', '.join(map(str, stated)) or 'there is none'})"
            hint = nearest(name, stated) if stated else None
            own = f"kinds.{name}={{}} is one with the model's own parts"
            checks.that(False, "pattern", name, expected, f"{hint}; {own}" if hint else own)
    for name in stated:
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)):
            expected = "a name of letters, digits and _, and none that Python's mappings use"
            checks.that(False, f"kinds.{name}", name, expected)
        else:
            checks.that(name in pattern, f"kinds.{name}", name, "a kind that pattern names")
    checks.done()
    return tuple(pattern[i % len(pattern)] for i in range(layers))


def check_mask(checks: Checks, kind: str, mask: Mask, own: Mask) -> None:
    """Notes a problem with a kind's mask of another direction than the model's."""
    says = "hides what follows" if own.causal else "does not hide all that follows"
    expected = f"a mask that {says}, as the model's"
    checks.that(mask.causal == own.causal, f"kinds.{kind}.mask", type(mask).__name__, expected)


def check_position(checks: Checks, kind: str, position: Position) -> None:
    """Notes a problem with a kind's position that acts on the embeddings."""
    expected = "a position that acts on queries, keys or scores: embeddings are the model's"
    name = type(position).__name__
    checks.that(not embeds(position), f"kinds.{kind}.position", name, expected)
