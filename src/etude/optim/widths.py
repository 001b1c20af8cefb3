"""muP: what a model's width does to the learning rate of each of its parameters.

Yang et al. 2022 (arXiv:2203.03466), table 8: with the right power of the width in each rate, the
best learning rate of a narrow model is that of a wide one. A model says what its parameters are
(`widths`), an optimizer which powers its kind of steps needs (a `Rule`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from etude.errors import InvalidArguments, Problem

Role = Literal["hidden", "vector", "readout", "inward", "fixed"]
"""What grows with the width: of a `hidden` matrix rows and columns; of a `vector` its length, of an
embedding that of each row; of a `readout` the columns, and what it gives is divided by the width;
of an `inward` matrix the columns, without that; of what is `fixed` nothing."""

Rule = Mapping[Role, float]
"""The power of the width that a rate is multiplied with."""

BY_ENTRY: Rule = {"hidden": -1, "vector": 0, "readout": 0, "inward": -1, "fixed": 0}
"""Of steps whose entries have a size of their own, whatever the gradient's: Adam, signs (Yang et
al. 2022, table 8, and appendix B.3 for others than Adam)."""

BY_GRADIENT: Rule = {"hidden": 0, "vector": 1, "readout": 1, "inward": -1, "fixed": 0}
"""Of steps in proportion to the gradient: SGD (the same table)."""

BY_SPECTRUM: Rule = {"hidden": 0, "vector": 0, "readout": 0, "inward": -0.5, "fixed": 0}
"""Of matrices whose step has the largest singular value sqrt(max(1, rows / columns)), which is what
features of constant size ask for (Yang et al. 2023, arXiv:2310.17813, equation 5)."""

BY_RMS: Rule = {"hidden": -0.5, "vector": 0, "readout": 0, "inward": -1, "fixed": 0}
"""Of such with sqrt(max(rows, columns)) instead, by the same equation."""

RULED = "AdamW, Lion, Muon or SGD"


@dataclass(frozen=True)
class Widths:
    """What a model says of its width.

    Attributes:
        ratio: m, the width over the base width.
        roles: of each parameter, by name.
    """

    ratio: float
    roles: Mapping[str, Role]


def widths_of(module: nn.Module) -> Widths | None:
    """What a module says; None in the standard parametrisation, and at the base width, where muP is
    the same.
    """
    tell: Any = getattr(module, "widths", None)
    found: Widths | None = None if tell is None else tell()
    return None if found is None or found.ratio == 1 else found


def rate_factors(module: nn.Module, rule: Rule | None) -> dict[str, float]:
    """What the rate of each parameter is multiplied with, by name; nothing where all are 1.

    Args:
        rule: of the optimizer; None is that of one which has none.

    Raises:
        InvalidArguments: the module's width asks for a rule, and there is none.
    """
    widths = widths_of(module)
    if widths is None:
        return {}
    if rule is None:
        raise InvalidArguments(no_rule("optimizer", "one without"))
    return {name: widths.ratio ** rule[role] for name, role in widths.roles.items()}


def no_rule(key: str, name: str) -> Problem:
    """The problem of an optimizer that muP has no rule for."""
    hint = "model.mup_base_dim=null is the standard parametrisation"
    return Problem(key, f"one that muP has a rule for: {RULED}", name, hint)
