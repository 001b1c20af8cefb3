"""muP: a parametrisation in which feature sizes and the best learning rate don't depend on the
width.

The rules are those of Yang et al. 2022 (arXiv:2203.03466), table 8, relative to a base width, at
which the model equals the standard parametrisation. At m times the base width, the initial standard
deviation of each hidden matrix is divided by sqrt(m), the logits are divided by m, and the scores
q . k are divided by sqrt(m), in addition to their usual scale. `etude.optim.widths` contains the
learning rates.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.init import Initialise, WidthAware
from etude.nn.lora import LowRank
from etude.nn.norm import multiply
from etude.nn.position import RelativeBias
from etude.optim.widths import Role, Widths


@dataclass(frozen=True)
class MuP:
    """Width and base width of a model in muP.

    Without `head_dim`, the model of the base width has the same number of heads, which are
    narrower. With `head_dim`, it has fewer heads of the same width. All other widths (the
    feed-forward width, the total width of the key-value heads) are in proportion.

    Attributes:
        base: base width: the value of D at which muP equals the standard parametrisation.
        dim: D, the width.
        heads: H, the number of attention heads.
        head_dim: K (the width of one head) if it is set in the config, otherwise None.

    Raises:
        InvalidArguments: the model cannot have the base width.
    """

    base: int
    dim: int
    heads: int
    head_dim: int | None

    def __post_init__(self) -> None:
        checks, hint = Checks(), None
        if not checks.that(self.base > 0, "mup_base_dim", self.base, "a positive number"):
            checks.done()
        if self.head_dim is None:
            is_whole, expected = self.base % self.heads == 0, f"a multiple of heads = {self.heads}"
        else:
            is_whole = self.heads * self.base % self.dim == 0
            expected = "a base width with a whole number of heads"
            hint = f"heads x mup_base_dim / dim is {self.heads} x {self.base} / {self.dim}"
        checks.that(is_whole, "mup_base_dim", self.base, expected, hint)
        checks.done()

    @property
    def ratio(self) -> float:
        """The width divided by the base width (m)."""
        return self.dim / self.base

    @property
    def base_head_dim(self) -> int:
        """The width of one head (K) at muP's base width."""
        return self.base // self.heads if self.head_dim is None else self.head_dim


def check_initialise(mup: MuP | None, initialise: Initialise | None) -> None:
    """Checks that an initialisation supports muP.

    Args:
        mup: the model's muP; if None, every initialisation is valid.
        initialise: the initialisation; None stands for the model's default, which supports muP.

    Raises:
        InvalidArguments: the initialisation does not support muP.
    """
    checks = Checks()
    is_supported = mup is None or initialise is None or isinstance(initialise, WidthAware)
    name = getattr(initialise, "__name__", type(initialise).__name__)
    expected = "an object of a subclass of etude.nn.init.WidthAware, since mup_base_dim is set"
    checks.that(is_supported, "initialise", name, expected)
    checks.done()


def widths(module: Any) -> Widths | None:
    """Returns a model's width relative to muP's base width, and the role of each parameter
    (`etude.optim.widths.Role`: how its size grows with the width). From these, the optimizer scales
    the learning rates. Returns None in the standard parametrisation.
    """
    if module.mup is None:
        return None
    roles = {name: _role(module, name, p) for name, p in module.named_parameters()}
    return Widths(module.mup.ratio, roles)


def _role(module: Any, name: str, parameter: Tensor) -> Role:
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(owner, LowRank):
        return "inward" if key == "a" else "vector"
    if path in _readouts(module):
        return "readout" if key == "weight" else "fixed"
    of_a_head = path.endswith(("q_norm", "k_norm")) and module.mup.head_dim is not None
    if isinstance(owner, RelativeBias) or name in ("logit_bias", "head.bias") or of_a_head:
        return "fixed"
    if parameter.dim() < 2 or isinstance(owner, nn.Embedding) or path == "embedding":
        return "vector"  # also a linear layer as embedding, whose inputs don't grow with the width
    return "hidden" if isinstance(owner, nn.Linear) or "blocks." in name else "vector"


def _readouts(module: Any) -> tuple[str, ...]:
    """Returns the names of a model's linear layers that return logits, except a tied embedding.

    The names are paths in the model, such as `head`. The result is empty without such a layer.
    """
    head = getattr(module, "head", None)
    if isinstance(head, nn.Linear):
        return ("head",)
    return tuple(f"head.{name}" for name in getattr(head, "readouts", None) or ())


@torch.no_grad()
def fold_mup(module: Any) -> Any:
    """Returns a copy of a model in the standard parametrisation that has the same outputs.

    The factors of muP are multiplied into the weights, so that software without muP support can
    load them. Factors that no weight can absorb, such as those of scaled embeddings, remain. The
    copy is not meant for training.
    """
    if getattr(module, "mup", None) is None:
        return module
    copy = deepcopy(module)
    for part in copy.modules():
        if hasattr(type(part), "fold_scale"):
            part.fold_scale()
    _fold_readout(copy)
    for part in copy.modules():
        if hasattr(part, "mup"):
            part.mup = None
    return copy


def _fold_readout(module: Any) -> None:
    """Multiplies the factor of the logits into the weights of the layers that return logits, or
    into the norm before a tied embedding.
    """
    head: Any = getattr(module, "head", None)
    owner = head if hasattr(head, "logit_scale") else module
    if not hasattr(owner, "logit_scale"):
        return  # an encoder without a head
    weights = [module.get_submodule(name).weight for name in _readouts(module)]
    for weight in weights:
        weight.div_(module.mup.ratio)
    if not weights:
        norm = _last_norm(getattr(module, "decoder", module)) if owner is module else head.norm
        weights = list(norm.parameters())
        multiply(norm, 1 / module.mup.ratio)
    if weights:
        owner.logit_scale *= module.mup.ratio


def _last_norm(body: Any) -> nn.Module:
    """Returns the norm whose output is the output of a body."""
    last = body.blocks[-1]
    if last.final_norm:
        return body.norm
    return last.feedforward_norm if last.has_feedforward else last.attention_norm
