"""Checks, before the model is built, that a run fits into the memory of this machine.

The check adds up what every run needs: weights and gradients, the activations that layers save for
the backward pass, and the tokens of a step. If the sum leaves open whether the run fits, the memory
of a step is counted operation by operation (`etude.models.cost`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from omegaconf import OmegaConf

from etude.config.checks import CheckedConfig
from etude.config.nodes import Node
from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.models.cost import Uncountable
from etude.nn.memory import memory_of_machine
from etude.records.text_tables import format_bytes
from etude.training.build import Parts
from etude.training.counting import ParameterCounts, count_cost, count_parameters
from etude.training.model import (
    PLACEHOLDER_LABELS,
    build_with_sizes,
    configured_vocabulary,
    lora_options,
)
from etude.training.throughput import compute_dtype

_PROCESS_BYTES, _WORKER_BYTES = 256 * 2**20, 16 * 2**20
"""Minimum memory of a process (its libraries) and of a forked worker (the pages it copies)."""
_COUNT_FROM = 0.25
"""If the estimated memory of a step exceeds this fraction of the available memory, the step is
counted operation by operation.
"""
_REQUIRED_ACTIVATIONS = 0.7
"""Fraction of the counted activations that every task needs; some tasks use few of the logits."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_memory(checked: CheckedConfig, parts: Parts, vocabulary: int | None = None) -> None:
    """Checks that the run fits into the available memory.

    Args:
        checked: Checked config of the run.
        parts: Objects of the run.
        vocabulary: Number of tokens of the tokenizer, used if `model.vocab_size` is not set. None
            before the data is prepared; the size that the config of the data states is then used,
            or 1 if it states none.

    Raises:
        RequestError: The run needs more memory; the message states the config keys, the required
            memory and a value that fits.
    """
    machine = memory_of_machine()
    if machine is None:
        return
    settings, data = parts.trainer, parts.data
    processes = settings.processes
    on_gpu = _on_gpu(settings)
    problems = [
        _too_many(key, count, bytes_each, machine)
        for key, count, bytes_each in (
            ("trainer.devices", processes, _PROCESS_BYTES),
            ("data.workers", data.workers, _WORKER_BYTES),
        )
        if count > 1 and count * bytes_each > machine
    ]
    share = max(1, data.examples_per_step // processes)
    length = data.sequence_length
    if share * length * 8 * processes > machine:
        fits = machine // (length * 8)
        problems.append(
            Problem(
                "data.batch",
                f"at most {counted(fits, 'example')} of {length:,} tokens "
                f"in {format_bytes(machine)} of memory",
                data.examples_per_step,
                "the token ids of the batch alone need "
                f"{format_bytes(share * length * 8 * processes)}",
            )
        )
    if problems:
        raise RequestError(problems)
    node = checked.nodes["model"]
    vocabulary_size = configured_vocabulary(checked) or vocabulary or data.stated_vocabulary or 1

    def build(small_node: Node) -> Any:
        return build_with_sizes(small_node, vocabulary_size)

    counts = count_parameters(node, build, lora_options(checked))
    lora, frozen = bool(checked.config.init_from.lora.rank), checked.config.init_from.freeze
    gradients = 0 if frozen and not lora else counts.trained
    precision = settings.lightning["precision"]
    is_pure = precision.endswith("-true")
    width = compute_dtype(precision).itemsize if is_pure else 4
    weights = counts.total * width
    device = _device_memory(machine, processes, on_gpu)
    trained = weights + gradients * width
    initial = 4 * counts.total  # initial weights, in single precision in the machine's memory
    if trained > device or initial > machine:
        limit = device if trained > device else machine
        raise RequestError(
            _model_too_large(checked, counts, vocabulary_size, limit, max(trained, initial))
        )
    micro = max(1, min(settings.micro_batch or share, share))
    activation_width = compute_dtype(precision).itemsize
    layers, dim = (_number(node, key) for key in ("layers", "dim"))
    saved = layers * dim * length * activation_width  # per example, over all blocks
    if frozen:  # blocks below the trained parameters save nothing
        saved = 0
    left = device - trained
    if micro * saved > left:
        if left < saved < trained:  # not even one example fits, because of the weights
            needed = trained + saved
            raise RequestError(_model_too_large(checked, counts, vocabulary_size, device, needed))
        raise RequestError(_micro_too_large(micro, saved, length, left, device))
    logits = vocabulary_size * length * activation_width
    estimate = 4 * weights + micro * (8 * saved + 3 * logits)
    if on_gpu or frozen or settings.compile or estimate < _COUNT_FROM * device:
        return
    options: dict[str, Any] = {
        "length": length,
        "dtype": compute_dtype(precision) if is_pure else torch.float32,
        "autocast": AUTOCAST.get(precision),
        "optimizer": parts.optimizer,
    }
    try:
        cost = count_cost(node, build, batch=micro, **options)
        if (least := cost.step_bytes - cost.activation_bytes) > device:
            raise RequestError(_model_too_large(checked, counts, vocabulary_size, device, least))
        if _REQUIRED_ACTIVATIONS * cost.activation_bytes > device - least:
            bytes_each = math.ceil(_REQUIRED_ACTIVATIONS * cost.activation_bytes / micro)
            raise RequestError(_micro_too_large(micro, bytes_each, length, device - least, device))
    except Uncountable:
        return


def check_model_size(
    checked: CheckedConfig, vocabulary: int, labels: int, elements: int | None
) -> None:
    """Checks, before the model of a saved run is built, that the model has no more parameters than
    the saved weights.

    Args:
        checked: Checked config of the saved run.
        vocabulary: Number of tokens of the tokenizer.
        labels: Number of labels of the data; 0 for none.
        elements: Number of elements of all weights; None if the saved weights are not complete, so
            that only the machine's memory limits the size of the model.

    Raises:
        RequestError: The model has more parameters than the saved weights, or it doesn't fit into
            the machine's memory.
    """
    vocabulary_size = configured_vocabulary(checked) or vocabulary
    node = checked.nodes["model"]
    count = labels or PLACEHOLDER_LABELS
    counts = count_parameters(
        node,
        lambda small_node: build_with_sizes(small_node, vocabulary_size, count),
        lora_options(checked),
    )
    machine = memory_of_machine()
    if elements is not None and counts.total > elements:
        expected = f"a model of at most {elements:,} parameters, the number in the saved weights"
        raise RequestError(Problem("model", expected, f"{counts.total:,} parameters"))
    if machine is not None and 4 * counts.total > machine:
        raise RequestError(
            _model_too_large(checked, counts, vocabulary_size, machine, 4 * counts.total)
        )


def _on_gpu(settings: Any) -> bool:
    accelerator = settings.lightning["accelerator"]
    return accelerator != "cpu" and (torch.cuda.is_available() or accelerator == "mps")


def _device_memory(machine: int, processes: int, on_gpu: bool) -> int:
    """Returns the memory in bytes that each process of the run has on its device.

    Args:
        machine: Memory of the machine in bytes.
        processes: Number of processes of the run.
        on_gpu: Whether the processes compute on GPUs.
    """
    if not on_gpu:
        return machine // processes
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine


def _number(node: Node, key: str) -> int:
    value = node.arguments.get(key, 0)
    return value if isinstance(value, int) else 0


def _too_many(key: str, count: int, bytes_each: int, machine: int) -> Problem:
    fitting = counted(machine // bytes_each, "process")
    expected = f"at most {fitting} in {format_bytes(machine)} of memory"
    hint = f"{count:,} processes need at least {format_bytes(count * bytes_each)}"
    return Problem(key, expected, count, hint)


def _model_too_large(
    checked: CheckedConfig, counts: ParameterCounts, vocabulary: int, device: int, needed: int
) -> Problem:
    """Returns a problem that names the config key that causes most of the parameters.

    Its hint suggests a value of this key with which the model fits, if there is one.

    Args:
        checked: Checked config of the run.
        counts: Numbers of parameters.
        vocabulary: Size of the vocabulary.
        device: Available memory in bytes.
        needed: Memory in bytes for the parameters, with gradients and optimizer state.
    """
    node, total, per_layer = checked.nodes["model"], counts.total, counts.per_layer
    bytes_each = needed / total
    layers, dim = _number(node, "layers"), _number(node, "dim")
    by_key = {
        "layers": layers * per_layer if per_layer * bytes_each <= device else 0,
        "dim": layers * per_layer if per_layer * bytes_each > device else 0,
        "vocab_size": vocabulary * dim,
        "max_length": _number(node, "max_length") * dim if "Learned" in str(node.arguments) else 0,
    }
    key = max(by_key, key=lambda name: by_key[name])
    hint = f"{total:,} parameters need {format_bytes(needed)}"
    if key == "layers" and (fits := int((device / bytes_each - total) / per_layer) + layers) > 0:
        hint += f"; up to {fits:,} layers can fit"
    elif key in ("vocab_size", "max_length"):
        fits = int((device / bytes_each - (total - by_key[key])) / max(1, dim))
        hint += f"; a value up to {fits:,} can fit" if fits > 0 else ""
    value = vocabulary if key == "vocab_size" else node.arguments.get(key)
    expected = f"a model that fits into {format_bytes(device)} of memory with its gradients"
    length = OmegaConf.select(checked.config, "data.sequence_length")
    where = "data.sequence_length" if key == "max_length" and value == length else f"model.{key}"
    return Problem(where, expected, value, hint)


def _micro_too_large(micro: int, bytes_each: int, length: int, left: int, device: int) -> Problem:
    """Returns a problem for a micro-batch whose activations don't fit into memory.

    Args:
        micro: Number of examples in a micro-batch.
        bytes_each: Memory in bytes that one example needs.
        length: Number of tokens in an example.
        left: Memory in bytes that remains for activations.
        device: Memory in bytes of the device.
    """
    memory = f"that fits into {format_bytes(device)} of memory with the model"
    if (fits := left // bytes_each) > 0:
        need = f"{micro:,} examples of {length:,} tokens need {format_bytes(micro * bytes_each)}"
        hint = f"{need}; trainer.micro_batch={fits} fits, with the same results"
        return Problem("trainer.micro_batch", f"a micro-batch {memory}", micro, hint)
    fitting = left * length // bytes_each
    hint = f"one example needs {format_bytes(bytes_each)}; about {fitting:,} tokens fit"
    return Problem("data.sequence_length", f"a sequence {memory}", length, hint)
