"""Builds the objects of a run (data, optimizer, ...) from its config, and reports all errors at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from etude.config.checks import CheckedConfig, InvalidConfig, check
from etude.config.nodes import Factory
from etude.errors import Problem, RequestError
from etude.loggers.base import Logger
from etude.nn.drawing import shapes_only
from etude.training.counting import build_addressable, with_layers
from etude.training.model import ANY_VOCABULARY, build_with_sizes, configured_vocabulary
from etude.training.requirements import BuiltParts, find_problems
from etude.training.trainer import Trainer

_QUICK_BYTES = 256 * 2**20


@dataclass
class Parts:
    """Objects of a run (data, optimizer, ...) that are built from its config before the data is
    prepared. The model depends on the prepared data and is built later.

    Attributes:
        data: Data module.
        optimizer: Object that builds the optimizer when it is called with the model.
        schedule: Schedule of the learning rate.
        trainer: Config of the training loop.
        task: Factory that builds the task when the model exists; its argument `setup` is the task's
            `Setup`.
        callbacks: The user's Lightning callbacks.
        loggers: The user's loggers by name.
    """

    data: Any
    optimizer: Any
    schedule: Any
    trainer: Trainer
    task: Factory
    callbacks: list[Any]
    loggers: dict[str, Logger]


def check_all(config: DictConfig) -> CheckedConfig:
    """Checks a config and returns the checked config; reports all errors together.

    `etude.config.checks.check` finds errors of keys and types. Only if there are such errors, the
    object of each config group without an error is built, too, so that errors of values, which its
    constructor finds, are reported together with the others. If the data is of a built-in class
    and its files are small, they are also checked then. Without such errors, `build_parts` finds
    the errors of values.

    Raises:
        RequestError: The config has errors; the exception contains all of them.
    """
    try:
        return check(config)
    except InvalidConfig as error:
        problems = list(error.problems)
        for key, node in error.sound.items():
            try:
                with shapes_only():
                    if key == "model":
                        build_addressable(
                            lambda small_node: build_with_sizes(small_node, ANY_VOCABULARY),
                            with_layers(node, 1),
                        )
                    else:
                        built = node.build()
                        # Data of a user's class may rely on `for_task`, which is not called here.
                        if key == "data" and node.is_ours and _is_quick_to_check(built):
                            built.check()
            except RequestError as refused:
                problems += refused.problems
        raise RequestError(problems) from error


def _is_quick_to_check(data: Any) -> bool:
    """Returns whether the files of a data module are small enough to report other errors with them.

    The files are read to check them. Other errors should not wait for a large corpus.
    """
    try:
        files = data.content_files() or []
    except RequestError:  # a missing file; the check reports it
        return True
    return sum(file.stat().st_size for file in files if file.is_file()) <= _QUICK_BYTES


def build_parts(checked: CheckedConfig, *, check_data: bool = False) -> Parts:
    """Builds the objects of a run, except the model, and checks that they are compatible.

    For these checks, a small model with one layer is built on the meta device. If the layers of the
    model follow a repeating pattern (`etude.models.kinds`), it has one repetition of the pattern.

    Args:
        checked: Checked config of the run.
        check_data: Whether to check that the data's files exist, too.

    Raises:
        RequestError: The config has errors; the exception contains the errors of all constructors,
            all incompatibilities between the objects and, if requested, the errors in the data's
            files.
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
    vocabulary = configured_vocabulary(checked) or ANY_VOCABULARY
    with shapes_only():
        small_node = with_layers(nodes["model"], 1)
        model = attempt(
            lambda: build_addressable(lambda node: build_with_sizes(node, vocabulary), small_node)
        )
    if parts["data"] is not None:
        parts["data"].model_vocabulary = configured_vocabulary(checked) or 0
    built = BuiltParts(checked, **parts, callbacks=callbacks, model=model)
    problems += find_problems(built)
    if check_data and built.data is not None and (not problems or _is_quick_to_check(built.data)):
        attempt(built.data.check)
    if problems:
        raise RequestError(problems)
    return Parts(**parts, callbacks=list(callbacks.values()), loggers=loggers)
