"""A released model's `config.json`: each field is used, known to be harmless, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from etude.errors import MISSING_VALUE, Problem, RequestError, is_real, nearest
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
        # who wrote it, and where it belongs
        "_commit_hash", "_name_or_path", "architectures", "auto_map", "finetuning_task",
        "is_llama_config", "language", "model_type", "name_or_path", "tokenizer_class",
        "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
        # how it is computed, to rounding
        "_attn_implementation_autoset", "_flash_attn_2_enabled", "chunk_size_feed_forward", "dtype",
        "gradient_checkpointing", "keys_to_ignore_at_inference", "output_attentions",
        "output_hidden_states", "output_past", "pretraining_tp", "return_dict", "torch_dtype",
        "torchscript", "use_bfloat16", "use_cache", "use_return_dict", "xla_device",
        # training, and heads' labels
        "_num_labels", "classifier_dropout", "id2label", "initializer_factor", "initializer_range",
        "init_std", "label2id", "num_labels", "problem_type", "summary_activation",
        "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "task_specific_params", "tf_legacy_loss", "tie_last_hidden_states",
        # defaults of generation, which a request states here; the ends of a text are read
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
"""Fields of all families that change nothing in what a model computes from tokens, whatever they
say: of `transformers`' PretrainedConfig, old and new, and of released models.
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
"""Fields of other families, or of variants, that do change it, and what they may say beside null.
A family that reads one decides itself. A field that is nowhere may only be off: null, false or
empty.
"""


class HFConfig:
    """A `config.json`: values by field, mistakes noted with the file's name.

    Args:
        values: the fields.
        where: the file, as messages name it.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self.problems: list[Problem] = []
        self.seen: set[str] = set()

    @classmethod
    def of(cls, folder: Path) -> HFConfig:
        """The one in a folder.

        Raises:
            RequestError: there is none, or it is no JSON object.
        """
        file = folder / NAME
        if not file.is_file():
            there = sorted(each.name for each in folder.iterdir())[:8] if folder.is_dir() else []
            hint = f"there is {', '.join(there)}" if there else None
            expected = f"a folder with {NAME} beside the weights"
            raise RequestError(Problem(str(folder), expected, hint=hint))
        return cls(read_object(file), str(file))

    def get(self, field: str, default: Any = None) -> Any:
        """A field's value; `default` where it is missing or null."""
        self.seen.add(field)
        value = self.values.get(field)
        return default if value is None else value

    def size(self, field: str, default: Any = REQUIRED) -> Any:
        """A positive whole number; `default`, which may be None, where it is missing or null."""
        value = self.get(field, default)
        if value is default and default is not REQUIRED:
            return value
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
        if not whole:
            shown = MISSING_VALUE if value is REQUIRED else value
            self.refuse(field, "a positive whole number", shown)
        return value if whole else 1

    def number(self, field: str, default: float) -> float:
        """A number of 0 or more."""
        value = self.get(field, default)
        if not is_number(value) or value < 0:
            self.refuse(field, "a number, 0 or more", value)
            return default
        return float(value)

    def token(self, field: str, default: int) -> int:
        """A token's id."""
        value = self.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.refuse(field, "a token's id", value)
            return default
        return value

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self.get(field, default)
        if not isinstance(value, bool):
            self.refuse(field, "true or false", value)
            return default
        return value

    def synonyms(self, fields: Mapping[str, str]) -> None:
        """Notes a problem with a field that says otherwise than the one of the same meaning.

        Args:
            fields: the field that is read, by the other name.
        """
        for other, field in fields.items():
            value = self.get(other)
            if value is not None and value != self.values.get(field):
                expected = f"what {field} says, {json.dumps(self.values.get(field))}"
                self.refuse(other, expected, value)

    def only(self, field: str, *values: object) -> None:
        """Notes a problem if the field is there and is none of `values`, nor null."""
        value = self.get(field)
        if value is not None and value not in values:
            said = " or ".join(json.dumps(each) for each in values) or "null"
            self.refuse(field, f"{said}: Étude has nothing else for this", value)

    def activation(
        self, field: str, default: str, choices: dict[str, type[nn.Module]], hidden: int | None
    ) -> Callable[..., nn.Module]:
        """A feed-forward part of that activation and width F."""
        name = self.get(field, default)
        if not isinstance(name, str) or name not in choices:
            self.refuse(field, "an activation that Étude has", name, nearest(str(name), choices))
            name = default
        return partial(choices[name], hidden=hidden)

    def refuse(
        self, field: str, expected: str, value: object = MISSING_VALUE, hint: str | None = None
    ) -> None:
        """Notes a problem with a field."""
        self.problems.append(Problem(f"{self.where}, {field}", expected, value, hint))

    def done(self) -> None:
        """Looks at the fields that nobody read, and raises what was noted.

        Raises:
            RequestError: all problems of this config.
        """
        for field in self.values.keys() - self.seen - INERT:
            allowed = ALLOWED.get(field)
            if allowed is not None:
                self.only(field, *allowed)
            elif not is_off(self.values[field]):
                expected = "a field that Étude knows: this one could change what is computed"
                hint = nearest(field, self.seen | INERT | ALLOWED.keys())
                self.refuse(field, expected, self.values[field], hint)
        if self.problems:
            raise RequestError(sorted(self.problems, key=lambda problem: problem.where))


def is_off(value: object) -> bool:
    """Whether a field that is not known says that what it is about is not there."""
    return value is None or value is False or value in ({}, [], "")


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return is_real(value) and math.isfinite(value)


def activation_name(part: object, choices: dict[str, type[nn.Module]]) -> str:
    """What a released config calls a feed-forward part; of one without a name, the first, which
    the comparison of all parts then tells apart.
    """
    return next((name for name, cls in choices.items() if type(part) is cls), next(iter(choices)))
