"""Builds the model of a config: its sizes, initial weights and frozen parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch

from etude.config.checks import CheckedConfig
from etude.config.nodes import Node
from etude.config.schema import LoRAOptions
from etude.errors import InvalidArguments, Problem, RequestError
from etude.nn.drawing import DrawingFrom
from etude.nn.lora import LoRA, adapt
from etude.tasks.seeding import INITIALISATION, seed_for

ANY_VOCABULARY = 300
"""Placeholder for the size of the vocabulary until the data is prepared."""
PLACEHOLDER_LABELS = 2
"""Placeholder for the number of labels until the data is prepared."""


def configured_vocabulary(checked: CheckedConfig) -> int | None:
    """Returns `model.vocab_size` of the config; None means the tokenizer's size."""
    size = checked.nodes["model"].arguments.get("vocab_size")
    return size if isinstance(size, int) else None


def unused_vocabulary_warning(checked: CheckedConfig, tokens: int) -> str | None:
    """Returns a warning if `model.vocab_size` is at least twice the tokenizer's size, otherwise
    None.

    Args:
        checked: Checked config of the run.
        tokens: Number of tokens of the tokenizer; 0 if the data are numbers.
    """
    stated = configured_vocabulary(checked)
    if stated is None or not 0 < 2 * tokens <= stated:
        return None
    return (
        f"model.vocab_size={stated}: the tokenizer has {tokens:,} tokens, so {stated - tokens:,} "
        "rows of the embedding are unused and never trained (set model.vocab_size=null to use the "
        "tokenizer's size)"
    )


def build_model_from_config(
    checked: CheckedConfig, vocabulary: int, labels: int = PLACEHOLDER_LABELS
) -> Any:
    """Builds the model of a config, with new weights. Unlike `build_model`, does not set the seed,
    check the sizes, freeze parameters or add adapters.

    Args:
        checked: Checked config of the run.
        vocabulary: Size of the vocabulary, used if `model.vocab_size` is null.
        labels: Number of labels, used if `model.head.labels` is null.
    """
    return build_with_sizes(
        checked.nodes["model"], configured_vocabulary(checked) or vocabulary, labels
    )


def build_with_sizes(model: Node, vocabulary: int, labels: int = PLACEHOLDER_LABELS) -> Any:
    """Builds a model whose vocabulary size and number of labels are those of the data.

    Args:
        model: Config node of the model: its class and arguments.
        vocabulary: Size of the vocabulary, which replaces a `vocab_size` of the node; ignored for a
            model that reads no tokens.
        labels: Number of labels, used if the node of the head doesn't set it.
    """
    node = _with_labels(model, labels)
    if not node.takes("vocab_size"):
        return node.build()
    return node.build(vocab_size=vocabulary)


def _with_labels(model: Node, labels: int) -> Node:
    """Returns a model's config node (its class and arguments) with the head's number of labels.

    It is set to `labels` if the head has such an argument and the config sets it to null.
    """
    head = model.arguments.get("head")
    if not isinstance(head, Node) or "labels" in head.arguments:
        return model
    if not head.takes("labels"):
        return model
    head = replace(head, arguments={**head.arguments, "labels": labels})
    return replace(model, arguments={**model.arguments, "head": head})


def build_model(
    checked: CheckedConfig,
    vocabulary: int,
    labels: int = 0,
    *,
    generator: torch.Generator | None = None,
) -> Any:
    """Builds the model on the CPU, with initial weights drawn from the run's seed.

    Args:
        checked: Checked config of the run.
        vocabulary: Number of tokens of the tokenizer, used if `model.vocab_size` is null; 0 if the
            data are numbers.
        labels: Number of labels of the data, used if `model.head.labels` is null; 0 for data
            without labels.
        generator: Random number generator for the weights; None uses torch's global generator,
            which only the training thread may use. The weights are the same in both cases.

    Raises:
        RequestError: The config's vocabulary is smaller than the tokenizer's, or its number of
            labels differs from the data's.
    """
    stated = configured_vocabulary(checked)
    if stated is not None and stated < vocabulary:
        raise RequestError(
            Problem(
                "model.vocab_size",
                f"at least the tokenizer's {vocabulary} tokens",
                stated,
                "set model.vocab_size=null to use the tokenizer's size",
            )
        )
    head = checked.nodes["model"].arguments.get("head")
    labels_of_head = head.arguments.get("labels", labels) if isinstance(head, Node) else labels
    if labels and labels_of_head != labels:
        expected = f"the number of labels in the data, {labels}"
        hint = "set model.head.labels=null to use the number in the data"
        raise RequestError(Problem("model.head.labels", expected, labels_of_head, hint))
    seed = seed_for(checked.seed, INITIALISATION)
    if generator is not None:
        with DrawingFrom(generator.manual_seed(seed)):
            return _build_initialised(checked, vocabulary, labels)
    torch.manual_seed(seed)
    return _build_initialised(checked, vocabulary, labels)


def _build_initialised(checked: CheckedConfig, vocabulary: int, labels: int) -> Any:
    """Builds the model with new weights, freezes parameters and adds low-rank adapters."""
    try:
        model = build_model_from_config(checked, vocabulary, labels or PLACEHOLDER_LABELS)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        expected = "tensors smaller than 2**63 bytes"
        raise RequestError(Problem("model", expected, hint=str(error).splitlines()[0])) from error
    freeze(model, list(checked.config.init_from.freeze))
    options = lora_options(checked)
    if options is not None:
        try:
            adapt(model, options)
        except InvalidArguments as error:
            raise RequestError(p.under("init_from.lora") for p in error.problems) from error
    return model


def lora_options(checked: CheckedConfig) -> LoRA | None:
    """Returns the options of the config's low-rank adaptation; None if it has none.

    Raises:
        RequestError: The options are invalid, or `init_from.source`, the model to adapt, is not
            set.
    """
    start = checked.config.init_from
    if not start.lora.rank:
        defaults = LoRAOptions()
        for key in ("alpha", "dropout", "targets"):
            if start.lora[key] != getattr(defaults, key):
                hint = f"init_from.lora.{key} is set, but LoRA needs a rank"
                raise RequestError(Problem("init_from.lora.rank", "a positive number", None, hint))
        return None
    problems = []
    if start.source is None:
        expected = "a run or pretrained model, to which init_from.lora adds adapters"
        problems.append(Problem("init_from.source", expected, None))
    if start.freeze:
        expected, hint = "[] with init_from.lora", "LoRA already freezes all other parameters"
        problems.append(Problem("init_from.freeze", expected, list(start.freeze), hint))
    if problems:
        raise RequestError(problems)
    options = start.lora
    try:
        return LoRA(options.rank, options.alpha, options.dropout, tuple(options.targets))
    except InvalidArguments as error:
        raise RequestError(p.under("init_from.lora") for p in error.problems) from error


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Freezes those parameters of a model whose names match at least one of the patterns.

    Args:
        model: The model.
        patterns: Shell patterns of parameter names; `body` matches all parameters outside the head.
            Without patterns, nothing is frozen.

    Raises:
        RequestError: A pattern matches no parameter, or no parameter is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    problems: list[Problem] = []
    for pattern in patterns:
        if pattern == "body":
            matching = {name for name in names if not name.startswith("head.")}
        else:
            matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            hint = f"such as {names[0]} or {names[-1]}"
            expected = "a pattern that matches a parameter name"
            problems.append(Problem("init_from.freeze", expected, pattern, hint))
        frozen |= matching
    if patterns and len(frozen) == len(names):
        expected = "patterns that leave at least one parameter to train"
        problems.append(Problem("init_from.freeze", expected, list(patterns)))
    if problems:
        raise RequestError(problems)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
