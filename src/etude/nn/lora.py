"""Low-rank adaptation of frozen matrices (LoRA; Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import Checks
from etude.nn.linear import linear
from etude.nn.matrices import declared

QUERIES = ("q", "k", "v")
TARGETS = (*QUERIES, "qkv", "out", "gate", "up", "down")
"""Matrices that can be adapted: an attention's queries, keys and values, separately or as one
matrix (`qkv`), and its output; the matrices of a feed-forward module. The modules declare which of
their layers these are (`etude.nn.matrices`).
"""


@dataclass(frozen=True)
class LoRA:
    """Options of low-rank adaptation.

    Attributes:
        rank: r, rank of each adapter.
        alpha: the scale of an adapter is alpha / r.
        dropout: dropout probability of an adapter's input.
        targets: names of the matrices to adapt: `q`, `k`, `v` (queries, keys and values,
            separately) or `qkv` (as one matrix), and `out` of an attention; `gate`, `up` and `down`
            of a feed-forward module.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        checks = Checks()
        checks.positive(rank=self.rank, alpha=self.alpha)
        checks.probability(dropout=self.dropout)
        unknown = [name for name in self.targets if name not in TARGETS]
        expected = f"one or more of {', '.join(TARGETS)}"
        checks.that(bool(self.targets) and not unknown, "targets", list(self.targets), expected)
        overlaps = "qkv" in self.targets and any(name in self.targets for name in QUERIES)
        expected = "either qkv, or one or more of q, k and v, but not both"
        checks.that(not overlaps, "targets", list(self.targets), expected)
        checks.done()


class LowRank(nn.Module):
    """Parameters of a low-rank adapter of some rows of a matrix, which adds B A x to the outputs of
    these rows for an input x.

    The parameters are A (r, inputs), initially random, and B (number of rows, r), initially zero.

    Args:
        rows: the first adapted row, and the row after the last.
        inputs: number of columns of the matrix.
        rank: r.
        like: tensor with the adapter's dtype and device.
    """

    def __init__(self, rows: tuple[int, int], inputs: int, rank: int, like: Tensor) -> None:
        super().__init__()
        self.rows = rows
        self.a = nn.Parameter(torch.empty(rank, inputs, dtype=like.dtype, device=like.device))
        self.b = nn.Parameter(
            torch.zeros(rows[1] - rows[0], rank, dtype=like.dtype, device=like.device)
        )
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


class LoRALinear(nn.Linear):
    """Linear layer with a frozen weight and low-rank adapters of some of its rows: y = W x + b +
    (alpha / r) B A dropout(x) (Hu et al. 2021, equation 3).

    Args:
        whole: the layer to adapt; its weight and bias are shared, not copied.
        slots: dict from the name of each adapter, such as `q`, to the rows of the weight that it
            adapts: the first row, and the row after the last.
        options: options of the adapters.
    """

    def __init__(self, whole: nn.Linear, slots: dict[str, tuple[int, int]], options: LoRA) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.weight, self.bias = whole.weight, whole.bias
        self.scale = options.alpha / options.rank
        self.lora_dropout = nn.Dropout(options.dropout)
        self.lora = nn.ModuleDict(
            {
                name: LowRank(rows, self.in_features, options.rank, whole.weight)
                for name, rows in slots.items()
            }
        )

    @property
    def changes(self) -> dict[str, LowRank]:
        """The adapters by name, in the order of their rows."""
        return {name: part for name, part in self.lora.items() if isinstance(part, LowRank)}

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        y = linear(x, self.weight, self.bias)
        dropped = self.lora_dropout(x)
        outputs: list[Tensor] = []
        row = 0
        for change in self.changes.values():  # in the order of their rows
            first, last = change.rows
            if first > row:
                outputs.append(y[..., row:first])
            low = F.linear(F.linear(dropped, change.a), change.b)
            outputs.append(y[..., first:last] + self.scale * low)
            row = last
        if row < self.out_features:
            outputs.append(y[..., row:])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Returns an equivalent `nn.Linear`, which shares this layer's weight; the adapters are
        added to the weight in place.
        """
        for change in self.changes.values():
            first, last = change.rows
            self.weight[first:last] += self.scale * (change.b @ change.a)
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer


def adapt(module: nn.Module, options: LoRA) -> list[str]:
    """Adds low-rank adapters to a model and freezes all other weights, except those of an encoder's
    head.

    The head is the module `head` with an attribute `gives` (`etude.models.heads`), which computes
    the logits. Cross-attention is not adapted.

    Returns:
        The full names of the adapted layers, such as `blocks.0.attention.qkv`.

    Raises:
        InvalidArguments: a matrix in `options.targets` is missing from the model.
    """
    targets = list(_targets(module, options.targets))
    checks = Checks()
    present = sorted({slot for _, _, slots in targets for slot in slots})
    missing = [name for name in options.targets if name not in present]
    expected = f"names of matrices that the model has: {', '.join(present) or 'none'}"
    checks.that(not missing, "targets", missing, expected)
    checks.done()
    for name, parameter in module.named_parameters():
        is_head = name.startswith("head.") and hasattr(getattr(module, "head", None), "gives")
        parameter.requires_grad_(is_head)
    for name, part, slots in targets:
        path, _, key = name.rpartition(".")
        setattr(module.get_submodule(path), key, LoRALinear(part, slots, options))
    return [name for name, _, _ in targets]


def merge(module: nn.Module) -> nn.Module:
    """Replaces all adapted layers of a module by equivalent `nn.Linear` layers, and returns the
    module.
    """
    for name, part in list(module.named_modules()):
        if isinstance(part, LoRALinear):
            path, _, key = name.rpartition(".")
            setattr(module.get_submodule(path), key, part.merged())
    return module


def adapted(module: nn.Module) -> dict[str, LoRALinear]:
    """Returns a dict from names to the layers of a module that have low-rank adapters."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LoRALinear)}


def _targets(
    module: nn.Module, targets: tuple[str, ...]
) -> Iterator[tuple[str, nn.Linear, dict[str, tuple[int, int]]]]:
    known = declared(module)
    for name, part in list(module.named_modules()):
        if not isinstance(part, nn.Linear) or name not in known or ".cross." in f".{name}.":
            continue
        pieces = known[name].pieces
        slots = {slot: rows for slot, rows in pieces.items() if slot in targets}
        if "qkv" in targets and pieces.keys() >= set(QUERIES):
            slots = {"qkv": (0, part.out_features)}
        if slots:
            yield name, part, slots
