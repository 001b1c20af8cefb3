"""Low-rank adapters in and out, in the format of the library `peft`: `adapter_config.json` and
`adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from etude.errors import Problem, RequestError
from etude.interop.adapter_config import NAME as CONFIG
from etude.interop.family import Family
from etude.interop.pretrained import family_for
from etude.interop.sentence_modules import split_mean_head, write_modules
from etude.interop.tensor_slices import TensorSlice, tensor_slices
from etude.nn.lora import LoRA, LoRALinear, adapted

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
CAUSAL = ("CausalLM", "LMHeadModel")
"""The ends of names of classes that `peft` calls CAUSAL_LM. The other kinds are not stated: `peft`
0.21 cannot wrap a SEQ_2_SEQ_LM of `transformers` 5.23, and adds modules to a SEQ_CLS.
"""


def save_adapter(
    module: Any,
    folder: Path,
    options: LoRA,
    *,
    base: str = "",
    family: Family | None = None,
    ending: str = "",
    reads: int | None = None,
) -> None:
    """Writes the low-rank changes of an adapted model, and an encoder's head, which is trained
    beside them. One that reads the mean becomes a module of `sentence-transformers`.

    A released module that holds several of our parts (the queries, keys and values of GPT-2 and
    GPT-NeoX) gets one change of the sum of their ranks; one of our parts that is several released
    modules gives each of them its rows.

    Args:
        base: where the model's own weights are: a folder or a hub id.
        family: None is the one that has all parts of the module.
        ending: of the class of `transformers`, where several have the module's head.
        reads: the most tokens of a text that it was trained on; None is all that it can read.

    Raises:
        RequestError: there are no changes.
    """
    layers = adapted(module)
    if not layers:
        raise RequestError(Problem("the model", "low-rank changes; it has none"))
    twin, mean = split_mean_head(_without_changes(module))
    family = family or family_for(twin)
    kind = family.architecture_for(twin, ending)
    known = tensor_slices(twin, family, kind)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, place in known.items():
        layer = layers.get(place.name.removesuffix(".weight"))
        if layer is None or (change := _concatenate_changes(layer, place.rows)) is None:
            continue
        there = name.removesuffix(".weight")
        tensors[f"{there}.lora_A.weight"], tensors[f"{there}.lora_B.weight"] = change
        ranks[there] = len(change[0])
    head = _head_tensors(twin, family, known)
    modules = [name.removesuffix(".weight") for name in known if name.endswith(".weight")]
    usual = min(ranks.values())
    larger = {rank: [name for name in ranks if ranks[name] == rank] for rank in {*ranks.values()}}
    del larger[usual]
    each = options.alpha / options.rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if kind.endswith(CAUSAL) else None,
        "base_model_name_or_path": base,
        "r": usual,
        "lora_alpha": each * usual,
        "lora_dropout": options.dropout,
        "rank_pattern": {
            n: r for r, some in larger.items() for n in _shortest_suffixes(some, modules)
        },
        "alpha_pattern": {
            n: each * r for r, some in larger.items() for n in _shortest_suffixes(some, modules)
        },
        "target_modules": _shortest_suffixes(ranks, modules),
        "modules_to_save": _outermost(name.rpartition(".")[0] for name in head) or None,
        "bias": "none",
        "fan_in_fan_out": any(_is_transposed(known[f"{name}.weight"]) for name in ranks),
        "inference_mode": True,
        "init_lora_weights": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{PREFIX}{name}": x.detach().clone() for name, x in {**tensors, **head}.items()}
    save_file(written, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if mean is not None:
        write_modules(folder, mean, reads or twin.max_length)


def _concatenate_changes(layer: LoRALinear, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """A (r, in) and B (rows, r) of all changes of some of a layer's rows, in the order given."""
    found: list[tuple[Tensor, Tensor]] = []
    for change in layer.changes.values():
        first, last = change.rows
        within = (rows >= first) & (rows < last)
        if within.any():
            b = change.b.new_zeros(len(rows), change.b.shape[1])
            b[within] = change.b[rows[within] - first].detach()
            found.append((change.a.detach(), b))
    if not found:
        return None
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found], dim=1)


def _head_tensors(module: Any, family: Family, known: dict[str, TensorSlice]) -> dict[str, Tensor]:
    """The released tensors of an encoder's head, whole modules."""
    if not hasattr(getattr(module, "head", None), "gives"):
        return {}
    found = {
        name: place.piece.view.reshape(place.piece.shape)
        for name, place in known.items()
        if place.name.startswith("head.")
    }
    if module.head.gives == "vocabulary":  # `transformers` has the embedding in it a second time
        output = family.output.removesuffix(".weight")
        found[f"{output}.weight"] = module.embedding.weight
        found[f"{output}.bias"] = module.head.bias
    return found


def _outermost(modules: Iterable[str]) -> list[str]:
    """Those that lie in no other."""
    names = set(modules)
    return sorted(
        name for name in names if not any(name.startswith(f"{other}.") for other in names)
    )


def _is_transposed(place: TensorSlice) -> bool:
    """Whether the released matrix is (input, output)."""
    return place.piece.view.stride(-1) != 1 and place.piece.view.ndim == 2


def _shortest_suffixes(chosen: Iterable[str], modules: list[str]) -> list[str]:
    """The shortest ends of names, of two parts or more, that only the chosen ones have."""
    chosen = set(chosen)
    found = set()
    for name in chosen:
        parts = name.split(".")
        for length in range(2, len(parts) + 1):
            end = ".".join(parts[-length:])
            alike = {each for each in modules if each == end or each.endswith(f".{end}")}
            if alike <= chosen:
                found.add(end)
                break
    return sorted(found)


def _without_changes(module: Any) -> Any:
    """The module without its changes, sharing its weights; itself if it has none."""
    if not adapted(module):
        return module
    from copy import copy

    def twin(part: nn.Module) -> nn.Module:
        if isinstance(part, LoRALinear):
            plain = nn.Linear(
                part.in_features, part.out_features, part.bias is not None, device="meta"
            )
            plain.weight, plain.bias = part.weight, part.bias
            return plain
        other = copy(part)
        other._modules = {
            name: None if child is None else twin(child) for name, child in part._modules.items()
        }
        return other

    return twin(module)
