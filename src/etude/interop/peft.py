"""Saving of low-rank adapters for `peft`: `adapter_config.json` and `adapter_model.safetensors`."""

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
"""Suffixes of the classes that are saved with the task type CAUSAL_LM.

Other classes are saved without a task type: `peft` 0.21 cannot wrap a SEQ_2_SEQ_LM of
`transformers` 5.23, and adds modules to a SEQ_CLS.
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
    """Writes the low-rank updates of a model, and the head of an encoder, as a `peft` adapter.

    A mean head, which classifies the mean of the output vectors, is saved as a module of
    `sentence-transformers`.

    If one module of `transformers` contains several adapted matrices of Étude (the queries, keys
    and values of GPT-2 and GPT-NeoX), the module gets one update whose rank is the sum of their
    ranks. If one adapted matrix of Étude consists of several modules of `transformers`, each module
    gets its rows of the update.

    Args:
        module: the trained model.
        folder: the folder to write, created if missing; existing files of the adapter's names are
            replaced.
        options: the low-rank options that the model was trained with.
        base: the folder or the Hugging Face Hub id of the base model's weights, written to
            `base_model_name_or_path`.
        family: the family to save as; if None, the first family that has all components of the
            module.
        ending: see `Family.architecture_for`.
        reads: the maximum number of tokens per text in training, saved with a mean head; if None,
            the model's maximum.

    Raises:
        RequestError: the model has no low-rank updates, or, if `family` is None, no family has all
            components of the module.
    """
    layers = adapted(module)
    if not layers:
        hint = "train with init_from.lora.rank=..."
        raise RequestError(Problem("the model", "a model with low-rank updates", hint=hint))
    twin, mean = split_mean_head(_without_changes(module))
    family = family or family_for(twin)
    kind = family.architecture_for(twin, ending)
    known = tensor_slices(twin, family, kind)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, slice_ in known.items():
        layer = layers.get(slice_.name.removesuffix(".weight"))
        if layer is None or (change := _concatenate_changes(layer, slice_.rows)) is None:
            continue
        target = name.removesuffix(".weight")
        tensors[f"{target}.lora_A.weight"], tensors[f"{target}.lora_B.weight"] = change
        ranks[target] = len(change[0])
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
    prefixed = {f"{PREFIX}{name}": x.detach().clone() for name, x in {**tensors, **head}.items()}
    save_file(prefixed, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if mean is not None:
        write_modules(folder, mean, reads or twin.max_length)


def _concatenate_changes(layer: LoRALinear, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns the matrices A and B of one low-rank update that combines all updates of some rows.

    A layer has several updates if they change different rows, such as the queries and the values.
    A has the shape (r, in), and B has the shape (N, r): N is the number of rows, and r is the sum
    of the ranks of the combined updates. Returns None if the rows have no update.

    Args:
        layer: the layer with the updates.
        rows: the indices of the N rows.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for change in layer.changes.values():
        first, last = change.rows
        within = (rows >= first) & (rows < last)
        if within.any():
            b = change.b.new_zeros(len(rows), change.b.shape[1])
            b[within] = change.b[rows[within] - first].detach()
            pairs.append((change.a.detach(), b))
    if not pairs:
        return None
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)


def _head_tensors(module: Any, family: Family, known: dict[str, TensorSlice]) -> dict[str, Tensor]:
    """Returns the tensors of an encoder's head, as a dict whose keys are their names in
    `transformers`.

    The dict is empty if the module has no head. `known` contains the slices of all tensors of the
    module, by their names in `transformers`.
    """
    if not hasattr(getattr(module, "head", None), "gives"):
        return {}
    tensors = {
        name: slice_.piece.view.reshape(slice_.piece.shape)
        for name, slice_ in known.items()
        if slice_.name.startswith("head.")
    }
    if module.head.gives == "vocabulary":  # in `transformers` this head has a copy of the embedding
        output = family.output.removesuffix(".weight")
        tensors[f"{output}.weight"] = module.embedding.weight
        tensors[f"{output}.bias"] = module.head.bias
    return tensors


def _outermost(modules: Iterable[str]) -> list[str]:
    """Returns those of the module names `modules` that are not inside another of these modules."""
    names = set(modules)
    return sorted(
        name for name in names if not any(name.startswith(f"{other}.") for other in names)
    )


def _is_transposed(slice_: TensorSlice) -> bool:
    """Returns whether a checkpoint stores the matrix transposed, with the shape (input, output)."""
    return slice_.piece.view.stride(-1) != 1 and slice_.piece.view.ndim == 2


def _shortest_suffixes(chosen: Iterable[str], modules: list[str]) -> list[str]:
    """Returns suffixes that together match exactly the module names `chosen` among `modules`.

    A suffix consists of whole components of a name. It is as short as possible, but has at least
    two components, such as `attn.c_attn`. The result is sorted and has no duplicates.

    Args:
        chosen: the names to match, each with at least two components.
        modules: the names of all modules that have a weight, including `chosen`.
    """
    chosen = set(chosen)
    suffixes = set()
    for name in chosen:
        parts = name.split(".")
        for length in range(2, len(parts) + 1):
            end = ".".join(parts[-length:])
            alike = {each for each in modules if each == end or each.endswith(f".{end}")}
            if alike <= chosen:
                suffixes.add(end)
                break
    return sorted(suffixes)


def _without_changes(module: Any) -> Any:
    """Returns a copy of a module that shares the weights and has no low-rank updates."""
    if not adapted(module):
        return module
    from copy import copy

    def twin(part: nn.Module) -> nn.Module:
        if isinstance(part, LoRALinear):
            linear = nn.Linear(
                part.in_features, part.out_features, part.bias is not None, device="meta"
            )
            linear.weight, linear.bias = part.weight, part.bias
            return linear
        other = copy(part)
        other._modules = {
            name: None if child is None else twin(child) for name, child in part._modules.items()
        }
        return other

    return twin(module)
