"""Compatibility checks between the objects of a run (data, model, optimizer, ...), one function per
rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from etude.config.checks import CheckedConfig
from etude.config.nodes import Factory
from etude.contracts.slots import CONTRACTS
from etude.errors import (
    InvalidArguments,
    Problem,
    RequestError,
    nearest,
    nearest_of,
    summarize_exception,
)
from etude.models.families import family_names, is_of_other_family, lacks_head
from etude.nn.drawing import shapes_only
from etude.optim.widths import unsupported_optimizer, widths_of
from etude.training.counting import with_layers
from etude.training.model import (
    ANY_VOCABULARY,
    build_with_sizes,
    configured_vocabulary,
    freeze,
    lora_options,
)
from etude.training.position_growth import sequence_length_problem

_ASSUMED_STEPS = 1000
"""Number of steps assumed for a run whose number of steps depends on the data."""
_MAX_NAMED_LAYERS = 10_000
"""Number of layers whose parameter names are compared with the patterns of `init_from.freeze`."""


@dataclass
class BuiltParts:
    """Objects that are built from a run's config, each under the name of its config group. If a
    constructor raised an error, the attribute is None.

    Attributes:
        checked: Checked config of the run.
        callbacks: Callbacks by their names in the config.
        task: Factory that builds the task from a model.
        model: Model on the meta device with one layer or, if different layers follow a repeating
            pattern (`etude.models.kinds`), with one repetition of the pattern.
    """

    checked: CheckedConfig
    data: Any
    optimizer: Any
    schedule: Any
    trainer: Any
    task: Factory | None
    callbacks: dict[str, Any]
    model: Any

    @property
    def task_class(self) -> Any:
        """Class of the task."""
        return self.checked.nodes["task"].constructor

    def class_of(self, path: str) -> str:
        """Returns the name of the class at a key path such as `model.mask`."""
        first, *rest = path.split(".")
        node = self.checked.nodes[first]
        for key in rest:
            node = node.arguments[key]
        return node.target.rpartition(".")[2]


Requirement = Callable[[BuiltParts], Iterator[Problem]]


def find_problems(built: BuiltParts) -> list[Problem]:
    """Returns a problem for each incompatibility between the objects of a run."""
    problems: list[Problem] = []
    for requirement in REQUIREMENTS:
        try:
            problems += requirement(built)
        except RequestError as refused:
            problems += refused.problems
    return problems or list(_task_fits(built))


def _sequences_fit_the_model(built: BuiltParts) -> Iterator[Problem]:
    if built.data is not None and built.model is not None:
        length = built.data.sequence_length
        if length > built.model.max_length:
            from_source = built.checked.config.init_from.source is not None
            yield sequence_length_problem(built.model, length, from_source=from_source)


def _task_fits(built: BuiltParts) -> Iterator[Problem]:
    if built.data is not None and built.model is not None:
        yield from built.task_class.misfits(built.model, built.data)


def _data_fit_the_trainer(built: BuiltParts) -> Iterator[Problem]:
    if built.data is not None and built.trainer is not None:
        yield from built.data.misfits(built.trainer.processes, built.trainer.max_epochs)


def _weights_are_averaged_once(built: BuiltParts) -> Iterator[Problem]:
    decay = getattr(built.trainer, "ema_decay", None)
    if decay is not None and getattr(built.optimizer, "averages", False):
        hint = f"{built.class_of('optimizer')} already averages the weights"
        yield Problem("trainer.ema_decay", "null", decay, hint)


def _mup_has_a_rule(built: BuiltParts) -> Iterator[Problem]:
    optimizer = built.optimizer
    in_mup = optimizer is not None and built.model is not None and widths_of(built.model)
    if in_mup and getattr(optimizer, "rule", None) is None:
        yield unsupported_optimizer("optimizer", type(optimizer).__name__)


def _frozen_names_are_there(built: BuiltParts) -> Iterator[Problem]:
    if built.model is not None:
        patterns, model = list(built.checked.config.init_from.freeze), built.model
        if patterns:  # they may match any layer
            node = with_layers(built.checked.nodes["model"], _MAX_NAMED_LAYERS)
            with shapes_only():
                model = build_with_sizes(
                    node, configured_vocabulary(built.checked) or ANY_VOCABULARY
                )
        freeze(model, patterns)
    yield from ()


def _monitors_are_metrics(built: BuiltParts) -> Iterator[Problem]:
    task = built.task_class
    for name, callback in built.callbacks.items():
        monitor = getattr(callback, "monitor", None)
        sections = () if built.data is None else built.data.section_names
        names = (*task.metric_names, *(f"val/{section}/loss" for section in sections))
        if monitor is not None and task.metric_names and monitor not in names:
            expected = f"a metric of {task.__name__}"
            hint = nearest(monitor, names)
            yield Problem(f"callbacks.{name}.monitor", expected, monitor, hint)
            continue
        mode, rises = getattr(callback, "mode", None), task.rises(str(monitor))
        if monitor is not None and rises is not None and mode == ("min" if rises else "max"):
            expected, hint = ("max", "higher") if rises else ("min", "lower")
            hint = f"{hint} values of {monitor} are better"
            yield Problem(f"callbacks.{name}.mode", expected, mode, hint)


def _measures_fit_the_model(built: BuiltParts) -> Iterator[Problem]:
    if built.model is not None:
        for name, callback in built.callbacks.items():
            for problem in getattr(callback, "misfits", lambda model: ())(built.model):
                yield problem.under(f"callbacks.{name}")


def _the_monitor_has_a_direction(built: BuiltParts) -> Iterator[Problem]:
    task = built.task_class
    stated = {} if built.task is None else built.task.arguments
    monitor = str(stated.get("monitor", task.monitor))
    if task.rises(monitor) is None:
        name = monitor.rpartition("/")[2]
        expected = "a metric with a known direction (higher or lower is better)"
        choice = f'more_is_better = ("{name}",) or less_is_better = ("{name}",)'
        computed = monitor in task.metric_names
        known = None if computed else nearest_of(monitor, task.metric_names)
        hint = known or f"set {choice} in the class {task.__name__}"
        yield Problem(task.monitor_key(), expected, monitor, hint)


def _model_fits_the_task(built: BuiltParts) -> Iterator[Problem]:
    task, model = built.task_class, built.model
    if is_of_other_family(model, task.models):
        names, choices = family_names(task.models)
        hint = f"set {choices}" if choices else None
        yield Problem("model", f"{names} for {task.__name__}", type(model).__name__, hint)
    elif lacks_head(model, task.head):
        have = None if model.head is None else type(model.head).__name__
        outputs = "the vocabulary" if task.head == "vocabulary" else task.head
        expected = f"a head that returns logits over {outputs}, for {task.__name__}"
        yield Problem("model.head", expected, have, f"set {_HEADS[task.head]}")
    elif model is not None and task.needs_causal_model and not model.mask.causal:
        expected = f"a causal mask, because {task.__name__} predicts the next tokens"
        hint = "set model/mask=causal; a causal mask of your own has the class attribute causal = "
        hint += "True"
        yield Problem("model.mask", expected, built.class_of("model.mask"), hint)


def _packed_texts_begin_anywhere(built: BuiltParts) -> Iterator[Problem]:
    if built.data is not None and built.data.pack and built.model is not None:
        for key, mask in getattr(built.model, "masks", {"mask": built.model.mask}).items():
            if not mask.everywhere:
                expected = "a mask that doesn't depend on the absolute position, because "
                expected += "data.pack=true places texts at any position"
                name = type(mask).__name__
                yield Problem(f"model.{key}", expected, name, "set data.pack=false")


def _data_fit_the_objective(built: BuiltParts) -> Iterator[Problem]:
    try:
        arguments = None if built.task is None else built.task.arguments
        objective = None if arguments is None else built.task_class.objective(**arguments)
        if built.data is not None:
            built.data.for_task(objective)
    except InvalidArguments as error:
        yield from (problem.under("task") for problem in error.problems)


def _schedule_gives_numbers(built: BuiltParts) -> Iterator[Problem]:
    if built.schedule is None or built.checked.nodes["schedule"].is_ours:
        return
    total = getattr(built.trainer, "max_steps", None) or _ASSUMED_STEPS
    expected = "a class whose instances return a finite number for (step, total steps)"
    for step in (0, total - 1):
        try:
            factor = built.schedule(step, total)
        except Exception as error:
            yield _contract_problem(built, "schedule", expected, summarize_exception(error))
            return
        is_number = isinstance(factor, Real) and not isinstance(factor, bool)
        if not is_number or not math.isfinite(factor):
            shown = str(factor) if is_number else type(factor).__name__
            hint = f"the instance returns {shown} at step {step} of {total}"
            yield _contract_problem(built, "schedule", expected, hint)
            return


def _recipe_makes_an_optimizer(built: BuiltParts) -> Iterator[Problem]:
    if built.optimizer is None or built.model is None or built.checked.nodes["optimizer"].is_ours:
        return
    try:
        optimizer = built.optimizer(built.model)
    except Exception:  # on the meta device the weights have no values, which it may need
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        expected = "a class whose instances return a torch.optim.Optimizer for a model"
        hint = f"the instance returns {type(optimizer).__name__}"
        yield _contract_problem(built, "optimizer", expected, hint)


def _low_rank_changes_are_possible(built: BuiltParts) -> Iterator[Problem]:
    lora_options(built.checked)
    yield from ()


def _can_be_written(built: BuiltParts) -> Iterator[Problem]:
    if built.checked.run.exportable and built.model is not None:
        from etude.interop.pretrained import check_writable

        check_writable(built.model, "run.exportable")
    yield from ()


REQUIREMENTS: tuple[Requirement, ...] = (
    _sequences_fit_the_model,
    _data_fit_the_trainer,
    _weights_are_averaged_once,
    _mup_has_a_rule,
    _frozen_names_are_there,
    _monitors_are_metrics,
    _measures_fit_the_model,
    _the_monitor_has_a_direction,
    _model_fits_the_task,
    _packed_texts_begin_anywhere,
    _data_fit_the_objective,
    _low_rank_changes_are_possible,
    _can_be_written,
    _schedule_gives_numbers,
    _recipe_makes_an_optimizer,
)


def _contract_problem(built: BuiltParts, slot: str, expected: str, hint: str) -> Problem:
    """Returns a problem which reports that the custom class at the config key `slot` lacks the
    interface that Étude requires there.

    Args:
        built: Objects of the run; its checked config contains the name of the class.
        slot: Config key of the class, such as `model`.
        expected: Description of the missing part of the interface.
        hint: Hint for the user; a reference to the documentation is added.
    """
    hint += f"; see {CONTRACTS[slot].page}"
    return Problem(f"{slot}._target_", expected, built.checked.nodes[slot].target, hint)


_HEADS = {
    "classes": "model/head=classification",
    "tags": "model/head=tagging",
    "vocabulary": "model/head=masked_lm",
}
