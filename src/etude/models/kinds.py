"""Layer kinds: groups of layers with their own modules, assigned to layers by a repeated pattern.

With the pattern [local, local, global], layers 0, 1, 3, 4, ... are of the kind local and layers 2,
5, ... of the kind global; a model of two layers has two local layers. A layer kind sets the modules
that its layers use instead of the model's.
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
    """Modules that the layers of one kind use instead of the model's; None uses the model's.

    Attributes:
        mask: factory of a mask whose `causal` equals that of the model's mask.
        attention, feedforward, block: see `etude.models.decoder.Decoder`.
        position: factory of a position module, which all layers of the kind share. It may act on
            queries, keys or scores, but not on the embeddings, which only the model's own position
            module changes.
    """

    mask: Part | None = None
    attention: Part | None = None
    position: Part | None = None
    feedforward: Part | None = None
    block: Part | None = None


def kinds_of_layers(
    pattern: Sequence[str] | None, kinds: Mapping[str, LayerKind] | None, layers: int
) -> tuple[str | None, ...]:
    """Returns the name of the layer kind of each layer, in order; None for every layer if there is
    no pattern.

    Raises:
        InvalidArguments: the pattern is an empty list or has a name that `kinds` does not define; a
            layer kind is not in the pattern; or the name of a layer kind is no identifier, or that
            of a method of `torch.nn.ModuleDict`.
    """
    checks = Checks()
    stated = dict(kinds or {})
    if pattern is None:
        for name in stated:
            to_use = "set pattern to use this layer kind"
            checks.that(False, f"kinds.{name}", name, "no layer kinds, as pattern is null", to_use)
        checks.done()
        return (None,) * layers
    expected = "at least one name of a layer kind that kinds defines, or null"
    checks.that(len(pattern) > 0, "pattern", list(pattern), expected)
    for name in dict.fromkeys(pattern):
        if name not in stated:
            expected = f"one of the layer kinds that kinds defines: {', '.join(map(str, stated))}"
            if not stated:
                expected = "the name of a layer kind; kinds defines none"
            hint = nearest(name, stated) if stated else None
            default = (
                f"to define a layer kind {name} that uses the model's own modules, add "
                f"+model.kinds.{name}={{}}"
            )
            checks.that(False, "pattern", name, expected, f"{hint}; {default}" if hint else default)
    for name in stated:
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)):
            expected = "an identifier (letters, digits, _) that is no method of torch.nn.ModuleDict"
            checks.that(False, f"kinds.{name}", name, expected)
        else:
            expected = "the name of a layer kind that pattern contains"
            checks.that(name in pattern, f"kinds.{name}", name, expected)
    checks.done()
    return tuple(pattern[i % len(pattern)] for i in range(layers))


def check_mask(checks: Checks, kind: str, mask: Mask, own: Mask) -> None:
    """Adds a problem to `checks` if a layer kind's mask and the model's mask differ in `causal`.

    Args:
        checks: receives the problem.
        kind: name of the layer kind.
        mask: mask of the layer kind.
        own: the model's mask.
    """
    behaviour = "hides" if own.causal else "doesn't hide"
    expected = f"a mask that {behaviour} later keys, like the model's mask"
    checks.that(mask.causal == own.causal, f"kinds.{kind}.mask", type(mask).__name__, expected)


def check_position(checks: Checks, kind: str, position: Position) -> None:
    """Adds a problem to `checks` if the position module of the layer kind `kind` acts on the
    embeddings.
    """
    expected = "a position module that acts on queries, keys or scores, not on the embeddings"
    name = type(position).__name__
    checks.that(not embeds(position), f"kinds.{kind}.position", name, expected)
