"""A released model's `config.json`: each field is used, known to be harmless, or refused."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from etude.errors import MISSING_VALUE, Problem, RequestError, nearest
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

log = logging.getLogger("etude.interop")

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

NEUTRAL = frozenset(
    (
        "_attn_implementation", "_name_or_path", "architectures", "attn_implementation",
        "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
        "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id", "dtype",
        "early_stopping", "eos_token_id", "finetuning_task", "forced_bos_token_id",
        "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_factor",
        "initializer_range", "init_std", "is_encoder_decoder", "keys_to_ignore_at_inference",
        "label2id",
        "length_penalty", "max_length", "max_new_tokens", "min_length", "model_type",
        "no_repeat_ngram_size", "num_beams", "num_labels", "output_attentions",
        "output_hidden_states", "output_past", "pad_token_id", "prefix", "pretraining_tp",
        "problem_type", "return_dict", "return_dict_in_generate", "sep_token_id",
        "suppress_tokens", "task_specific_params", "tokenizer_class", "torch_dtype",
        "torchscript", "transformers_version", "use_bfloat16", "use_cache",
    )
)  # fmt: skip
"""Fields of all families that change nothing in what a model computes from tokens."""

REFUSED: dict[str, tuple[object, ...]] = {
    "alibi": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "embedding_multiplier": (),
    "final_logit_softcapping": (),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "logits_scaling": (),
    "moe_intermediate_size": (),
    "n_routed_experts": (),
    "num_experts": (),
    "num_local_experts": (),
    "position_embedding_type": ("absolute",),
    "pruned_heads": ({},),
    "quantization_config": (),
    "residual_multiplier": (),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "use_sliding_window": (False,),
}
"""Fields of other families, or of variants, that do change it, and what they may say beside null.
A family that reads one decides itself."""


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
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RequestError(Problem(str(file), f"JSON ({error})")) from error
        if not isinstance(values, dict):
            raise RequestError(Problem(str(file), "a JSON object", values))
        return cls(values, str(file))

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
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
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
        for field, allowed in REFUSED.items():
            if field in self.values and field not in self.seen:
                self.only(field, *allowed)
        if self.problems:
            raise RequestError(self.problems)
        known = self.seen | NEUTRAL | REFUSED.keys()
        unknown = sorted(key for key, value in self.values.items() if value and key not in known)
        if unknown:
            log.info("%s: not known here and left aside: %s", self.where, ", ".join(unknown))


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def activation_name(part: object, choices: dict[str, type[nn.Module]]) -> str:
    """What a released config calls a feed-forward part; of one without a name, the first, which
    the comparison of all parts then tells apart.
    """
    return next((name for name, cls in choices.items() if type(part) is cls), next(iter(choices)))
