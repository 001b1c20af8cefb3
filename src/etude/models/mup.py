"""muP: a model whose features stay of one size, and whose best learning rate stays, at any width.

Yang et al. 2022 (arXiv:2203.03466), table 8, relative to a base width, at which the model is the
standard one: each hidden matrix begins smaller by the root of the width, the logits are divided by
it, and so is q . k once more than by its own root. `etude.optim.widths` has the learning rates.
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
    """The width of a model, and its base width.

    Without a head width of its own, the heads are as many at the base width, and narrower. With
    one, they are as wide, and fewer. All other widths (F, the key-value heads) are in proportion.

    Attributes:
        base: D at the base width.
        dim: D.
        heads: H.
        head_dim: K if it is stated.

    Raises:
        InvalidArguments: the base is no width of a model like this one.
    """

    base: int
    dim: int
    heads: int
    head_dim: int | None

    def __post_init__(self) -> None:
        checks = Checks()
        if not checks.that(self.base > 0, "mup_base_dim", self.base, "a positive number"):
            checks.done()
        if self.head_dim is None:
            whole, expected = self.base % self.heads == 0, f"a multiple of heads = {self.heads}"
        else:
            whole = self.heads * self.base % self.dim == 0
            expected = f"a width at which heads = {self.heads}, in proportion to dim, is whole"
        checks.that(whole, "mup_base_dim", self.base, expected)
        checks.done()

    @property
    def ratio(self) -> float:
        """m, the width over the base width."""
        return self.dim / self.base

    @property
    def base_head_dim(self) -> int:
        """K at the base width."""
        return self.base // self.heads if self.head_dim is None else self.head_dim


def check_initialise(mup: MuP | None, initialise: Initialise | None) -> None:
    """Refuses an initialisation that does not know muP.

    Raises:
        InvalidArguments: names it.
    """
    checks = Checks()
    aware = mup is None or initialise is None or isinstance(initialise, WidthAware)
    name = getattr(initialise, "__name__", type(initialise).__name__)
    expected = "a subclass of etude.nn.init.WidthAware: mup_base_dim is stated"
    checks.that(aware, "initialise", name, expected)
    checks.done()


def widths(module: Any) -> Widths | None:
    """What the optimizer is told of a model; None in the standard parametrisation."""
    if module.mup is None:
        return None
    found = {name: _role(module, name, p) for name, p in module.named_parameters()}
    return Widths(module.mup.ratio, found)


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
        return "vector"  # the last is a layer in an embedding's place: its inputs are no width
    return "hidden" if isinstance(owner, nn.Linear) or "blocks." in name else "vector"


def _readouts(module: Any) -> tuple[str, ...]:
    """The linear layers that give logits."""
    head = getattr(module, "head", None)
    if isinstance(head, nn.Linear):
        return ("head",)
    return tuple(f"head.{name}" for name in getattr(head, "readouts", None) or ())


@torch.no_grad()
def folded(module: Any) -> Any:
    """A copy that computes the same in the standard parametrisation: what muP multiplies with is
    in the weights, so that software which does not know of it reads them. Not for training.

    Where the weights have no place for it, as of embeddings that are scaled, it stays.
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
    """Into the layers that give the logits, or the norm before them where that is the embedding."""
    head: Any = getattr(module, "head", None)
    owner = head if hasattr(head, "logit_scale") else module
    if not hasattr(owner, "logit_scale"):
        return  # an encoder without a head
    last = [module.get_submodule(name).weight for name in _readouts(module)]
    for weight in last:
        weight.div_(module.mup.ratio)
    if not last:
        norm = _last_norm(getattr(module, "decoder", module)) if owner is module else head.norm
        last = list(norm.parameters())
        multiply(norm, 1 / module.mup.ratio)
    if last:
        owner.logit_scale *= module.mup.ratio


def _last_norm(body: Any) -> nn.Module:
    """That which makes a body's output."""
    last = body.blocks[-1]
    if last.final_norm:
        return body.norm
    return last.feedforward_norm if last.has_feedforward else last.attention_norm
