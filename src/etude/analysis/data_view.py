"""Description of a run's data, and of the batch of its first step, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from etude.data.objective import IGNORE
from etude.data.view import truncate


def show_lines(data: Any, *, examples: int, seed: int) -> Iterator[str]:
    """Yields the lines that `etude data show` prints about a data module.

    Args:
        data: prepared data module.
        examples: number of examples of the data to show. As many examples from the start of the
            first training step are shown, too.
        seed: seed of the run, which determines the examples of the first step.
    """
    yield from data.described(examples)
    yield from _first_step_lines(data, examples, seed)


def _first_step_lines(data: Any, count: int, seed: int) -> Iterator[str]:
    data.attach(seed=seed, micro_batch=None, total_steps=1)
    (micro,) = next(iter(data.train_dataloader()))
    yield ""
    yield f"first optimizer step with seed {seed}:"
    yield from batch_lines(data, micro, count)


def batch_lines(data: Any, micro: Any, count: int) -> Iterator[str]:
    """Yields lines about a batch: the shapes of its arrays, and its first examples with targets.

    Args:
        data: prepared data module.
        micro: the batch, a dict of arrays.
        count: number of examples to describe.
    """
    for name, value in micro.items():
        if hasattr(value, "shape"):
            line = f"  {name} {tuple(value.shape)}"
            if value.ndim == 2 and name.endswith("keep"):
                line += f", {1 - value.double().mean().item():.1%} padding"
            yield line
    documents = micro.get("documents", micro.get("target_documents"))
    if documents is not None and (padding := data.padding(micro)) is not None:
        yield f"  packed: several examples per sequence, {padding:.1%} padding"
    if "numbers" in micro:
        yield from _number_lines(micro, count)
    else:
        yield from _target_lines(data, micro, count)
    yield ""
    yield "  · marks a position that is not included in the loss"


def _number_lines(micro: Any, count: int) -> Iterator[str]:
    for numbers, values in zip(micro["numbers"][:count], micro["values"][:count], strict=True):
        positions = (
            "(" + " ".join(f"{x:.2f}" for x in position) + ")" for position in numbers.tolist()
        )
        targets = ("·" if math.isnan(value) else f"{value:.2f}" for value in values.tolist())
        yield ""
        yield f"  numbers: {truncate(' '.join(positions))}"
        yield f"  targets: {truncate(' '.join(targets))}"


def _target_lines(data: Any, micro: Any, count: int) -> Iterator[str]:
    documents = micro.get("documents", micro.get("target_documents"))
    decode = data.tokenizer_.decode
    for row in range(min(count, len(next(iter(micro.values()))))):
        yield ""
        for name in ("source", "tokens"):
            if name in micro:
                keep = micro.get("source_keep" if name == "source" else "keep")
                ids = micro[name][row]
                ids = ids if keep is None else ids[keep[row]]  # removes the padding
                yield f"  {name}: {truncate(_pieces(ids.tolist(), decode))}"
        labels = micro.get("labels", micro.get("targets"))
        if labels.ndim == 1 and documents is not None:
            first = sum(map(len, documents.lengths[:row]))
            labels = labels[first : first + len(documents.lengths[row])]
        else:
            labels = labels[row]
        if labels.ndim == 0:
            yield f"  label: {data.labels[int(labels)]}"
        elif labels.is_floating_point() or (data.labels and not data.states_classes):
            values = ("·" if math.isnan(number) else f"{number:g}" for number in labels.tolist())
            yield f"  numbers: {truncate(' '.join(values))}"
        elif data.labels:
            names = ["·" if tag == IGNORE else data.labels[tag] for tag in labels.tolist()]
            yield f"  labels: {truncate(' '.join(names))}"
        else:
            yield f"  targets: {truncate(_pieces(labels.tolist(), decode))}"


def _pieces(ids: Sequence[int], decode: Any) -> str:
    return "|".join("·" if number == IGNORE else decode([number]) for number in ids)
