"""From a checked config to objects, with every constructor's complaints gathered first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from etude.config.checks import Checked, Unsound, check
from etude.config.nodes import Factory, Node
from etude.errors import Problem, RequestError, nearest
from etude.loggers.base import Logger
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.tasks.seeding import INITIALISATION, seed_for
from etude.training.trainer import Trainer

_ANY_VOCABULARY = 300  # stands in for the tokenizer's until the data is prepared


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
            given = {"vocab_size": _ANY_VOCABULARY} if key == "model" else {}
            try:
                with torch.device("meta"):
                    node.build(**given)
            except RequestError as refused:
                problems += refused.problems
        raise RequestError(problems) from error


def build_parts(checked: Checked) -> Parts:
    """Builds everything cheap, and the model without memory (on the meta device).

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
    with torch.device("meta"):
        model = attempt(nodes["model"], vocab_size=stated_vocabulary(checked) or _ANY_VOCABULARY)
    if built["data"] is not None and model is not None:
        length, limit = built["data"].sequence_length, model.max_length
        if length > limit:
            problems.append(
                Problem(
                    "data.sequence_length",
                    f"at most the model's max_length, {limit}",
                    length,
                    f"model.max_length={length} makes room",
                )
            )
    if built["data"] is not None and built["trainer"] is not None:
        examples, processes = built["data"].examples_per_step, built["trainer"].processes
        if examples % processes:
            expected = f"a multiple of the {processes} processes, in examples"
            problems.append(Problem("data.batch", expected, examples))
    task: Any = nodes["task"].constructor
    for name, callback in zip(checked.callbacks, callbacks, strict=True):
        monitor = getattr(callback, "monitor", None)
        sections = getattr(built["data"], "section_names", ())
        names = (*task.metric_names, *(f"val/{section}/loss" for section in sections))
        if monitor is not None and task.metric_names and monitor not in names:
            expected = f"a metric of {task.__name__}"
            hint = nearest(monitor, names)
            problems.append(Problem(f"callbacks.{name}.monitor", expected, monitor, hint))
    if isinstance(model, Encoder | EncoderDecoder) and task.needs_causal_model:
        kind = type(model).__name__
        expected = f"a decoder: {task.__name__} predicts the next token of one text"
        problems.append(Problem("model", expected, kind, "model=nano, or another decoder"))
    elif model is not None and task.needs_causal_model and not model.mask.causal:
        name = nodes["model"].arguments["mask"].target.rpartition(".")[2]
        expected = f"a mask that hides what follows: {task.__name__}'s targets are the next tokens"
        problems.append(Problem("model.mask", expected, name, "model/mask=causal"))
    if problems:
        raise RequestError(problems)
    return Parts(**built, callbacks=callbacks, loggers=loggers)


def stated_vocabulary(checked: Checked) -> int | None:
    """`model.vocab_size` as the config states it; None is the tokenizer's."""
    found = checked.nodes["model"].arguments.get("vocab_size")
    return found if isinstance(found, int) else None


def build_model(checked: Checked, vocabulary: int) -> Any:
    """The model on the CPU, its weights drawn from the run's seed.

    Args:
        vocabulary: the tokenizer's size, used where the config says null.

    Raises:
        RequestError: the config states a vocabulary smaller than the tokenizer's.
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
    torch.manual_seed(seed_for(checked.seed, INITIALISATION))
    try:
        return checked.nodes["model"].build(vocab_size=stated or vocabulary)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        expected = "sizes whose matrices can be addressed"
        raise RequestError(Problem("model", expected, hint=str(error).splitlines()[0])) from error
