"""What the parts of a run require of each other, each rule a function of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from etude.config.checks import Checked
from etude.config.nodes import Factory
from etude.contracts.slots import CONTRACTS
from etude.errors import InvalidArguments, Problem, RequestError, described, nearest
from etude.models.families import called, misses_head, of_another
from etude.nn.drawing import shapes_only
from etude.optim.widths import no_rule, widths_of
from etude.training.counting import with_layers
from etude.training.growing import too_long
from etude.training.model import ANY_VOCABULARY, freeze, lora_of, sized, stated_vocabulary

_SOME_STEPS = 1000
"""Of a run whose length depends on the data."""
_MOST_NAMED = 10_000
"""Layers that patterns of names are compared with."""


@dataclass
class Built:
    """The parts of a run as far as they could be built; None where a constructor refused.

    Attributes:
        model: of one layer, or one of each kind, without memory.
    """

    checked: Checked
    data: Any
    optimizer: Any
    schedule: Any
    trainer: Any
    task: Factory | None
    callbacks: dict[str, Any]
    model: Any

    @property
    def kind_of_task(self) -> Any:
        """The task's class."""
        return self.checked.nodes["task"].constructor

    def class_of(self, path: str) -> str:
        """The name of the class that a node names, such as `model.mask`."""
        first, *rest = path.split(".")
        node = self.checked.nodes[first]
        for key in rest:
            node = node.arguments[key]
        return node.target.rpartition(".")[2]


Requirement = Callable[[Built], Iterator[Problem]]


def problems_of(built: Built) -> list[Problem]:
    """All that does not fit together."""
    found: list[Problem] = []
    for requirement in REQUIREMENTS:
        try:
            found += requirement(built)
        except RequestError as refused:
            found += refused.problems
    return found or list(_task_fits(built))


def _sequences_fit_the_model(built: Built) -> Iterator[Problem]:
    if built.data is not None and built.model is not None:
        length = built.data.sequence_length
        if length > built.model.max_length:
            begun = built.checked.config.init_from.source is not None
            yield too_long(built.model, length, from_source=begun)


def _task_fits(built: Built) -> Iterator[Problem]:
    if built.data is not None and built.model is not None:
        yield from built.kind_of_task.misfits(built.model, built.data)


def _data_fit_the_trainer(built: Built) -> Iterator[Problem]:
    if built.data is not None and built.trainer is not None:
        yield from built.data.misfits(built.trainer.processes, built.trainer.max_epochs)


def _weights_are_averaged_once(built: Built) -> Iterator[Problem]:
    decay = getattr(built.trainer, "ema_decay", None)
    if decay is not None and getattr(built.optimizer, "averages", False):
        expected = f"null: {built.class_of('optimizer')} averages the weights"
        yield Problem("trainer.ema_decay", expected, decay)


def _mup_has_a_rule(built: Built) -> Iterator[Problem]:
    optimizer = built.optimizer
    in_mup = optimizer is not None and built.model is not None and widths_of(built.model)
    if in_mup and getattr(optimizer, "rule", None) is None:
        yield no_rule("optimizer", type(optimizer).__name__)


def _frozen_names_are_there(built: Built) -> Iterator[Problem]:
    if built.model is not None:
        patterns, model = list(built.checked.config.init_from.freeze), built.model
        if patterns:  # they may name any layer
            node = with_layers(built.checked.nodes["model"], _MOST_NAMED)
            with shapes_only():
                model = sized(node, stated_vocabulary(built.checked) or ANY_VOCABULARY)
        freeze(model, patterns)
    yield from ()


def _monitors_are_metrics(built: Built) -> Iterator[Problem]:
    task = built.kind_of_task
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
            which = "more" if rises else "less"
            expected = f"{'max' if rises else 'min'}: {which} of {monitor} is better"
            yield Problem(f"callbacks.{name}.mode", expected, mode)


def _the_monitor_has_a_direction(built: Built) -> Iterator[Problem]:
    task = built.kind_of_task
    stated = {} if built.task is None else built.task.arguments
    monitor = str(stated.get("monitor", task.monitor))
    if task.rises(monitor) is None:
        name = monitor.rpartition("/")[2]
        expected = "a metric of which it is known whether more or less is better"
        hint = f'{task.__name__} can state more_is_better = ("{name}",), or less_is_better'
        yield Problem("task.monitor", expected, monitor, hint)


def _model_fits_the_task(built: Built) -> Iterator[Problem]:
    task, model = built.kind_of_task, built.model
    if of_another(model, task.models):
        names, choices = called(task.models)
        hint = f"{choices}, or another"
        yield Problem("model", f"{names} for {task.__name__}", type(model).__name__, hint)
    elif misses_head(model, task.head):
        have = None if model.head is None else type(model.head).__name__
        expected = f"a head that gives {task.head}, for {task.__name__}"
        yield Problem("model.head", expected, have, _HEADS[task.head])
    elif model is not None and task.needs_causal_model and not model.mask.causal:
        expected = f"a mask that hides what follows: {task.__name__}'s targets are the next tokens"
        yield Problem("model.mask", expected, built.class_of("model.mask"), "model/mask=causal")


def _packed_texts_begin_anywhere(built: Built) -> Iterator[Problem]:
    if built.data is not None and built.data.pack and built.model is not None:
        for key, mask in getattr(built.model, "masks", {"mask": built.model.mask}).items():
            if not mask.everywhere:
                expected = "a mask that is the same wherever a text begins; data.pack puts it "
                expected += "anywhere"
                name = type(mask).__name__
                yield Problem(f"model.{key}", expected, name, "data.pack=false")


def _data_fit_the_objective(built: Built) -> Iterator[Problem]:
    try:
        arguments = None if built.task is None else built.task.arguments
        objective = None if arguments is None else built.kind_of_task.objective(**arguments)
        if built.data is not None:
            built.data.for_task(objective)
    except InvalidArguments as error:
        yield from (problem.under("task") for problem in error.problems)


def _schedule_gives_numbers(built: Built) -> Iterator[Problem]:
    if built.schedule is None or built.checked.nodes["schedule"].is_ours:
        return
    total = getattr(built.trainer, "max_steps", None) or _SOME_STEPS
    expected = "a class whose objects return a finite number for a step and the total"
    for step in (0, total - 1):
        try:
            factor = built.schedule(step, total)
        except Exception as error:
            yield _misfit(built, "schedule", expected, described(error))
            return
        number = isinstance(factor, Real) and not isinstance(factor, bool)
        if not number or not math.isfinite(factor):
            shown = str(factor) if number else type(factor).__name__
            yield _misfit(built, "schedule", expected, f"{shown} at step {step} of {total}")
            return


def _recipe_makes_an_optimizer(built: Built) -> Iterator[Problem]:
    if built.optimizer is None or built.model is None or built.checked.nodes["optimizer"].is_ours:
        return
    try:
        made = built.optimizer(built.model)
    except Exception:  # the model has no values here, which it may have looked at
        return
    if not isinstance(made, torch.optim.Optimizer):
        expected = "a class whose objects return a torch.optim.Optimizer for a model"
        yield _misfit(built, "optimizer", expected, f"{type(made).__name__} is returned")


def _low_rank_changes_are_possible(built: Built) -> Iterator[Problem]:
    lora_of(built.checked)
    yield from ()


def _can_be_written(built: Built) -> Iterator[Problem]:
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
    _the_monitor_has_a_direction,
    _model_fits_the_task,
    _packed_texts_begin_anywhere,
    _data_fit_the_objective,
    _low_rank_changes_are_possible,
    _can_be_written,
    _schedule_gives_numbers,
    _recipe_makes_an_optimizer,
)


def _misfit(built: Built, slot: str, expected: str, hint: str) -> Problem:
    """A class of the user's does not do what its place asks for."""
    hint += f"; see {CONTRACTS[slot].page}"
    return Problem(f"{slot}._target_", expected, built.checked.nodes[slot].target, hint)


_HEADS = {
    "classes": "model/head=classification",
    "tags": "model/head=tagging",
    "vocabulary": "model/head=masked_lm",
}
