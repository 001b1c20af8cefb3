"""What a run would read, to look at: its data, and the batches of its first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from etude.data.objective import IGNORE
from etude.data.view import cut


def shown(data: Any, *, examples: int, seed: int) -> Iterator[str]:
    """The lines of `etude data show`.

    Args:
        data: prepared.
        examples: how many of each kind.
        seed: of the run whose first step is shown.
    """
    yield from data.described(examples)
    yield from _batch(data, examples, seed)


def _batch(data: Any, count: int, seed: int) -> Iterator[str]:
    data.attach(seed=seed, micro_batch=None, total_steps=1)
    (micro,) = next(iter(data.train_dataloader()))
    yield ""
    yield f"the first step of seed {seed}:"
    yield from of_batch(data, micro, count)


def of_batch(data: Any, micro: Any, count: int) -> Iterator[str]:
    """A batch: the shapes of its arrays, and some of its examples, with their targets.

    Args:
        data: prepared.
        count: how many examples.
    """
    for name, value in micro.items():
        if hasattr(value, "shape"):
            told = f"  {name} {tuple(value.shape)}"
            if value.ndim == 2 and name.endswith("keep"):
                told += f", {1 - value.double().mean().item():.1%} is padding"
            yield told
    documents = micro.get("documents", micro.get("target_documents"))
    if documents is not None and (padding := data.padding(micro)) is not None:
        yield f"  packed: several examples in a sequence, {padding:.1%} is padding"
    if "numbers" in micro:
        yield from _numbers(micro, count)
    else:
        yield from _targets(data, micro, count)
    yield ""
    yield "  ·  does not enter the loss"


def _numbers(micro: Any, count: int) -> Iterator[str]:
    for numbers, values in zip(micro["numbers"][:count], micro["values"][:count], strict=True):
        places = ("(" + " ".join(f"{x:.2f}" for x in place) + ")" for place in numbers.tolist())
        targets = ("·" if math.isnan(value) else f"{value:.2f}" for value in values.tolist())
        yield ""
        yield f"  numbers: {cut(' '.join(places))}"
        yield f"  targets: {cut(' '.join(targets))}"


def _targets(data: Any, micro: Any, count: int) -> Iterator[str]:
    documents = micro.get("documents", micro.get("target_documents"))
    decode = data.tokenizer_.decode
    for row in range(min(count, len(next(iter(micro.values()))))):
        yield ""
        for name in ("source", "tokens"):
            if name in micro:
                keep = micro.get("source_keep" if name == "source" else "keep")
                ids = micro[name][row]
                ids = ids if keep is None else ids[keep[row]]  # without the padding
                yield f"  {name}: {cut(_pieces(ids.tolist(), decode))}"
        labels = micro.get("labels", micro.get("targets"))
        if labels.ndim == 1 and documents is not None:
            first = sum(map(len, documents.lengths[:row]))
            labels = labels[first : first + len(documents.lengths[row])]
        else:
            labels = labels[row]
        if labels.ndim == 0:
            yield f"  label: {data.labels[int(labels)]}"
        elif labels.is_floating_point() or (data.labels and not data.states_classes):
            shown = ("·" if math.isnan(each) else f"{each:g}" for each in labels.tolist())
            yield f"  numbers: {cut(' '.join(shown))}"
        elif data.labels:
            names = ["·" if tag == IGNORE else data.labels[tag] for tag in labels.tolist()]
            yield f"  labels: {cut(' '.join(names))}"
        else:
            yield f"  targets: {cut(_pieces(labels.tolist(), decode))}"


def _pieces(ids: Sequence[int], decode: Any) -> str:
    return "|".join("·" if number == IGNORE else decode([number]) for number in ids)
