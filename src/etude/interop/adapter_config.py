"""The config of a `peft` adapter: each field is read, has no effect on trained weights, or may have
only the values that leave plain LoRA. All others are refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.interop.hf_config import is_number
from etude.interop.json_file import read_object

NAME = "adapter_config.json"
ALL_LINEAR = "all-linear"

PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that set only the changes. `pissa`, `olora`, `loftq`, `corda` and
`lora_ga` also change the frozen weights, which the adapter does not contain; `mica` is untested.
"""
RESIDUAL = (
    "save it with save_pretrained(..., path_initial_model_for_weight_conversion=...) to get an "
    "adapter for the released weights"
)

Check = Callable[[object], str | None]
"""What was expected of a value, if it is wrong."""


def _one_of(*allowed: object) -> Check:
    def check(value: object) -> str | None:
        if any(value == each and type(value) is type(each) for each in allowed):
            return None
        return " or ".join(json.dumps(each) for each in allowed) + ": Étude has nothing else here"

    return check


def _check(expected: str, holds: Callable[[Any], bool]) -> Check:
    return lambda value: None if holds(value) else expected


def _accept_any(value: object) -> str | None:
    return None


def _is_name_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


def _is_module_choice(value: object) -> bool:
    return _is_name_list(value) or (isinstance(value, str) and is_simple(value))


def _are_patterns(value: object, number: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        is_simple(key) and number(each) for key, each in value.items()
    )


def _is_positive(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and value > 0


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_layer_choice(value: object) -> bool:
    each = value if isinstance(value, list) else [value]
    return all(isinstance(i, int) and not isinstance(i, bool) for i in each)


PATTERN = "a name, or a pattern with at most 3 of * + ? and none after a bracket"
MODULES = f"a list of module names, or {PATTERN}"
FLAG = _check("true or false", lambda value: isinstance(value, bool | None))

FIELDS: dict[str, Check] = {
    # what the changes are
    "peft_type": _one_of("LORA"),
    "r": _check("a positive whole number", _is_positive_integer),
    "lora_alpha": _check("a positive number", _is_positive),
    "lora_dropout": _check("a probability", lambda p: p is None or (is_number(p) and 0 <= p < 1)),
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "rank_pattern": _check(
        f"whole numbers by {PATTERN}", lambda v: v is None or _are_patterns(v, _is_positive_integer)
    ),
    "alpha_pattern": _check(f"numbers by {PATTERN}", lambda v: v is None or _are_patterns(v, _is_positive)),
    "init_lora_weights": _one_of(*PLAIN_INITIALISATIONS),
    "bias": _one_of("none", "all", "lora_only"),
    # where they are
    "target_modules": _check(MODULES, _is_module_choice),
    "exclude_modules": _check(MODULES, lambda v: v is None or _is_module_choice(v)),
    "modules_to_save": _check("a list of module names", lambda v: v is None or _is_name_list(v)),
    "layers_to_transform": _check("numbers of layers", lambda v: v is None or _is_layer_choice(v)),
    "layers_pattern": _check(MODULES, lambda v: v is None or _is_module_choice(v)),
    # of what Étude has not
    "alora_invocation_tokens": _one_of(None),
    "arrow_config": _one_of(None),
    "enable_lora": _one_of(None),
    "ensure_weight_tying": _one_of(False, None),
    "kasa_config": _one_of(None),
    "layer_replication": _one_of(None),
    "lora_bias": _one_of(False, None),
    "megatron_config": _one_of(None),
    "monteclora_config": _one_of(None),
    "target_parameters": _one_of(None, []),
    "trainable_token_indices": _one_of(None),
    "use_bdlora": _one_of(None),
    "use_qalora": _one_of(False, None),
    "velora_config": _one_of(None),
    # without an effect: how training began, who wrote it, and what `peft` finds in the model itself
    **dict.fromkeys(
        (
            "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
            "fan_in_fan_out", "inference_mode", "loftq_config", "lora_ga_config", "megatron_core",
            "merge_weights", "peft_version", "qalora_group_size", "revision", "runtime_config",
            "task_type",
        ),
        _accept_any,
    ),
}  # fmt: skip
"""The fields of `peft` 0.21's LoraConfig, and older ones. One that is not here may only be off:
null, false or empty, as a newer version writes what is not used.
"""
REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")


@dataclass(frozen=True)
class AdapterConfig:
    """What an `adapter_config.json` says.

    Attributes:
        where: the file.
        values: its fields, checked.
    """

    where: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> AdapterConfig:
        """The one in a folder.

        Raises:
            RequestError: no such file, or all fields that Étude cannot follow.
        """
        where = str(folder / NAME)
        values = read_object(folder / NAME)
        problems = [
            Problem(f"{where}, {field}", expected, value, _hint(field, value))
            for field, value in values.items()
            if (expected := _expected(field, value)) is not None
        ]
        problems += [
            Problem(f"{where}, {field}", "a field of an adapter")
            for field in REQUIRED
            if field not in values
        ]
        if problems:
            raise RequestError(problems)
        return cls(where, values)

    @property
    def dora(self) -> bool:
        """Whether the size of each row is stated apart (Liu et al. 2024, arXiv:2402.09353)."""
        return bool(self.values.get("use_dora"))

    def rank(self, module: str) -> int:
        """Of the changes of a module, by its released name."""
        return int(self._pattern_value(module, "rank_pattern", self.values["r"]))

    def scale(self, module: str) -> float:
        """What the product of the two matrices counts."""
        alpha, rank = (
            self._pattern_value(module, "alpha_pattern", self.values["lora_alpha"]),
            self.rank(module),
        )
        return float(alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank)

    def replaces(self, module: str) -> bool:
        """Whether `modules_to_save` names it, or what it lies in."""
        names = self.values.get("modules_to_save") or []
        outer = module.split(".")
        within = (".".join(outer[: n + 1]) for n in range(len(outer)))
        return any(_is_selected(each, names) for each in within)

    def targets(self, module: str, *, is_linear: bool) -> bool:
        """Whether `peft` puts changes into it."""
        wanted, excluded = self.values["target_modules"], self.values.get("exclude_modules")
        if (excluded and _is_selected(module, excluded)) or self.replaces(module):
            return False
        if isinstance(wanted, str) and wanted.lower() == ALL_LINEAR:
            return is_linear
        if not _is_selected(module, wanted):
            return False
        layers = self.values.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(wanted, str) or module in wanted:
            return True
        stacks = self.values.get("layers_pattern") or [r"[^.]*"]
        stacks = [stacks] if isinstance(stacks, str) else stacks
        found = [re.match(rf"(?:^|.*?\.){each}\.(\d+)\.", module) for each in stacks]
        number = next((int(match[1]) for match in found if match), None)
        return number in (layers if isinstance(layers, list) else [layers])

    def _pattern_value(self, module: str, patterns: str, usual: Any) -> Any:
        for key, value in (self.values.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return usual


def is_simple(pattern: str) -> bool:
    """Whether a stranger's pattern of names is one that is matched in short time."""
    quantifiers = re.findall(r"[*+?{]", pattern.replace("(?:", "("))
    nested = re.search(r"[)}*+?][*+{]", pattern)
    if len(pattern) > 500 or len(quantifiers) > 3 or nested:
        return False
    if not re.fullmatch(r"[\w.\-^$|()\[\]\\*+?:]+", pattern, re.ASCII):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _is_selected(module: str, chosen: str | list[str]) -> bool:
    if isinstance(chosen, str):
        return re.fullmatch(chosen, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in chosen)


def _expected(field: str, value: object) -> str | None:
    check = FIELDS.get(field)
    if check is not None:
        return check(value)
    is_off = value is None or value is False or value in ({}, [], "")
    return None if is_off else "no such field: it is not one that Étude knows"


def _hint(field: str, value: object) -> str | None:
    if field == "init_lora_weights" and isinstance(value, str):
        return RESIDUAL
    if field == "peft_type":
        return "other kinds of adapters than LoRA are not read"
    return None
