"""Low-rank adapters in and out, in the format of the library `peft`: `adapter_config.json` and
`adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from etude.errors import Problem, RequestError
from etude.interop.family import Family
from etude.interop.pretrained import family_for
from etude.nn.lora import LoRA, LoRALinear, adapt, adapted

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def save_adapter(
    module: Any, folder: Path, options: LoRA, *, base: str = "", family: Family | None = None
) -> None:
    """Writes the low-rank changes of an adapted model.

    Args:
        base: where the model's own weights are: a folder or a hub id.
        family: None is the one that has all parts of the module.

    Raises:
        RequestError: a change is of rows that are no tensor of their own in the family.
    """
    layers = adapted(module)
    if not layers:
        raise RequestError(Problem("the model", "low-rank changes; it has none"))
    family = family or family_for(_plain_twin(module))
    kind = family.config(_plain_twin(module))["architectures"][0]
    places = _places(module, family, kind)
    tensors: dict[str, Tensor] = {}
    modules: set[str] = set()
    for name, layer in layers.items():
        for slot, change in layer.changes.items():
            there = places.get((name, *change.rows))
            if there is None:
                expected = f"parts that {family.model_type} keeps apart"
                raise RequestError(Problem(f"{name}, {slot}", expected))
            tensors[f"{PREFIX}{there}.lora_A.weight"] = change.a.detach().contiguous()
            tensors[f"{PREFIX}{there}.lora_B.weight"] = change.b.detach().contiguous()
            modules.add(there.rpartition(".")[2])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if kind.endswith("CausalLM") else None,
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_adapter(module: Any, folder: Path, family: Family, architecture: str) -> LoRA:
    """Puts the changes of a folder into a model of released weights; `merge` makes them its own.

    Raises:
        RequestError: a kind of adapter that Étude has not, or one for another model.
    """
    config = _config(folder)
    places = _places(module, family, architecture)
    names = {there: (name, rows) for (name, *rows), there in places.items()}
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        problem = Problem(str(folder / WEIGHTS), "the weights of an adapter", hint=str(error))
        raise RequestError(problem) from error
    changes: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        there, _, which = name.removeprefix(PREFIX).rpartition(".lora_")
        if which not in ("A.weight", "B.weight") or there not in names:
            hint = "the adapter is for another model, or changes more than matrices"
            expected = "a change of a matrix of the model"
            raise RequestError(Problem(f"{folder / WEIGHTS}, {name}", expected, hint=hint))
        changes.setdefault(there, {})[which[0]] = tensor
    slots = {_slot(module, *names[there]) for there in changes}
    options = LoRA(config["r"], config["lora_alpha"], config["lora_dropout"], tuple(sorted(slots)))
    adapt(module, options)
    layers = adapted(module)
    used: set[tuple[str, str]] = set()
    with torch.no_grad():
        for there, pair in changes.items():
            name, rows = names[there]
            slot = _slot(module, name, rows)
            change: Any = layers[name].changes[slot]
            for key, parameter in (("A", change.a), ("B", change.b)):
                found = pair.get(key)
                if found is None or found.shape != parameter.shape:
                    want = " x ".join(map(str, parameter.shape))
                    have = None if found is None else " x ".join(map(str, found.shape))
                    where = f"{folder / WEIGHTS}, {there}.lora_{key}"
                    raise RequestError(Problem(where, f"the shape {want}", have))
                parameter.copy_(found)
            used.add((name, slot))
        for name, layer in layers.items():
            for slot, change in layer.changes.items():
                if (name, slot) not in used:  # the adapter leaves this layer alone
                    change.a.zero_()
    return options


def _config(folder: Path) -> dict[str, Any]:
    where = str(folder / CONFIG)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(Problem(where, "the config of an adapter", hint=str(error))) from error
    wrong = {
        "peft_type": config.get("peft_type") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "use_rslora": bool(config.get("use_rslora")),
        "bias": config.get("bias", "none") != "none",
        "rank_pattern": bool(config.get("rank_pattern")),
        "alpha_pattern": bool(config.get("alpha_pattern")),
        "modules_to_save": bool(config.get("modules_to_save")),
    }
    problems = [
        Problem(f"{where}, {key}", "plain LoRA of matrices", config.get(key))
        for key, is_wrong in wrong.items()
        if is_wrong
    ]
    if problems:
        raise RequestError(problems)
    return {
        "r": int(config["r"]),
        "lora_alpha": float(config["lora_alpha"]),
        "lora_dropout": float(config.get("lora_dropout", 0.0)),
    }


def _places(module: Any, family: Family, kind: str) -> dict[tuple[Any, ...], str]:
    """The released name of a module, by our layer and the rows of its weight."""
    found: dict[tuple[Any, ...], str] = {}
    twin = _plain_twin(module)
    for name, pieces in family.pieces(twin, kind):
        if not name.endswith(".weight"):
            continue
        first = 0
        for piece in pieces:
            as_ours = piece.view.ndim == 2 and piece.view.stride(-1) == 1  # not transposed
            if as_ours and piece.shape == tuple(piece.view.shape):
                rows = piece.view.shape[0]
                layer = name.removesuffix(".weight")
                found[layer, first, first + rows] = piece.name.removesuffix(".weight")
                first += rows
    return found


def _slot(module: Any, name: str, rows: Any) -> str:
    key = name.rpartition(".")[2]
    if key != "qkv":
        return key
    attention = module.get_submodule(name.rpartition(".")[0])
    H, G, K = attention.heads, attention.kv_heads, attention.head_dim
    starts = {0: "q", H * K: "k", (H + G) * K: "v"}
    first, last = rows
    return "qkv" if last - first == (H + 2 * G) * K else starts[first]


def _plain_twin(module: Any) -> Any:
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
