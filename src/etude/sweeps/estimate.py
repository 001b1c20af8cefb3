"""Estimation of the size of a run: parameters, tokens, FLOP, memory and time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from etude.config.checks import CheckedConfig
from etude.counts import counted
from etude.data.cache import NotBuilt, forbid_building
from etude.errors import Problem, RequestError
from etude.models.cost import Cost, Uncountable
from etude.records.signature import sha256_of
from etude.sweeps.speed import (
    EarlierRuns,
    Speed,
    StepTiming,
    device_of,
    is_measurable,
    speed_from_peak,
    time_steps,
)
from etude.training.build import Parts
from etude.training.counting import count_cost
from etude.training.memory_check import AUTOCAST
from etude.training.model import build_with_sizes, configured_vocabulary, unused_vocabulary_warning
from etude.training.run_folder import cache_folder
from etude.training.state import RunState
from etude.training.throughput import compute_dtype

_TYPICAL_VOCABULARY = 100  # of a character tokenizer


@dataclass
class RunSize:
    """Size of a run: its parameters, tokens, FLOP, memory and time.

    A value is None if it cannot be counted, or if it is unknown before the data is prepared.

    Attributes:
        parameters: number of parameters of the model.
        vocabulary: vocabulary size.
        about: whether the vocabulary size is a guess, so that all values that depend on it are
            estimates.
        steps: number of optimizer steps of the whole run.
        tokens_per_step: number of target tokens (tokens to predict) of an optimizer step; the
            maximum or an estimate if steps differ.
        tokens: number of target tokens of the run.
        flops: FLOP of the whole run; includes validation if the data is prepared.
        flops_left: FLOP of the remaining optimizer steps.
        cost: FLOP and memory of one micro-batch in one process.
        micro_batch: number of windows (token sequences) of a micro-batch.
        seconds_left: estimated seconds for the remaining optimizer steps.
        speed: training speed from which `seconds_left` is computed.
        notes: reasons for unknown values, and other remarks.
    """

    parameters: int | None = None
    vocabulary: int = 0
    about: bool = False
    steps: int | None = None
    tokens_per_step: int = 0
    tokens: int | None = None
    flops: float | None = None
    flops_left: float | None = None
    cost: Cost | None = None
    micro_batch: int = 0
    seconds_left: float | None = None
    speed: Speed | None = None
    notes: list[str] = field(default_factory=list)


class Estimator:
    """Estimator of the sizes of runs (parameters, FLOP, memory and time).

    The costs and timings that several runs share are computed only once.

    Args:
        measure: whether to time a few steps of a model if no earlier run has recorded its speed.
    """

    def __init__(self, *, measure: bool = True) -> None:
        self.measure = measure
        self._costs: dict[str, Cost | str] = {}
        self._timings: dict[str, StepTiming] = {}
        self._earlier: dict[Path, EarlierRuns] = {}
        self._prepared: dict[tuple[Any, Path], bool] = {}

    def size(self, checked: CheckedConfig, parts: Parts, state: RunState, group: str) -> RunSize:
        """Returns the size of one run: its parameters, tokens, FLOP, memory and time.

        Args:
            checked: checked config of the run.
            parts: objects built from the config: data, optimizer, schedule, trainer and task.
            state: state of the run: whether it would start, continue or be reused.
            group: hash that is the same for all runs that differ from this run only in their seed.
                Earlier runs with this hash give the best estimate of the speed.

        Raises:
            RequestError: If the prepared data is incompatible with the model or the batch size.
        """
        key = (parts.data, cache_folder(checked))
        if key not in self._prepared:
            self._prepared[key] = _is_prepared(*key)
        prepared = self._prepared[key]
        size = RunSize(tokens_per_step=parts.data.tokens_per_step)
        size.vocabulary, size.about = _vocabulary(checked, parts.data, prepared)
        if prepared and (
            unused := unused_vocabulary_warning(checked, parts.data.tokenizer_.vocab_size)
        ):
            size.notes.append(unused)
        size.steps = _steps(parts, prepared)
        if size.steps is not None:
            size.tokens = parts.data.tokens_in(0, size.steps)
        else:
            size.notes.append(
                "the number of steps is unknown until the data is prepared, because "
                "trainer.max_epochs is set"
            )
        size.micro_batch = _micro_batch(parts)
        cost = self._cost(checked, parts, size.vocabulary, size.micro_batch)
        if isinstance(cost, str):
            size.notes.append(cost)
            return size
        size.cost, size.parameters = cost, cost.parameters
        self._add_totals(size, checked, parts, state, prepared, group)
        return size

    def micro_batch(self, checked: CheckedConfig, parts: Parts) -> Cost | None:
        """Returns the FLOP and memory of a micro-batch of a run, whose data need not be prepared.

        None if FLOP and memory cannot be counted.
        """
        vocabulary, _ = _vocabulary(checked, parts.data, False)
        cost = self._cost(checked, parts, vocabulary, _micro_batch(parts))
        return None if isinstance(cost, str) else cost

    def _add_totals(
        self,
        size: RunSize,
        checked: CheckedConfig,
        parts: Parts,
        state: RunState,
        prepared: bool,
        group: str,
    ) -> None:
        """Adds FLOP and time of the whole run and of its remaining steps to `size`.

        Args:
            size: size of the run so far; changed in place.
            checked, parts, state, group: as for the method `size`.
            prepared: whether the data is prepared, so that the size of the validation split is
                known.
        """
        assert size.cost is not None
        if size.steps is None:
            return
        per_window = size.cost.positions  # of a micro-batch
        training = size.cost.training_flops / per_window
        interval = parts.trainer.validation_interval(size.steps)
        validation_tokens = parts.data.evaluated_tokens("val") if prepared else 0
        per_validation = validation_tokens * size.cost.forward_flops / per_window
        if not prepared:
            size.notes.append(
                "the estimate does not include validation, whose size is unknown until the data is "
                "prepared"
            )
        data = parts.data
        end = min(checked.run.stop_at_step or size.steps, size.steps)
        assert size.tokens is not None
        size.flops = size.tokens * training + per_validation * _validations(
            0, size.steps, size.steps, interval
        )
        if not state.works and state.kind != "held":
            size.flops_left = size.seconds_left = 0.0
            return
        tokens = data.tokens_in(state.step, max(state.step, end))
        validations_left = _validations(state.step, end, size.steps, interval)
        size.flops_left = tokens * training + per_validation * validations_left
        size.speed = self._speed(size, checked, parts, group, training)
        size.seconds_left = size.flops_left / (training * size.speed.tokens_per_second)

    def _cost(
        self, checked: CheckedConfig, parts: Parts, vocabulary: int, micro_batch: int
    ) -> Cost | str:
        """Returns the FLOP and memory of a micro-batch, or the reason why they cannot be counted.

        Args:
            checked, parts: as for the method `size`.
            vocabulary: vocabulary size of the model.
            micro_batch: number of windows of the micro-batch.
        """
        precision = parts.trainer.lightning["precision"]
        model, length = checked.nodes["model"], parts.data.sequence_length
        key = sha256_of(
            [
                model.canonical(),
                checked.nodes["optimizer"].canonical(),
                *(vocabulary, length, micro_batch, precision),
            ]
        )
        if key not in self._costs:
            is_true_precision = precision.endswith("-true")
            try:
                self._costs[key] = count_cost(
                    model,
                    lambda few: build_with_sizes(few, vocabulary),
                    length=length,
                    batch=micro_batch,
                    dtype=compute_dtype(precision) if is_true_precision else torch.float32,
                    autocast=AUTOCAST.get(precision),
                    optimizer=parts.optimizer,
                )
            except Uncountable as error:
                self._costs[key] = str(error)
        return self._costs[key]

    def _speed(
        self,
        size: RunSize,
        checked: CheckedConfig,
        parts: Parts,
        group: str,
        flops_per_token: float,
    ) -> Speed:
        """Returns the training speed of a run, from the first of three sources that is available.

        The sources are earlier runs, a few steps that are timed now, and the machine's peak.

        Args:
            size: size of the run.
            checked: checked config of the run.
            parts: objects built from the config.
            group: hash that is the same for all runs that differ only in their seed.
            flops_per_token: FLOP of training per target token (token to predict).
        """
        assert size.cost is not None
        settings = parts.trainer
        device = device_of(settings.lightning["accelerator"])
        root = Path(checked.run.root)
        earlier = self._earlier.setdefault(root, EarlierRuns(root))
        recorded = earlier.speed(checked, parts, size.vocabulary, group, device)
        precision = settings.lightning["precision"]
        if recorded is not None:
            return recorded
        if not self.measure or not is_measurable(size.cost, precision, device):
            return speed_from_peak(flops_per_token, precision, device, settings.processes)
        key = sha256_of(
            [
                checked.nodes["model"].canonical(),
                checked.nodes["optimizer"].target,
                *(size.vocabulary, parts.data.sequence_length, size.micro_batch, precision),
            ]
        )
        if key not in self._timings:
            self._timings[key] = time_steps(
                checked, parts, size.vocabulary, micro_batch=size.micro_batch, device=device
            )
        timing = self._timings[key]
        examples = parts.data.examples_per_step / settings.processes
        seconds = examples / size.micro_batch * timing.micro_batch + timing.optimizer
        if device.type == "cpu":  # processes share its cores
            seconds *= settings.processes
        count = torch.get_num_threads()
        threads = f", {counted(count, 'thread')}" if device.type == "cpu" else ""
        source = f"measured now in a few training steps on {device.type}{threads}"
        return Speed(size.tokens_per_step / seconds, source)


def _is_prepared(data: Any, cache: Path) -> bool:
    """Returns whether the folder `cache` contains the prepared data of a data module.

    If so, the function also opens the data, so that its sizes are known.

    Args:
        data: the data module.
        cache: folder of prepared data.

    Raises:
        RequestError: If the prepared data is damaged or incompatible with the config.
    """
    try:
        with forbid_building():
            data.prepare(cache)
    except NotBuilt:
        return False
    return True


def _micro_batch(parts: Parts) -> int:
    """Returns the number of windows of a micro-batch in each process."""
    examples = parts.data.examples_per_step // parts.trainer.processes
    return max(1, min(parts.trainer.micro_batch or examples, examples))


def _vocabulary(checked: CheckedConfig, data: Any, prepared: bool) -> tuple[int, bool]:
    """Returns the model's vocabulary size, and whether this size is a guess.

    The size is a guess only if the data is not `prepared`, and neither the config nor the data
    module `data` determines it.

    Raises:
        RequestError: If `model.vocab_size` is smaller than the prepared data's vocabulary.
    """
    stated = configured_vocabulary(checked)
    if prepared:
        size = data.tokenizer_.vocab_size
        if stated is not None and stated < size:
            hint = "set model.vocab_size=null to use the tokenizer's size"
            expected = f"at least {size}, the size of the tokenizer's vocabulary"
            raise RequestError(Problem("model.vocab_size", expected, stated, hint))
        return stated or size, False
    if stated is not None:
        return stated, False
    planned: int | None = data.stated_vocabulary
    return (_TYPICAL_VOCABULARY, True) if planned is None else (planned, False)


def _steps(parts: Parts, prepared: bool) -> int | None:
    settings = parts.trainer
    if settings.max_epochs is not None and not prepared:
        return None
    return settings.total_steps(parts.data.steps_per_epoch if prepared else 1.0)


def _validations(first: int, last: int, total: int, interval: int) -> int:
    """Returns the number of validations after step `first`, up to and including step `last`.

    Args:
        total: number of steps of the run, after which there is always a validation.
        interval: number of steps between validations.
    """
    count = last // interval - first // interval
    count += first < last == total and last % interval != 0  # the end is always validated
    return max(0, count)
