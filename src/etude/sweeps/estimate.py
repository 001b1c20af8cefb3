"""How large a run is: parameters, tokens, operations, memory, time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from etude.config.checks import Checked
from etude.data.cache import NotBuilt, only_looking
from etude.errors import Problem, RequestError
from etude.models.cost import Cost, Uncountable
from etude.records.signature import sha256_of
from etude.sweeps.speed import (
    EarlierRuns,
    Speed,
    Trial,
    can_be_tried,
    device_of,
    of_the_peak,
    try_out,
)
from etude.training.build import Parts
from etude.training.counting import cost_of
from etude.training.model import sized, stated_vocabulary, unused_rows
from etude.training.place import cache_folder
from etude.training.room import AUTOCAST
from etude.training.state import State
from etude.training.throughput import compute_dtype

_TYPICAL_VOCABULARY = 100  # of characters, where nothing is known yet


@dataclass
class Size:
    """What a run takes; None where it is not known before the data is prepared, or countable.

    Attributes:
        parameters: of the model.
        vocabulary: of its tokens.
        about: the vocabulary is guessed, and so all that follows from it.
        steps: optimizer steps of the whole run.
        tokens_per_step: targets; the most, or about, where steps differ.
        tokens: targets of the whole run.
        flops: of the whole run, validations included where the data is prepared.
        flops_left: of what is still to do.
        cost: of one micro-batch in one process.
        micro_batch: windows in it.
        seconds_left: for what is still to do.
        speed: what that is reckoned from.
        notes: what could not be found out, and why.
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
    """Sizes of runs; what several have in common is found out once.

    Args:
        measure: try out a few steps where no earlier run says how fast they are.
    """

    def __init__(self, *, measure: bool = True) -> None:
        self.measure = measure
        self._costs: dict[str, Cost | str] = {}
        self._trials: dict[str, Trial] = {}
        self._earlier: dict[Path, EarlierRuns] = {}
        self._prepared: dict[tuple[Any, Path], bool] = {}

    def size(self, checked: Checked, parts: Parts, state: State, group: str) -> Size:
        """The size of one run.

        Args:
            state: where it stands.
            group: its group, whose earlier runs are the best to go by.

        Raises:
            RequestError: the prepared data does not fit the model or the batch.
        """
        place = (parts.data, cache_folder(checked))
        if place not in self._prepared:
            self._prepared[place] = _is_prepared(*place)
        prepared = self._prepared[place]
        size = Size(tokens_per_step=parts.data.tokens_per_step)
        size.vocabulary, size.about = _vocabulary(checked, parts.data, prepared)
        if prepared and (unused := unused_rows(checked, parts.data.tokenizer_.vocab_size)):
            size.notes.append(unused)
        size.steps = _steps(parts, prepared)
        if size.steps is not None:
            size.tokens = parts.data.tokens_in(0, size.steps)
        else:
            size.notes.append("the number of steps is known after preparation: trainer.max_epochs")
        size.micro_batch = _micro_batch(parts)
        found = self._cost(checked, parts, size.vocabulary, size.micro_batch)
        if isinstance(found, str):
            size.notes.append(found)
            return size
        size.cost, size.parameters = found, found.parameters
        self._reckon(size, checked, parts, state, prepared, group)
        return size

    def micro_batch(self, checked: Checked, parts: Parts) -> Cost | None:
        """What one micro-batch takes, before the data is prepared; None if it cannot be counted."""
        vocabulary, _ = _vocabulary(checked, parts.data, False)
        found = self._cost(checked, parts, vocabulary, _micro_batch(parts))
        return None if isinstance(found, str) else found

    def _reckon(
        self,
        size: Size,
        checked: Checked,
        parts: Parts,
        state: State,
        prepared: bool,
        group: str,
    ) -> None:
        assert size.cost is not None
        if size.steps is None:
            return
        per_window = size.cost.positions  # of a micro-batch
        training = size.cost.training_flops / per_window
        interval = parts.trainer.validation_interval(size.steps)
        validated = parts.data.evaluated_tokens("val") if prepared else 0
        once = validated * size.cost.forward_flops / per_window  # of one validation
        if not prepared:
            size.notes.append("validation is not counted: its tokens are known after preparation")
        data = parts.data
        end = min(checked.run.stop_at_step or size.steps, size.steps)
        assert size.tokens is not None
        size.flops = size.tokens * training + once * _validations(
            0, size.steps, size.steps, interval
        )
        if not state.works and state.kind != "held":
            size.flops_left = size.seconds_left = 0.0
            return
        tokens = data.tokens_in(state.step, max(state.step, end))
        left = _validations(state.step, end, size.steps, interval)
        size.flops_left = tokens * training + once * left
        size.speed = self._speed(size, checked, parts, group, training)
        size.seconds_left = size.flops_left / (training * size.speed.tokens_per_second)

    def _cost(
        self, checked: Checked, parts: Parts, vocabulary: int, micro_batch: int
    ) -> Cost | str:
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
            whole = precision.endswith("-true")
            try:
                self._costs[key] = cost_of(
                    model,
                    lambda few: sized(few, vocabulary),
                    length=length,
                    batch=micro_batch,
                    dtype=compute_dtype(precision) if whole else torch.float32,
                    autocast=AUTOCAST.get(precision),
                    optimizer=parts.optimizer,
                )
            except Uncountable as error:
                self._costs[key] = str(error)
        return self._costs[key]

    def _speed(
        self, size: Size, checked: Checked, parts: Parts, group: str, flops_per_token: float
    ) -> Speed:
        assert size.cost is not None
        settings = parts.trainer
        device = device_of(settings.lightning["accelerator"])
        root = Path(checked.run.root)
        earlier = self._earlier.setdefault(root, EarlierRuns(root))
        found = earlier.speed(checked, parts, size.vocabulary, group, device)
        precision = settings.lightning["precision"]
        if found is not None:
            return found
        if not self.measure or not can_be_tried(size.cost, precision, device):
            return of_the_peak(flops_per_token, precision, device, settings.processes)
        key = sha256_of(
            [
                checked.nodes["model"].canonical(),
                checked.nodes["optimizer"].target,
                *(size.vocabulary, parts.data.sequence_length, size.micro_batch, precision),
            ]
        )
        if key not in self._trials:
            self._trials[key] = try_out(
                checked, parts, size.vocabulary, micro_batch=size.micro_batch, device=device
            )
        trial = self._trials[key]
        share = parts.data.examples_per_step / settings.processes
        seconds = share / size.micro_batch * trial.micro_batch + trial.optimizer
        if device.type == "cpu":  # processes share its cores
            seconds *= settings.processes
        count = torch.get_num_threads()
        threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
        source = f"measured now, a few steps on {device.type}{threads}"
        return Speed(size.tokens_per_step / seconds, source)


def _is_prepared(data: Any, cache: Path) -> bool:
    """Opens the prepared data if it is in the cache; whether it is.

    Raises:
        RequestError: it is there and does not fit the config, or is broken.
    """
    try:
        with only_looking():
            data.prepare(cache)
    except NotBuilt:
        return False
    return True


def _micro_batch(parts: Parts) -> int:
    """Windows in one, of each process."""
    share = parts.data.examples_per_step // parts.trainer.processes
    return max(1, min(parts.trainer.micro_batch or share, share))


def _vocabulary(checked: Checked, data: Any, prepared: bool) -> tuple[int, bool]:
    """The model's vocabulary, and whether it is a guess."""
    stated = stated_vocabulary(checked)
    if prepared:
        found = data.tokenizer_.vocab_size
        if stated is not None and stated < found:
            hint = "null takes the tokenizer's"
            expected = f"at least the tokenizer's {found}"
            raise RequestError(Problem("model.vocab_size", expected, stated, hint))
        return stated or found, False
    if stated is not None:
        return stated, False
    asked: int | None = data.stated_vocabulary
    return (_TYPICAL_VOCABULARY, True) if asked is None else (asked, False)


def _steps(parts: Parts, prepared: bool) -> int | None:
    settings = parts.trainer
    if settings.max_epochs is not None and not prepared:
        return None
    return settings.total_steps(parts.data.steps_per_epoch if prepared else 1.0)


def _validations(first: int, last: int, total: int, interval: int) -> int:
    """How many there are after the step `first`, up to `last`."""
    found = last // interval - first // interval
    found += first < last == total and last % interval != 0  # the end is always validated
    return max(0, found)
