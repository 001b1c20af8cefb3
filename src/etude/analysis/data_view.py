"""What a run would read, to look at: splits, labels, lengths, examples, a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from etude.data.examples.base import ExampleData
from etude.data.examples.source import SPLITS
from etude.data.objective import IGNORE
from etude.data.synthetic.base import SyntheticData

WIDTH = 40  # of the longest bar
BARS = 12
WIDE = 110  # characters of a row


def shown(data: Any, *, examples: int, seed: int) -> Iterator[str]:
    """The lines of `etude data show`.

    Args:
        data: prepared.
        examples: how many of each kind.
        seed: of the run whose first step is shown.
    """
    if isinstance(data, ExampleData):
        yield from _splits(data)
        yield from data.meta.notes
        yield from _labels(data)
        yield from _lengths(data)
        yield from _examples(data, examples)
    elif isinstance(data, SyntheticData):
        yield from _made(data)
    else:
        yield from _text(data)
    yield from _batch(data, examples, seed)


def _splits(data: ExampleData) -> Iterator[str]:
    columns = (
        "rows", "examples", "tokens", "longest", "unknown", "empty", "truncated", "repeated",
        "leaked", "dropped",
    )  # fmt: skip
    rows = []
    for split in reversed(SPLITS):
        found = data.meta.splits[split]
        if found.rows:
            rows.append([split, *(f"{getattr(found, name):,}" for name in columns)])
    yield from _table(["split", *columns], rows)
    yield ""
    yield "repeated: said before in the split; leaked: in validation or test too; dropped: for that"


def _labels(data: ExampleData) -> Iterator[str]:
    if not data.meta.labels:
        return
    splits = [split for split in reversed(SPLITS) if data.meta.splits[split].rows]
    counts = np.array([data.meta.splits[split].labels for split in splits])
    order = np.argsort(-counts[0], kind="stable")
    rows = []
    for place in order[:30]:
        cells = []
        for split in range(len(splits)):
            total = max(1, counts[split].sum())
            cells.append(f"{counts[split, place]:,} ({counts[split, place] / total:.1%})")
        rows.append([data.meta.labels[place], *cells])
    yield ""
    yield from _table(["label", *splits], rows)
    if len(order) > 30:
        yield f"and {len(order) - 30} more labels"


def _lengths(data: ExampleData) -> Iterator[str]:
    lengths = data.table("train").lengths()
    yield ""
    quantiles = np.quantile(lengths, [0.5, 0.9, 0.99])
    middle = ", ".join(f"{q:.0f}" for q in quantiles)
    yield f"tokens in a training example: median, 90 %, 99 %: {middle}; at most {lengths.max()}"
    edges = np.linspace(0, lengths.max(), BARS + 1).round().astype(int)
    counts, _ = np.histogram(lengths, bins=np.unique(edges))
    for low, high, count in zip(np.unique(edges)[:-1], np.unique(edges)[1:], counts, strict=True):
        bar = "█" * round(WIDTH * count / counts.max())
        yield f"  {low:>5}-{high:<5} {count:>8,} {bar}"


def _examples(data: ExampleData, count: int) -> Iterator[str]:
    fields = data._fields("train")
    for number in range(min(count, len(next(iter(fields.values()))))):
        yield ""
        yield f"training example {number}"
        for name, lists in fields.items():
            ids = lists[number].tolist()
            if name in data.text_fields:
                yield f"  {name}: {_cut(data.tokenizer_.decode(ids))}"
            elif name == "label":
                yield f"  label: {data.meta.labels[ids[0]]}"
            elif name == "tags":
                tags = " ".join(data.meta.labels[tag] for tag in ids if tag != IGNORE)
                yield f"  tags: {_cut(tags)}"


def _text(data: Any) -> Iterator[str]:
    rows = []
    for name, found in data.meta.splits.items():
        per = f"{found.characters / max(1, found.tokens):.2f}"
        cells = [found.documents, found.characters, found.tokens]
        rows.append([name, *(f"{cell:,}" for cell in cells), per, f"{found.unknown:,}"])
    columns = ["split", "documents", "characters", "tokens", "characters a token", "unknown"]
    yield from _table(columns, rows)
    yield ""
    yield f"vocabulary: {data.tokenizer_.vocab_size:,}; windows of {data.sequence_length} tokens"


def _made(data: SyntheticData) -> Iterator[str]:
    for split, found in data.meta.splits.items():
        count, when = ("new", " at every step")
        if found.examples is not None:
            count, when = f"{found.examples:,}", ""
        places = "tokens" if data.dimensions is None else "places"
        yield f"{split}: {count} examples of {data.sequence_length} {places}{when}"
    if data.dimensions is not None:
        yield f"numbers at a place: {data.dimensions}"
        return
    total = f", of {data.size:,} in all" if data.size is not None else ""
    yield f"vocabulary: {len(data.symbols):,}{total}"


def _batch(data: Any, count: int, seed: int) -> Iterator[str]:
    data.attach(seed=seed, micro_batch=None, total_steps=1)
    (micro,) = next(iter(data.train_dataloader()))
    yield ""
    yield f"the first step of seed {seed}:"
    for name, value in micro.items():
        if hasattr(value, "shape"):
            told = f"  {name} {tuple(value.shape)}"
            if value.ndim == 2 and name.endswith("keep"):
                told += f", {1 - value.double().mean().item():.1%} is padding"
            yield told
    documents = micro.get("documents", micro.get("target_documents"))
    if isinstance(data, ExampleData) and documents is not None:
        assert data.objective is not None
        there = sum(micro[name].numel() for name in data.objective.padded)
        padding = 1 - micro["step_tokens"] / there
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
        yield f"  numbers: {_cut(' '.join(places))}"
        yield f"  targets: {_cut(' '.join(targets))}"


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
                yield f"  {name}: {_cut(_pieces(ids.tolist(), decode))}"
        labels = micro.get("labels", micro.get("targets"))
        if labels.ndim == 1 and documents is not None:
            first = sum(map(len, documents.lengths[:row]))
            labels = labels[first : first + len(documents.lengths[row])]
        else:
            labels = labels[row]
        if labels.ndim == 0:
            yield f"  label: {data.labels[int(labels)]}"
        elif data.labels:
            names = ["·" if tag == IGNORE else data.labels[tag] for tag in labels.tolist()]
            yield f"  labels: {_cut(' '.join(names))}"
        else:
            yield f"  targets: {_cut(_pieces(labels.tolist(), decode))}"


def _pieces(ids: Sequence[int], decode: Any) -> str:
    return "|".join("·" if number == IGNORE else decode([number]) for number in ids)


def _cut(text: str) -> str:
    plain = text.replace("\n", "⏎")
    return plain if len(plain) <= WIDE else plain[: WIDE - 1] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (cell for cell in row)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
