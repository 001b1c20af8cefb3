"""muP's learning-rate rules: the dependence of each parameter's learning rate on the width.

Yang et al. 2022 (arXiv:2203.03466), table 8: with the right power of the width in each learning
rate, the best learning rate of a narrow model is also the best of a wide model. A model declares
the roles of its parameters (`widths`); an optimizer declares the powers for its updates (a `Rule`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from etude.errors import InvalidArguments, Problem

Role = Literal["hidden", "vector", "readout", "inward", "fixed"]
"""Role of a parameter in muP: how the parameter's size grows with the width of the model.

`hidden`: the rows and columns of a matrix grow. `vector`: the length grows; for an embedding, the
length of each row. `readout`: the columns grow, and the output is divided by the width. `inward`:
the columns grow, and the output is not divided. `fixed`: the size is constant.
"""

Rule = Mapping[Role, float]
"""muP's rule for an optimizer: the exponent e of each role. The learning rate has the factor m^e,
where m is the width divided by the base width.
"""

BY_ENTRY: Rule = {"hidden": -1, "vector": 0, "readout": 0, "inward": -1, "fixed": 0}
"""Rule for updates whose entries have a fixed size, independent of the gradient's size: Adam (Yang
et al. 2022, table 8) and signs of a momentum (appendix B.3).
"""

BY_GRADIENT: Rule = {"hidden": 0, "vector": 1, "readout": 1, "inward": -1, "fixed": 0}
"""Rule for updates in proportion to the gradient: SGD (Yang et al. 2022, table 8)."""

BY_SPECTRUM: Rule = {"hidden": 0, "vector": 0, "readout": 0, "inward": -0.5, "fixed": 0}
"""Rule for updates of matrices whose largest singular value is sqrt(max(1, rows / columns)). Such
updates keep the size of features constant (Yang et al. 2023, arXiv:2310.17813, equation 5).
"""

BY_RMS: Rule = {"hidden": -0.5, "vector": 0, "readout": 0, "inward": -1, "fixed": 0}
"""Rule for updates of matrices whose largest singular value grows as sqrt(max(rows, columns)), from
the same equation as `BY_SPECTRUM`.
"""

_SUPPORTED = "AdamW, Lion, Muon or SGD"


@dataclass(frozen=True)
class Widths:
    """Width of a model relative to muP's base width, and the roles of its parameters.

    Attributes:
        ratio: m, the width divided by the base width.
        roles: dict from each parameter's name to its role: which of its dimensions grow with the
            width (see `Role`).
    """

    ratio: float
    roles: Mapping[str, Role]


def widths_of(module: nn.Module) -> Widths | None:
    """Returns a module's `Widths`; None if muP makes no difference.

    muP makes no difference if the module does not use muP, or has the base width.
    """
    method: Any = getattr(module, "widths", None)
    widths: Widths | None = None if method is None else method()
    return None if widths is None or widths.ratio == 1 else widths


def rate_factors(module: nn.Module, rule: Rule | None) -> dict[str, float]:
    """Returns a dict from each parameter's name to the factor of its learning rate.

    The dict is empty if all factors are 1.

    Args:
        rule: muP's rule for the optimizer; None if muP has no rule for the optimizer.

    Raises:
        InvalidArguments: the module uses muP, and `rule` is None.
    """
    widths = widths_of(module)
    if widths is None:
        return {}
    if rule is None:
        value = "an optimizer without a muP rule"
        raise InvalidArguments(unsupported_optimizer("optimizer", value))
    return {name: widths.ratio ** rule[role] for name, role in widths.roles.items()}


def unsupported_optimizer(key: str, name: str) -> Problem:
    """Returns a `Problem` that reports an optimizer without a muP rule.

    Args:
        key: config key of the optimizer.
        name: name of the optimizer.
    """
    hint = "to use the standard parametrisation instead of muP, set model.mup_base_dim=null"
    return Problem(key, f"an optimizer that muP supports: {_SUPPORTED}", name, hint)
