"""From a checked config to objects, with every constructor's complaints gathered first."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from omegaconf import DictConfig

from etude.config.checks import Checked, Unsound, check
from etude.config.nodes import Factory, Node
from etude.config.schema import LoRAOptions
from etude.errors import InvalidArguments, Problem, RequestError, nearest
from etude.loggers.base import Logger
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.regressor import Regressor
from etude.nn.drawing import DrawingFrom, shapes_only
from etude.nn.lora import LoRA, adapt
from etude.optim.widths import no_rule, widths_of
from etude.tasks.seeding import INITIALISATION, seed_for
from etude.training.counting import addressed, with_layers
from etude.training.growing import too_long
from etude.training.trainer import Trainer

_ANY_VOCABULARY = 300  # stands in for the tokenizer's until the data is prepared
_MOST_NAMED = 10_000
"""Layers that patterns of names are compared with."""
LABELS = 2  # likewise for the number of labels


@dataclass
class Parts:
    """What a config describes, before the data is prepared; the model is not built yet."""

    data: Any
    optimizer: Any
    schedule: Any
    trainer: Trainer
    task: Factory
    callbacks: list[Any]
    loggers: dict[str, Logger]


def check_all(config: DictConfig) -> Checked:
    """`etude.config.checks.check`; with its complaints come those of the constructors.

    Raises:
        RequestError: with every mistake in keys, types and values.
    """
    try:
        return check(config)
    except Unsound as error:
        problems = list(error.problems)
        for key, node in error.sound.items():
            try:
                with shapes_only():
                    if key == "model":
                        addressed(lambda few: sized(few, _ANY_VOCABULARY), with_layers(node, 1))
                    else:
                        node.build()
            except RequestError as refused:
                problems += refused.problems
        raise RequestError(problems) from error


def build_parts(checked: Checked) -> Parts:
    """Builds everything cheap, and one layer of the model, or one of each kind, without memory (on
    the meta device).

    Raises:
        RequestError: with all that the constructors refused and all that does not fit together.
    """
    nodes = checked.nodes
    problems: list[Problem] = []

    def attempt(node: Node, **given: Any) -> Any:
        try:
            return node.build(**given)
        except RequestError as error:
            problems.extend(error.problems)
            return None

    built = {
        key: attempt(nodes[key]) for key in ("data", "optimizer", "schedule", "trainer", "task")
    }
    callbacks = [attempt(node) for node in checked.callbacks.values()]
    loggers = {name: attempt(node) for name, node in checked.loggers.items()}
    for name, logger in loggers.items():
        if logger is not None and not isinstance(logger, Logger):
            found = checked.loggers[name].target
            problems.append(
                Problem(f"logger.{name}._target_", "a subclass of etude.loggers.base.Logger", found)
            )

    def build(node: Node) -> Any:
        return sized(node, stated_vocabulary(checked) or _ANY_VOCABULARY)

    with shapes_only():
        try:
            model = addressed(build, with_layers(nodes["model"], 1))
        except RequestError as error:
            problems.extend(error.problems)
            model = None
    if built["data"] is not None and model is not None:
        length, limit = built["data"].sequence_length, model.max_length
        if length > limit:
            begun = checked.config.init_from.source is not None
            problems.append(too_long(model, length, from_source=begun))
    if isinstance(model, Regressor):
        given = getattr(built["data"], "dimensions", None)
        if given is not None and given != model.inputs:
            expected = f"the {given} numbers at each place of the data"
            problems.append(Problem("model.inputs", expected, model.inputs))
    if built["data"] is not None and built["trainer"] is not None:
        examples, processes = built["data"].examples_per_step, built["trainer"].processes
        if built["data"].shares_exactly and examples % processes:
            expected = f"a multiple of the {processes} processes, in examples"
            problems.append(Problem("data.batch", expected, examples))
    decay = getattr(built["trainer"], "ema_decay", None)
    if decay is not None and getattr(built["optimizer"], "averages", False):
        expected = f"null: {nodes['optimizer'].target.rpartition('.')[2]} averages the weights"
        problems.append(Problem("trainer.ema_decay", expected, decay))
    optimizer = built["optimizer"]
    in_mup = optimizer is not None and model is not None and widths_of(model) is not None
    if in_mup and getattr(optimizer, "rule", None) is None:
        problems.append(no_rule("optimizer", type(optimizer).__name__))
    if model is not None:
        try:
            patterns = list(checked.config.init_from.freeze)
            whole = model
            if patterns:  # they may name any layer
                with shapes_only():
                    whole = build(with_layers(nodes["model"], _MOST_NAMED))
            freeze(whole, patterns)
        except RequestError as refused:
            problems += refused.problems
    task: Any = nodes["task"].constructor
    for name, callback in zip(checked.callbacks, callbacks, strict=True):
        monitor = getattr(callback, "monitor", None)
        sections = getattr(built["data"], "section_names", ())
        names = (*task.metric_names, *(f"val/{section}/loss" for section in sections))
        if monitor is not None and task.metric_names and monitor not in names:
            expected = f"a metric of {task.__name__}"
            hint = nearest(monitor, names)
            problems.append(Problem(f"callbacks.{name}.monitor", expected, monitor, hint))
    if isinstance(model, tuple(_KINDS)) and task.models and not isinstance(model, task.models):
        problems.append(_another_kind(model, task))
    elif isinstance(model, Encoder) and task.head not in (None, getattr(model.head, "gives", None)):
        have = None if model.head is None else type(model.head).__name__
        expected = f"a head that gives {task.head}, for {task.__name__}"
        problems.append(Problem("model.head", expected, have, _HEADS[task.head]))
    elif model is not None and task.needs_causal_model and not model.mask.causal:
        name = nodes["model"].arguments["mask"].target.rpartition(".")[2]
        expected = f"a mask that hides what follows: {task.__name__}'s targets are the next tokens"
        problems.append(Problem("model.mask", expected, name, "model/mask=causal"))
    if getattr(built["data"], "pack", False) and model is not None:
        for key, mask in getattr(model, "masks", {"mask": model.mask}).items():
            if not mask.everywhere:
                expected = (
                    "a mask that is the same wherever a text begins; data.pack puts it anywhere"
                )
                name = type(mask).__name__
                problems.append(Problem(f"model.{key}", expected, name, "data.pack=false"))
    try:
        objective = task.objective(**built["task"].arguments) if built["task"] else None
        if built["data"] is not None:
            built["data"].for_task(objective)
    except InvalidArguments as error:
        problems += [problem.under("task") for problem in error.problems]
    except RequestError as error:
        problems += error.problems
    try:
        lora_of(checked)
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)
    return Parts(**built, callbacks=callbacks, loggers=loggers)


_HEADS = {
    "classes": "model/head=classification",
    "tags": "model/head=tagging",
    "vocabulary": "model/head=masked_lm",
}
_KINDS = {
    Decoder: ("a decoder", "model=nano"),
    Encoder: ("an encoder", "model=encoder_nano"),
    EncoderDecoder: ("an encoder-decoder", "model=transformer_nano"),
    Regressor: ("a regressor", "model=regressor_nano"),
}


def _another_kind(model: Any, task: Any) -> Problem:
    """The model is of a kind that the task has no use for."""
    called = [_KINDS.get(kind, (kind.__name__, "")) for kind in task.models]
    expected = f"{' or '.join(name for name, _ in called)} for {task.__name__}"
    hint = " or ".join(choice for _, choice in called if choice)
    return Problem("model", expected, type(model).__name__, f"{hint}, or another")


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
    if "vocab_size" not in inspect.signature(node.constructor).parameters:
        return node.build()
    return node.build(vocab_size=vocabulary)


def _with_labels(model: Node, labels: int) -> Node:
    """The same with the number of labels where its head leaves it to the data."""
    head = model.arguments.get("head")
    if not isinstance(head, Node) or "labels" in head.arguments:
        return model
    if "labels" not in inspect.signature(head.constructor).parameters:
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
