"""Reading and checking of the `config.json` of a released model.

Some fields of the config are read, and others are known to have no effect. Any other field raises
an error that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from etude.errors import MISSING_VALUE, Problem, RequestError, is_real, nearest, nearest_of
from etude.interop.json_file import read_object
from etude.nn.feedforward import (
    GEGLU,
    GELU,
    GEGLUTanh,
    GELUTanh,
    ReLU,
    SiLU,
    SquaredReLU,
    SwiGLU,
)

NAME = "config.json"
REQUIRED = object()

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu_new": GELUTanh,
    "gelu_pytorch_tanh": GELUTanh,
    "gelu_fast": GELUTanh,
    "gelu": GELU,
    "gelu_python": GELU,
    "relu": ReLU,
    "relu2": SquaredReLU,
    "silu": SiLU,
    "swish": SiLU,
}
GATED: dict[str, type[nn.Module]] = {
    "silu": SwiGLU,
    "swish": SwiGLU,
    "gelu": GEGLU,
    "gelu_new": GEGLUTanh,
    "gelu_pytorch_tanh": GEGLUTanh,
}

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
INERT = frozenset(
    (
        # metadata
        "_commit_hash", "_name_or_path", "architectures", "auto_map", "finetuning_task",
        "is_llama_config", "language", "model_type", "name_or_path", "tokenizer_class",
        "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
        # implementation, which changes rounding only
        "_attn_implementation_autoset", "_flash_attn_2_enabled", "chunk_size_feed_forward", "dtype",
        "gradient_checkpointing", "keys_to_ignore_at_inference", "output_attentions",
        "output_hidden_states", "output_past", "pretraining_tp", "return_dict", "torch_dtype",
        "torchscript", "use_bfloat16", "use_cache", "use_return_dict", "xla_device",
        # training, and the labels of heads
        "_num_labels", "classifier_dropout", "id2label", "initializer_factor", "initializer_range",
        "init_std", "label2id", "num_labels", "problem_type", "summary_activation",
        "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "task_specific_params", "tf_legacy_loss", "tie_last_hidden_states",
        # defaults of generation, which Étude's options replace; the stop tokens are used
        "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id",
        "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
        "eos_token_id", "exponential_decay_length_penalty", "forced_bos_token_id",
        "forced_eos_token_id", "is_encoder_decoder", "length_penalty", "max_length",
        "max_new_tokens", "max_sequence_length", "min_length", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "pad_token_id",
        "prefix", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
        "sep_token_id", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
    )
)  # fmt: skip
"""Fields that, for all families and all values, have no effect on the logits.

They come from old and new versions of PretrainedConfig in `transformers`, and from released models.
"""

ALLOWED: dict[str, tuple[object, ...]] = {
    "_attn_implementation": ATTENTION,
    "_attn_implementation_internal": ATTENTION,
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_multiplier": (),
    "attn_implementation": ATTENTION,
    "attn_logit_softcapping": (),
    "embedding_multiplier": (),
    "final_logit_softcapping": (),
    "is_decoder": (False,),
    "logits_scaling": (),
    "moe_intermediate_size": (),
    "n_routed_experts": (),
    "num_experts": (),
    "num_local_experts": (),
    "partial_rotary_factor": (1, 1.0),
    "per_layer_config": ({},),
    "position_embedding_type": ("absolute",),
    "pruned_heads": ({},),
    "quantization_config": (),
    "residual_multiplier": (),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "tie_encoder_decoder": (False,),
    "use_sliding_window": (False,),
}
"""Fields that affect the logits, each with the values that are allowed in addition to null.

If a family reads a field, the family checks the field instead. A field that is in none of these
tables must be null, false or empty.
"""


class HFConfig:
    """The fields of a `config.json`, with methods that check them and collect the problems.

    Args:
        values: dict from each field to its value.
        where: the file's name in messages.

    Attributes:
        problems: the problems found so far; `done` raises them.
        seen: names of the fields that a method has read.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self.problems: list[Problem] = []
        self.seen: set[str] = set()

    @classmethod
    def of(cls, folder: Path) -> HFConfig:
        """Reads the `config.json` in a folder.

        Raises:
            RequestError: the file is missing, or not a JSON object.
        """
        file = folder / NAME
        if not file.is_file():
            names = sorted(each.name for each in folder.iterdir())[:8] if folder.is_dir() else []
            hint = f"the folder contains {', '.join(names)}" if names else None
            expected = f"a folder with {NAME} and weights"
            raise RequestError(Problem(str(folder), expected, hint=hint))
        return cls(read_object(file), str(file))

    def get(self, field: str, default: Any = None) -> Any:
        """Returns a field's value; `default` if it is missing or null."""
        self.seen.add(field)
        value = self.values.get(field)
        return default if value is None else value

    def size(self, field: str, default: Any = REQUIRED) -> Any:
        """Returns the positive integer in a field, or `default` if the field is missing or null.

        Adds a problem, and returns 1, if the value is invalid, or if the field is missing and has
        no default.
        """
        value = self.get(field, default)
        if value is default and default is not REQUIRED:
            return value
        is_size = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
        if not is_size:
            actual = MISSING_VALUE if value is REQUIRED else value
            self.refuse(field, "a positive whole number", actual)
        return value if is_size else 1

    def number(self, field: str, default: float) -> float:
        """Returns the non-negative number in a field, or `default` if the field is missing or null.

        Adds a problem, and returns `default`, if the value is invalid.
        """
        value = self.get(field, default)
        if not is_number(value) or value < 0:
            self.refuse(field, "a number of at least 0", value)
            return default
        return float(value)

    def token(self, field: str, default: int) -> int:
        """Returns the token id in a field, or `default` if the field is missing or null.

        Adds a problem, and returns `default`, if the value is not a whole number of at least 0.
        """
        value = self.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.refuse(field, "a token id", value)
            return default
        return value

    def flag(self, field: str, default: bool) -> bool:
        """Returns the boolean in a field, or `default` if the field is missing or null.

        Adds a problem, and returns `default`, if the value is invalid.
        """
        value = self.get(field, default)
        if not isinstance(value, bool):
            self.refuse(field, "true or false", value)
            return default
        return value

    def synonyms(self, fields: Mapping[str, str]) -> None:
        """Adds a problem for each pair of synonymous fields that have different values.

        Args:
            fields: dict from the name of each synonym to the name of the field that is read. A
                synonym that is missing or null is not compared.
        """
        for other, field in fields.items():
            value = self.get(other)
            if value is not None and value != self.values.get(field):
                expected = f"the value of {field}, {json.dumps(self.values.get(field))}"
                self.refuse(other, expected, value)

    def only(self, field: str, *values: object) -> None:
        """Adds a problem unless a field is missing, null, or equal to one of `values`."""
        value = self.get(field)
        if value is not None and value not in values:
            allowed = " or ".join(json.dumps(each) for each in values) or "null"
            plural = "s" if len(values) > 1 else ""
            self.refuse(field, f"{allowed}, the only supported value{plural}", value)

    def activation(
        self, field: str, default: str, choices: dict[str, type[nn.Module]], hidden: int | None
    ) -> Callable[..., nn.Module]:
        """Returns a factory of the feed-forward module whose activation the field `field` names.

        The factory is the class in `choices`, with the argument `hidden` set; it is called with the
        class's other arguments. An unsupported activation adds a problem; the factory is then that
        of `default`.

        Args:
            default: the name of the activation if the field is missing or null.
            choices: dict from the name of each supported activation to its feed-forward class.
            hidden: the hidden width; None for the default of the class.
        """
        name = self.get(field, default)
        if not isinstance(name, str) or name not in choices:
            self.refuse(field, f"one of {', '.join(choices)}", name, nearest_of(str(name), choices))
            name = default
        return partial(choices[name], hidden=hidden)

    def refuse(
        self, field: str, expected: str, value: object = MISSING_VALUE, hint: str | None = None
    ) -> None:
        """Adds a problem with a field to `problems`.

        Args:
            field: the name of the field.
            expected: description of a valid value.
            value: the value in the config, for the message; omitted if the field is missing.
            hint: what the user can do; None for no hint.
        """
        self.problems.append(Problem(f"{self.where}, {field}", expected, value, hint))

    def done(self) -> None:
        """Checks the fields that no method has read, and raises the collected problems.

        Raises:
            RequestError: the config has problems; the message lists all of them.
        """
        for field in self.values.keys() - self.seen - INERT:
            allowed = ALLOWED.get(field)
            if allowed is not None:
                self.only(field, *allowed)
            elif not is_off(self.values[field]):
                expected = "a field that Étude supports"
                hint = nearest(field, self.seen | INERT | ALLOWED.keys())
                hint = hint or "an unknown field could change the logits"
                self.refuse(field, expected, self.values[field], hint)
        if self.problems:
            raise RequestError(sorted(self.problems, key=lambda problem: problem.where))


def is_off(value: object) -> bool:
    """Returns whether a value is null, false, or an empty text, list or dict; 0 is not off.

    An unknown field with such a value does not change the model.
    """
    return value is None or value is False or value in ({}, [], "")


def is_number(value: object) -> bool:
    """Returns whether a value is a finite number and not a boolean."""
    return is_real(value) and math.isfinite(value)


def activation_name(part: object, choices: dict[str, type[nn.Module]]) -> str:
    """Returns the name that the activation of a feed-forward module has in `config.json`.

    If `choices` does not contain the module's class, returns the first name. A later comparison of
    the module with a model of this activation then reports the difference.

    Args:
        part: the feed-forward module.
        choices: dict from each activation name to its feed-forward class.
    """
    return next((name for name, cls in choices.items() if type(part) is cls), next(iter(choices)))
