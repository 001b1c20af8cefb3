"""Reading and checking of a `peft` adapter's config.

Étude reads some fields of the config, and ignores fields that have no effect on trained weights.
Fields of unsupported LoRA variants must have the value that turns the variant off. Any other field
that is set raises an error that names the field.
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
"""Values of `init_lora_weights` that initialise only the low-rank matrices.

`pissa`, `olora`, `loftq`, `corda` and `lora_ga` also change the frozen weights, which the adapter
does not contain; `mica` is untested.
"""
RESIDUAL = (
    "this initialisation changed the base weights before training; to get an adapter for the "
    "original weights, save it with PEFT's "
    "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
)

Check = Callable[[object], str | None]
"""A function that returns None for a valid value, otherwise a description of what is expected."""


def _one_of(*allowed: object) -> Check:
    def check(value: object) -> str | None:
        if any(value == each and type(value) is type(each) for each in allowed):
            return None
        values = " or ".join(json.dumps(each) for each in allowed)
        return f"{values}, the only supported value{'s' if len(allowed) > 1 else ''}"

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


PATTERN = (
    "a module name, or a regular expression with at most 3 quantifiers (* + ?), none of them after "
    "a parenthesis"
)
MODULES = f"a list of module names, {PATTERN}"
FLAG = _check("true or false", lambda value: isinstance(value, bool | None))

FIELDS: dict[str, Check] = {
    # the low-rank updates
    "peft_type": _one_of("LORA"),
    "r": _check("a positive whole number", _is_positive_integer),
    "lora_alpha": _check("a positive number", _is_positive),
    "lora_dropout": _check("a probability", lambda p: p is None or (is_number(p) and 0 <= p < 1)),
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "rank_pattern": _check(
        f"an object with positive whole numbers as values; each key is {PATTERN}",
        lambda v: v is None or _are_patterns(v, _is_positive_integer),
    ),
    "alpha_pattern": _check(
        f"an object with positive numbers as values; each key is {PATTERN}",
        lambda v: v is None or _are_patterns(v, _is_positive),
    ),
    "init_lora_weights": _one_of(*PLAIN_INITIALISATIONS),
    "bias": _one_of("none", "all", "lora_only"),
    # the updated modules
    "target_modules": _check(MODULES, _is_module_choice),
    "exclude_modules": _check(MODULES, lambda v: v is None or _is_module_choice(v)),
    "modules_to_save": _check("a list of module names", lambda v: v is None or _is_name_list(v)),
    "layers_to_transform": _check(
        "a layer index or a list of layer indices", lambda v: v is None or _is_layer_choice(v)
    ),
    "layers_pattern": _check(MODULES, lambda v: v is None or _is_module_choice(v)),
    # not supported
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
    # no effect on the result: training, metadata, and what `peft` derives from the model
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
"""The fields of LoraConfig in `peft` 0.21 and in older versions.

A field that is not in the table may only be null, false or empty, which is how newer versions
write unused fields.
"""
REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")


@dataclass(frozen=True)
class AdapterConfig:
    """The content of an `adapter_config.json`.

    Attributes:
        where: the path of the file.
        values: dict from the name of each field in the file to its value. All values are valid.
    """

    where: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> AdapterConfig:
        """Reads the `adapter_config.json` in a folder.

        Raises:
            RequestError: the file is missing, lacks a required field, or has fields that are
                unsupported or have an invalid value; the message names all of them.
        """
        where = str(folder / NAME)
        values = read_object(folder / NAME)
        problems = [
            Problem(f"{where}, {field}", expected, value, _hint(field, value))
            for field, value in values.items()
            if (expected := _expected(field, value)) is not None
        ]
        problems += [
            Problem(f"{where}, {field}", "a value", hint="the field is required")
            for field in REQUIRED
            if field not in values
        ]
        if problems:
            raise RequestError(problems)
        return cls(where, values)

    @property
    def dora(self) -> bool:
        """Whether the adapter uses DoRA, with a learned magnitude for each row of a matrix.

        See Liu et al. 2024, arXiv:2402.09353.
        """
        return bool(self.values.get("use_dora"))

    def rank(self, module: str) -> int:
        """Returns the rank of a module's low-rank update.

        This is the first value in `rank_pattern` whose key matches the module, or else the field
        `r`. A key is a regular expression, which must match the whole name or its last components.
        `module` is the module's name in `transformers`.
        """
        return int(self._pattern_value(module, "rank_pattern", self.values["r"]))

    def scale(self, module: str) -> float:
        """Returns the factor by which the product of the two matrices of a module's update is
        multiplied.

        The factor is alpha / rank or, if `use_rslora` is true, alpha / sqrt(rank). Here alpha is
        the first value in `alpha_pattern` whose key matches the module (see `rank`), or else the
        field `lora_alpha`.
        `module` is the module's name in `transformers`.
        """
        alpha, rank = (
            self._pattern_value(module, "alpha_pattern", self.values["lora_alpha"]),
            self.rank(module),
        )
        return float(alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank)

    def replaces(self, module: str) -> bool:
        """Returns whether the adapter replaces all tensors of a module.

        This is the case if the field `modules_to_save` names the module or one of its parent
        modules, by the full name or by its last components. `module` is the module's name in
        `transformers`.
        """
        names = self.values.get("modules_to_save") or []
        outer = module.split(".")
        within = (".".join(outer[: n + 1]) for n in range(len(outer)))
        return any(_is_selected(each, names) for each in within)

    def targets(self, module: str, *, is_linear: bool) -> bool:
        """Returns whether a module has a low-rank update in an adapter with this config.

        This is the case if `target_modules` names the module, and neither `exclude_modules` nor
        `modules_to_save` does. A field that is a list names modules by their full names or last
        components; a field that is a string is a regular expression for the full name.

        If `target_modules` is a list, `layers_to_transform` (one layer index or a list of indices)
        restricts the update to these layers. Modules that `target_modules` names by the full name
        are not restricted.

        Args:
            module: the module's name in `transformers`.
            is_linear: whether the module is a linear layer; if `target_modules` is `all-linear`, it
                names all of these.
        """
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
        matches = [re.match(rf"(?:^|.*?\.){each}\.(\d+)\.", module) for each in stacks]
        number = next((int(match[1]) for match in matches if match), None)
        return number in (layers if isinstance(layers, list) else [layers])

    def _pattern_value(self, module: str, patterns: str, default: Any) -> Any:
        for key, value in (self.values.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default


def is_simple(pattern: str) -> bool:
    """Returns whether a regular expression is simple enough to match any text quickly.

    The expressions come from untrusted files. A simple expression is valid, has at most 500
    characters and three quantifiers, and repeats no group or quantifier.
    """
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
    return None if is_off else "no field of this name, since Étude does not support it"


def _hint(field: str, value: object) -> str | None:
    if field == "init_lora_weights" and isinstance(value, str):
        return RESIDUAL
    if field == "peft_type":
        return "only LoRA adapters are supported"
    return None
