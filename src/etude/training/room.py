"""Refuses what this machine has no memory for, by formula, before anything is built.

A refusal rests on what a run cannot do without: weights and gradients, the vectors that blocks
keep for the backward pass, the tokens of a step. Where that leaves a doubt, the step is counted
operation by operation (`etude.models.cost`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from omegaconf import OmegaConf

from etude.config.checks import Checked
from etude.config.nodes import Node
from etude.errors import Problem, RequestError
from etude.models.cost import Uncountable
from etude.nn.memory import memory_of_machine
from etude.records.tables import size_of
from etude.training.build import Parts
from etude.training.counting import Parameters, cost_of, parameters_of
from etude.training.model import LABELS, lora_of, sized, stated_vocabulary
from etude.training.throughput import compute_dtype

_A_PROCESS, _A_WORKER = 256 * 2**20, 16 * 2**20
"""Bytes that each takes at least: libraries of its own, and what a forked one soon copies."""
_DOUBT = 0.25
"""The part of the memory from which on a step is counted operation by operation."""
_SURE = 0.7
"""The part of the counted activations that every task needs; some read few of the logits."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_room(checked: Checked, parts: Parts, vocabulary: int | None = None) -> None:
    """Compares what a run takes with the memory that there is.

    Args:
        vocabulary: the tokenizer's, once it is known.

    Raises:
        RequestError: names the keys, what they take, and what fits.
    """
    machine = memory_of_machine()
    if machine is None:
        return
    settings, data = parts.trainer, parts.data
    processes = settings.processes
    on_gpu = _on_gpu(settings)
    problems = [
        _too_many(key, count, each, machine, what)
        for key, count, each, what in (
            ("trainer.devices", processes - 1, _A_PROCESS, "processes"),
            ("data.workers", data.workers, _A_WORKER, "processes"),
        )
        if count * each > machine
    ]
    share = max(1, data.examples_per_step // processes)
    length = data.sequence_length
    if share * length * 8 * processes > machine:
        fits = machine // (length * 8)
        problems.append(
            Problem(
                "data.batch",
                f"at most {fits:,} examples of {length:,} tokens in a step, in {size_of(machine)}",
                data.examples_per_step,
                f"their ids alone take {size_of(share * length * 8 * processes)}",
            )
        )
    if problems:
        raise RequestError(problems)
    node = checked.nodes["model"]
    known = stated_vocabulary(checked) or vocabulary or data.stated_vocabulary or 1

    def build(few: Node) -> Any:
        return sized(few, known)

    found = parameters_of(node, build, lora_of(checked))
    lora, frozen = bool(checked.config.init_from.lora.rank), checked.config.init_from.freeze
    gradients = 0 if frozen and not lora else found.trained
    precision = settings.lightning["precision"]
    whole = precision.endswith("-true")
    width = compute_dtype(precision).itemsize if whole else 4
    weights = found.total * width
    device = _device_memory(machine, processes, on_gpu)
    trained = weights + gradients * width
    single = 4 * found.total  # in which it is made, in the machine's memory
    if trained > device or single > machine:
        there = device if trained > device else machine
        raise RequestError(_model_too_large(checked, found, known, there, max(trained, single)))
    micro = max(1, min(settings.micro_batch or share, share))
    inside = compute_dtype(precision).itemsize
    layers, dim = (_number(node, key) for key in ("layers", "dim"))
    kept = layers * dim * length * inside  # of an example, by each block
    if frozen:  # what lies below what is trained keeps nothing
        kept = 0
    left = device - trained
    if micro * kept > left:
        raise RequestError(_micro_too_large(micro, kept, length, left, device))
    logits = known * length * inside
    rough = 4 * weights + micro * (8 * kept + 3 * logits)
    if on_gpu or frozen or settings.compile or rough < _DOUBT * device:
        return
    options: dict[str, Any] = {
        "length": length,
        "dtype": compute_dtype(precision) if whole else torch.float32,
        "autocast": AUTOCAST.get(precision),
        "optimizer": parts.optimizer,
    }
    try:
        counted = cost_of(node, build, batch=micro, **options)
        if (least := counted.step_bytes - counted.activation_bytes) > device:
            raise RequestError(_model_too_large(checked, found, known, device, least))
        if _SURE * counted.activation_bytes > device - least:
            each = math.ceil(_SURE * counted.activation_bytes / micro)
            raise RequestError(_micro_too_large(micro, each, length, device - least, device))
    except Uncountable:
        return


def check_weights(checked: Checked, vocabulary: int, labels: int, elements: int | None) -> None:
    """Compares the model of a record with its weights, before it is built.

    Args:
        vocabulary: the tokenizer's.
        labels: how many the data had; 0 is none.
        elements: of all weights; None if they are not all that the model has. Then it must fit
            into the machine's memory.

    Raises:
        RequestError: the config's model is larger.
    """
    known = stated_vocabulary(checked) or vocabulary
    node = checked.nodes["model"]
    count = labels or LABELS
    found = parameters_of(node, lambda few: sized(few, known, count), lora_of(checked))
    machine = memory_of_machine()
    if elements is not None and found.total > elements:
        expected = f"a model of at most {elements:,} parameters, as many as its weights have"
        raise RequestError(Problem("model", expected, f"{found.total:,} parameters"))
    if machine is not None and 4 * found.total > machine:
        raise RequestError(_model_too_large(checked, found, known, machine, 4 * found.total))


def _on_gpu(settings: Any) -> bool:
    accelerator = settings.lightning["accelerator"]
    return accelerator != "cpu" and (torch.cuda.is_available() or accelerator == "mps")


def _device_memory(machine: int, processes: int, on_gpu: bool) -> int:
    """What one of the run's processes may take where it computes."""
    if not on_gpu:
        return machine // processes
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine


def _number(node: Node, key: str) -> int:
    value = node.arguments.get(key, 0)
    return value if isinstance(value, int) else 0


def _too_many(key: str, count: int, each: int, machine: int, what: str) -> Problem:
    expected = f"at most {machine // each:,} {what} in {size_of(machine)} of memory"
    return Problem(key, expected, count, f"{count:,} take at least {size_of(count * each)}")


def _model_too_large(
    checked: Checked, found: Parameters, vocabulary: int, device: int, needed: int
) -> Problem:
    """The key that takes most of the parameters, and what of it fits.

    Args:
        device: bytes that there are.
        needed: bytes that the parameters take, with what else is kept of each.
    """
    node, total, a_layer = checked.nodes["model"], found.total, found.a_layer
    each = needed / total
    layers, dim = _number(node, "layers"), _number(node, "dim")
    by_key = {
        "layers": layers * a_layer if a_layer * each <= device else 0,
        "dim": layers * a_layer if a_layer * each > device else 0,
        "vocab_size": vocabulary * dim,
        "max_length": _number(node, "max_length") * dim if "Learned" in str(node.arguments) else 0,
    }
    key = max(by_key, key=lambda name: by_key[name])
    hint = f"{total:,} parameters take {size_of(needed)}"
    if key == "layers" and (fits := int((device / each - total) / a_layer) + layers) > 0:
        hint += f"; {fits:,} layers fit"
    elif key in ("vocab_size", "max_length"):
        fits = int((device / each - (total - by_key[key])) / max(1, dim))
        hint += f"; {fits:,} fit" if fits > 0 else ""
    value = vocabulary if key == "vocab_size" else node.arguments.get(key)
    expected = f"a model that fits into {size_of(device)} of memory with its gradients"
    length = OmegaConf.select(checked.config, "data.sequence_length")
    where = "data.sequence_length" if key == "max_length" and value == length else f"model.{key}"
    return Problem(where, expected, value, hint)


def _micro_too_large(micro: int, each: int, length: int, left: int, device: int) -> Problem:
    """Activations of a micro-batch.

    Args:
        each: bytes of an example.
        left: bytes that the model leaves.
    """
    takes = f"{micro:,} of {length:,} tokens take {size_of(micro * each)}"
    expected = f"what fits into {size_of(device)} of memory beside the model"
    if (fits := left // each) > 0:
        hint = f"{takes}; trainer.micro_batch={fits} fits and changes no result"
        return Problem("trainer.micro_batch", expected, micro, hint)
    hint = f"one example takes {size_of(each)}; about {left * length // each:,} tokens fit"
    return Problem("data.sequence_length", expected, length, hint)
