"""From a checked config to objects, with every constructor's complaints gathered first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from etude.config.checks import Checked, Unsound, check
from etude.config.nodes import Factory
from etude.errors import Problem, RequestError
from etude.loggers.base import Logger
from etude.nn.drawing import shapes_only
from etude.training.counting import addressed, with_layers
from etude.training.model import ANY_VOCABULARY, sized, stated_vocabulary
from etude.training.requirements import Built, problems_of
from etude.training.trainer import Trainer


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
                        addressed(lambda few: sized(few, ANY_VOCABULARY), with_layers(node, 1))
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
    problems: list[Problem] = []

    def attempt(build: Callable[[], Any]) -> Any:
        try:
            return build()
        except RequestError as error:
            problems.extend(error.problems)
            return None

    nodes = checked.nodes
    names = ("data", "optimizer", "schedule", "trainer", "task")
    parts = {key: attempt(nodes[key].build) for key in names}
    callbacks = {name: attempt(node.build) for name, node in checked.callbacks.items()}
    loggers = {name: attempt(node.build) for name, node in checked.loggers.items()}
    vocabulary = stated_vocabulary(checked) or ANY_VOCABULARY
    with shapes_only():
        few = with_layers(nodes["model"], 1)
        model = attempt(lambda: addressed(lambda node: sized(node, vocabulary), few))
    built = Built(checked, **parts, callbacks=callbacks, model=model)
    problems += problems_of(built)
    if problems:
        raise RequestError(problems)
    return Parts(**parts, callbacks=list(callbacks.values()), loggers=loggers)
