"""Tables of the metadata keys of GGUF files, and their checks.

Étude reads some keys of a file, and ignores keys that have no effect on the logits. Keys of
unsupported features must have the value that turns the feature off. Any other key raises an error
that names the key.

The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and `gguf.constants.Keys`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from etude.errors import Problem

FIELDS: dict[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
"""The field in `config.json` of each GGUF key, without the key's prefix `llama.` or `qwen3.`."""
REQUIRED = tuple(FIELDS)[:7]

READ = frozenset(
    (
        *FIELDS, "attention.scale", "attention.value_length", "rope.dimension_count",
        "rope.scale_linear", "rope.scaling.factor", "rope.scaling.type", "vocab_size",
    )
)  # fmt: skip
"""The keys that `etude.interop.gguf` reads, without the prefix `llama.` or `qwen3.`."""

INERT = (
    r"GGUF\..*",  # the header, as the package lists it
    r"general\.(?!type$).*",  # names, licences, sampling; the architecture is checked apart
    r"mradermacher\..*",
    r"quantize\.imatrix\..*",
    r"split\.(no|tensors\.count)",
    r"tokenizer\..*",  # no effect on the weights; see `TOKENIZER_READ`
    r"{arch}\.pooling_type",
    r"{arch}\.rope\.scaling\.(finetuned|original_context_length)",
)
"""Patterns of keys without an effect on the logits."""

ONLY: dict[str, tuple[object, ...]] = {
    "general.type": ("model",),
    "split.count": (0, 1),
    "{arch}.attention.causal": (True,),
    "{arch}.attention.clamp_kqv": (0,),
    "{arch}.attention.max_alibi_bias": (0,),
    "{arch}.attention.output_scale": (0, 1),
    "{arch}.attention.sliding_window": (0,),
    "{arch}.attn_logit_softcapping": (0,),
    "{arch}.embedding_scale": (0, 1),
    "{arch}.expert_count": (0,),
    "{arch}.expert_used_count": (0,),
    "{arch}.final_logit_softcapping": (0,),
    "{arch}.leading_dense_block_count": (0,),
    "{arch}.logit_scale": (0, 1),
    "{arch}.nextn_predict_layers": (0,),
    "{arch}.residual_scale": (0, 1),
    "{arch}.rope.scaling.attn_factor": (1,),
    "{arch}.rope.scaling.yarn_log_multiplier": (0,),
    # The order of the rows of queries and keys; both names mean the order that llama.cpp writes.
    "{arch}.tensor_data_layout": ("reference", "Meta AI original pth"),
    "{arch}.use_parallel_residual": (False,),
}
"""Keys that can change the logits, each with the values that do not change them.

A key that is in none of these tables must be false or empty.
"""

TOKENIZER_READ = (
    "tokenizer.chat_template",
    *(f"tokenizer.ggml.{each}" for each in (
        "add_bos_token", "bos_token_id", "eom_token_id", "eos_token_id", "eot_token_id", "merges",
        "model", "padding_token_id", "pre", "token_type", "tokens",
    )),
)  # fmt: skip
TOKENIZER_INERT = (
    r"tokenizer\.chat_templates?(\..*)?",
    r"tokenizer\.ggml\.(fim_\w+|prefix|suffix|middle)_token_id",
    r"tokenizer\.ggml\.(unknown|seperator|separator|mask|cls)_token_id",
    r"tokenizer\.ggml\.scores",  # of SentencePiece; a byte-level tokenizer uses the merges
)
TOKENIZER_ONLY: dict[str, tuple[object, ...]] = {
    "tokenizer.ggml.add_eos_token": (False,),
    "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.add_space_prefix": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,),
}
"""Keys that can change a text's tokens, each with the values that do not change them."""


def unknown_keys(
    keys: Iterable[str], value: Callable[[str], Any], architecture: str, where: str
) -> list[Problem]:
    """Returns a problem for each unsupported metadata key that could change the logits.

    Keys of the tokenizer are not checked here; see `unknown_tokenizer_keys`.

    Args:
        keys: the metadata keys of the file.
        value: a function that gets a key of `keys` and returns its value.
        architecture: the prefix of the model's keys, such as `llama`.
        where: the file's name in messages.
    """
    read = {f"{architecture}.{key}" for key in READ}
    inert = tuple(each.replace("{arch}", architecture) for each in INERT)
    only = {key.replace("{arch}", architecture): allowed for key, allowed in ONLY.items()}
    return _refused_keys((key for key in keys if key not in read), value, inert, only, where)


def unknown_tokenizer_keys(
    keys: Iterable[str], value: Callable[[str], Any], where: str
) -> list[Problem]:
    """Returns a problem for each unsupported metadata key that could change a text's tokens.

    Only keys that begin with `tokenizer.` are checked. For the arguments, see `unknown_keys`.
    """
    unread = (key for key in keys if key.startswith("tokenizer.") and key not in TOKENIZER_READ)
    return _refused_keys(unread, value, TOKENIZER_INERT, TOKENIZER_ONLY, where)


def invalid_tokenizer_values(value: Callable[[str], Any], where: str) -> list[Problem]:
    """Returns a problem for each tokenizer value that has a wrong type or is an invalid token id.

    Args:
        value: a function that returns the value of a metadata key, or None if it is missing.
        where: the file's name in messages.
    """
    texts = value("tokenizer.ggml.tokens")
    count = len(texts) if isinstance(texts, list) else 0
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "tokens": ("a list of texts", lambda v: _is_list_of(v, str)),
        "merges": ("a list of texts", lambda v: _is_list_of(v, str)),
        "token_type": (
            "a list of whole numbers, one per token",
            lambda v: _is_list_of(v, int) and len(v) == count,
        ),
        "add_bos_token": ("true or false", lambda v: isinstance(v, bool)),
        **{
            f"{each}_token_id": (
                "a token id",
                lambda v: type(v) is int and 0 <= v < (count or v + 1),
            )
            for each in ("bos", "eos", "eot", "eom")
        },
    }
    keys = {f"tokenizer.ggml.{key}": check for key, check in checks.items()}
    return [
        Problem(f"{where}, {key}", expected, actual)
        for key, (expected, is_valid) in keys.items()
        if (actual := value(key)) is not None and not is_valid(actual)
    ]


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


def _refused_keys(
    keys: Iterable[str],
    value: Callable[[str], Any],
    inert: tuple[str, ...],
    only: dict[str, tuple[object, ...]],
    where: str,
) -> list[Problem]:
    problems = []
    for key in keys:
        if any(re.fullmatch(pattern, key) for pattern in inert):
            continue
        actual, allowed = value(key), only.get(key)
        if allowed is None:
            if actual is not False and actual not in ([], ""):
                expected, hint = (
                    "a key that Étude supports",
                    "an unknown key could change the model",
                )
                problems.append(Problem(f"{where}, {key}", expected, actual, hint))
        elif not any(actual == each for each in allowed):
            values = " or ".join(str(each) for each in allowed)
            plural = "s" if len(allowed) > 1 else ""
            expected = f"{values}, the only supported value{plural}"
            problems.append(Problem(f"{where}, {key}", expected, actual))
    return problems
