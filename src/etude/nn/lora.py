"""Low-rank changes of frozen matrices (Hu et al. 2021, arXiv:2106.09685)."""

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
"""What can be adapted: of an attention the queries, keys, values or all three as one matrix, and
its output; the matrices of a feed-forward part. Which layers these are, their owners declare
(`etude.nn.matrices`)."""


@dataclass(frozen=True)
class LoRA:
    """What is adapted, and how.

    Attributes:
        rank: r, of each change.
        alpha: a change counts alpha / r.
        dropout: probability, of what a change reads.
        targets: some of `TARGETS`.
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
        expected = f"some of {', '.join(TARGETS)}"
        checks.that(bool(self.targets) and not unknown, "targets", list(self.targets), expected)
        twice = "qkv" in self.targets and any(name in self.targets for name in QUERIES)
        checks.that(not twice, "targets", list(self.targets), "qkv, or some of q, k and v")
        checks.done()


class LowRank(nn.Module):
    """B A x, for some rows of a matrix: A (r, in) is drawn, B (rows, r) begins at zero.

    Args:
        rows: the first row and the one after the last.
        inputs: of the matrix.
        rank: r.
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
    """A linear layer whose weight stays, with low-rank changes of some of its rows:
    y = W x + b + (alpha / r) B A dropout(x) (Hu et al. 2021, equation 3).

    Args:
        whole: the layer, whose parameters are taken over.
        slots: the rows to change, by name.
        options: how.
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
        """By name, in the order of their rows."""
        return {name: part for name, part in self.lora.items() if isinstance(part, LowRank)}

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y = linear(x, self.weight, self.bias)
        read = self.lora_dropout(x)
        changes: list[Tensor] = []
        place = 0
        for change in self.changes.values():  # in the order of their rows
            first, last = change.rows
            if first > place:
                changes.append(y[..., place:first])
            low = F.linear(F.linear(read, change.a), change.b)
            changes.append(y[..., first:last] + self.scale * low)
            place = last
        if place < self.out_features:
            changes.append(y[..., place:])
        return changes[0] if len(changes) == 1 else torch.cat(changes, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same; it takes over the weight, changed in place."""
        for change in self.changes.values():
            first, last = change.rows
            self.weight[first:last] += self.scale * (change.b @ change.a)
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain


def adapt(module: nn.Module, options: LoRA) -> list[str]:
    """Puts low-rank changes into a model and freezes all else but an encoder's head.

    An attention that reads another sequence is left as it is.

    Returns:
        The names of the layers that are adapted.

    Raises:
        InvalidArguments: the model has none of the targets.
    """
    found = [(name, part, slots) for name, part, slots in _targets(module, options.targets)]
    checks = Checks()
    have = sorted({slot for _, _, slots in found for slot in slots})
    missing = [name for name in options.targets if name not in have]
    hint = "the model has none of these"
    checks.that(not missing, "targets", missing, "parts that the model has", hint)
    checks.done()
    for name, parameter in module.named_parameters():
        is_head = name.startswith("head.") and hasattr(getattr(module, "head", None), "gives")
        parameter.requires_grad_(is_head)
    for name, part, slots in found:
        path, _, key = name.rpartition(".")
        setattr(module.get_submodule(path), key, LoRALinear(part, slots, options))
    return [name for name, _, _ in found]


def merge(module: nn.Module) -> nn.Module:
    """Puts plain layers that compute the same in place of all adapted ones."""
    for name, part in list(module.named_modules()):
        if isinstance(part, LoRALinear):
            path, _, key = name.rpartition(".")
            setattr(module.get_submodule(path), key, part.merged())
    return module


def adapted(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name."""
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
