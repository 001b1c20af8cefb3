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

INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that set only the changes. `pissa`, `olora`, `loftq`, `corda` and
`lora_ga` also change the frozen weights, which the adapter does not contain; `mica` is untested.
"""
RESIDUAL = (
    "save it with save_pretrained(..., path_initial_model_for_weight_conversion=...) to get an "
    "adapter for the released weights"
)

Check = Callable[[object], str | None]
"""What was expected of a value, if it is wrong."""


def _only(*allowed: object) -> Check:
    def check(value: object) -> str | None:
        if any(value == each and type(value) is type(each) for each in allowed):
            return None
        return " or ".join(json.dumps(each) for each in allowed) + ": Étude has nothing else here"

    return check


def _that(expected: str, holds: Callable[[Any], bool]) -> Check:
    return lambda value: None if holds(value) else expected


def _any(value: object) -> str | None:
    return None


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


def _chosen(value: object) -> bool:
    return _names(value) or (isinstance(value, str) and is_simple(value))


def _patterns(value: object, number: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(
        is_simple(key) and number(each) for key, each in value.items()
    )


def _positive(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and value > 0


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _layers(value: object) -> bool:
    each = value if isinstance(value, list) else [value]
    return all(isinstance(i, int) and not isinstance(i, bool) for i in each)


PATTERN = "a name, or a pattern with at most 3 of * + ? and none after a bracket"
MODULES = f"a list of module names, or {PATTERN}"
FLAG = _that("true or false", lambda value: isinstance(value, bool | None))

FIELDS: dict[str, Check] = {
    # what the changes are
    "peft_type": _only("LORA"),
    "r": _that("a positive whole number", _whole),
    "lora_alpha": _that("a positive number", _positive),
    "lora_dropout": _that("a probability", lambda p: p is None or (is_number(p) and 0 <= p < 1)),
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "rank_pattern": _that(
        f"whole numbers by {PATTERN}", lambda v: v is None or _patterns(v, _whole)
    ),
    "alpha_pattern": _that(f"numbers by {PATTERN}", lambda v: v is None or _patterns(v, _positive)),
    "init_lora_weights": _only(*INITIAL),
    "bias": _only("none", "all", "lora_only"),
    # where they are
    "target_modules": _that(MODULES, _chosen),
    "exclude_modules": _that(MODULES, lambda v: v is None or _chosen(v)),
    "modules_to_save": _that("a list of module names", lambda v: v is None or _names(v)),
    "layers_to_transform": _that("numbers of layers", lambda v: v is None or _layers(v)),
    "layers_pattern": _that(MODULES, lambda v: v is None or _chosen(v)),
    # of what Étude has not
    "alora_invocation_tokens": _only(None),
    "arrow_config": _only(None),
    "enable_lora": _only(None),
    "ensure_weight_tying": _only(False, None),
    "kasa_config": _only(None),
    "layer_replication": _only(None),
    "lora_bias": _only(False, None),
    "megatron_config": _only(None),
    "monteclora_config": _only(None),
    "target_parameters": _only(None, []),
    "trainable_token_indices": _only(None),
    "use_bdlora": _only(None),
    "use_qalora": _only(False, None),
    "velora_config": _only(None),
    # without an effect: how training began, who wrote it, and what `peft` finds in the model itself
    **dict.fromkeys(
        (
            "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
            "fan_in_fan_out", "inference_mode", "loftq_config", "lora_ga_config", "megatron_core",
            "merge_weights", "peft_version", "qalora_group_size", "revision", "runtime_config",
            "task_type",
        ),
        _any,
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
        return int(self._of(module, "rank_pattern", self.values["r"]))

    def scale(self, module: str) -> float:
        """What the product of the two matrices counts."""
        alpha, rank = (
            self._of(module, "alpha_pattern", self.values["lora_alpha"]),
            self.rank(module),
        )
        return float(alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank)

    def replaces(self, module: str) -> bool:
        """Whether `modules_to_save` names it, or what it lies in."""
        names = self.values.get("modules_to_save") or []
        outer = module.split(".")
        within = (".".join(outer[: n + 1]) for n in range(len(outer)))
        return any(_among(each, names) for each in within)

    def targets(self, module: str, *, is_linear: bool) -> bool:
        """Whether `peft` puts changes into it."""
        wanted, excluded = self.values["target_modules"], self.values.get("exclude_modules")
        if (excluded and _among(module, excluded)) or self.replaces(module):
            return False
        if isinstance(wanted, str) and wanted.lower() == ALL_LINEAR:
            return is_linear
        if not _among(module, wanted):
            return False
        layers = self.values.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(wanted, str) or module in wanted:
            return True
        stacks = self.values.get("layers_pattern") or [r"[^.]*"]
        stacks = [stacks] if isinstance(stacks, str) else stacks
        found = [re.match(rf"(?:^|.*?\.){each}\.(\d+)\.", module) for each in stacks]
        number = next((int(match[1]) for match in found if match), None)
        return number in (layers if isinstance(layers, list) else [layers])

    def _of(self, module: str, patterns: str, usual: Any) -> Any:
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


def _among(module: str, chosen: str | list[str]) -> bool:
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
