"""The model that a config describes: its sizes, its weights, and what of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch

from etude.config.checks import Checked
from etude.config.nodes import Node
from etude.config.schema import LoRAOptions
from etude.errors import InvalidArguments, Problem, RequestError
from etude.nn.drawing import DrawingFrom
from etude.nn.lora import LoRA, adapt
from etude.tasks.seeding import INITIALISATION, seed_for

ANY_VOCABULARY = 300
"""Stands in for the tokenizer's until the data is prepared."""
LABELS = 2
"""Likewise for the number of labels."""


def stated_vocabulary(checked: Checked) -> int | None:
    """`model.vocab_size` as the config states it; None is the tokenizer's."""
    found = checked.nodes["model"].arguments.get("vocab_size")
    return found if isinstance(found, int) else None


def unused_rows(checked: Checked, tokens: int) -> str | None:
    """What a vocabulary of at least twice the tokenizer's means; None for a smaller one.

    Args:
        tokens: how many the tokenizer has; 0 where the data are numbers.
    """
    stated = stated_vocabulary(checked)
    if stated is None or not 0 < 2 * tokens <= stated:
        return None
    return (
        f"model.vocab_size={stated}: the tokenizer has {tokens:,} tokens, so {stated - tokens:,} "
        "rows of the embedding stand for none and are never trained (null takes the tokenizer's)"
    )


def model_of(checked: Checked, vocabulary: int, labels: int = LABELS) -> Any:
    """The model that a config describes, with what it leaves open filled in."""
    return sized(checked.nodes["model"], stated_vocabulary(checked) or vocabulary, labels)


def sized(model: Node, vocabulary: int, labels: int = LABELS) -> Any:
    """Built with the sizes that come from the data; what reads no tokens has no vocabulary."""
    node = _with_labels(model, labels)
    if not node.takes("vocab_size"):
        return node.build()
    return node.build(vocab_size=vocabulary)


def _with_labels(model: Node, labels: int) -> Node:
    """The same with the number of labels where its head leaves it to the data."""
    head = model.arguments.get("head")
    if not isinstance(head, Node) or "labels" in head.arguments:
        return model
    if not head.takes("labels"):
        return model
    head = replace(head, arguments={**head.arguments, "labels": labels})
    return replace(model, arguments={**model.arguments, "head": head})


def build_model(
    checked: Checked, vocabulary: int, labels: int = 0, *, generator: torch.Generator | None = None
) -> Any:
    """The model on the CPU, its weights drawn from the run's seed.

    Args:
        vocabulary: the tokenizer's size, used where the config says null; 0 where the data are
            numbers.
        labels: how many the data has, used likewise.
        generator: what the weights are drawn from; None is torch's own, which only the thread that
            trains may use. Both give the same weights.

    Raises:
        RequestError: the config states a vocabulary smaller than the tokenizer's, or another number
            of labels than the data's.
    """
    stated = stated_vocabulary(checked)
    if stated is not None and stated < vocabulary:
        raise RequestError(
            Problem(
                "model.vocab_size",
                f"at least the tokenizer's {vocabulary}",
                stated,
                "null takes the tokenizer's",
            )
        )
    head = checked.nodes["model"].arguments.get("head")
    named = head.arguments.get("labels", labels) if isinstance(head, Node) else labels
    if labels and named != labels:
        expected = f"the data's {labels}"
        raise RequestError(Problem("model.head.labels", expected, named, "null takes the data's"))
    seed = seed_for(checked.seed, INITIALISATION)
    if generator is not None:
        with DrawingFrom(generator.manual_seed(seed)):
            return _drawn(checked, vocabulary, labels)
    torch.manual_seed(seed)
    return _drawn(checked, vocabulary, labels)


def _drawn(checked: Checked, vocabulary: int, labels: int) -> Any:
    """The model with new weights, its frozen parameters and low-rank changes."""
    try:
        model = model_of(checked, vocabulary, labels or LABELS)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        expected = "sizes whose matrices can be addressed"
        raise RequestError(Problem("model", expected, hint=str(error).splitlines()[0])) from error
    freeze(model, list(checked.config.init_from.freeze))
    options = lora_of(checked)
    if options is not None:
        try:
            adapt(model, options)
        except InvalidArguments as error:
            raise RequestError(p.under("init_from.lora") for p in error.problems) from error
    return model


def lora_of(checked: Checked) -> LoRA | None:
    """The low-rank changes that a config asks for.

    Raises:
        RequestError: they cannot be; or nothing else says where the matrices are from.
    """
    start = checked.config.init_from
    if not start.lora.rank:
        usual = LoRAOptions()
        for key in ("alpha", "dropout", "targets"):
            if start.lora[key] != getattr(usual, key):
                hint = f"init_from.lora.{key} is stated, and without a rank there is no lora"
                raise RequestError(Problem("init_from.lora.rank", "a positive number", None, hint))
        return None
    problems = []
    if start.source is None:
        expected = "a source: the matrices that are changed stay as they are there"
        problems.append(Problem("init_from.source", expected, None))
    if start.freeze:
        hint = "low-rank changes freeze all else"
        problems.append(Problem("init_from.freeze", "none beside lora", list(start.freeze), hint))
    if problems:
        raise RequestError(problems)
    asked = start.lora
    try:
        return LoRA(asked.rank, asked.alpha, asked.dropout, tuple(asked.targets))
    except InvalidArguments as error:
        raise RequestError(p.under("init_from.lora") for p in error.problems) from error


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Lets the parameters whose names fit a pattern stay as they are.

    Raises:
        RequestError: a pattern fits none, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    problems: list[Problem] = []
    for pattern in patterns:
        if pattern == "body":
            fitting = {name for name in names if not name.startswith("head.")}
        else:
            fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            hint = f"such as {names[0]} or {names[-1]}"
            expected = "a pattern that fits a parameter's name"
            problems.append(Problem("init_from.freeze", expected, pattern, hint))
        frozen |= fitting
    if patterns and len(frozen) == len(names):
        expected = "a pattern that leaves something to train"
        problems.append(Problem("init_from.freeze", expected, list(patterns)))
    if problems:
        raise RequestError(problems)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
