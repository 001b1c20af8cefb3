"""Descriptions of prepared data as lines of text: splits, labels, lengths and examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from etude.data.examples.source import SPLITS
from etude.data.objective import IGNORE

WIDTH = 40  # characters of the longest bar
BARS = 12
WIDE = 110  # maximum characters of a line


def describe_rows(data: Any, examples: int) -> Iterator[str]:
    """Yields the lines that describe data whose examples have fields.

    Args:
        data: the prepared data, an `ExampleData`.
        examples: number of training examples to show, from the first on; all if there are fewer.
    """
    yield from _splits(data)
    yield from data.meta.notes
    yield from _labels(data)
    yield from _lengths(data)
    yield from _examples(data, examples)


def _splits(data: Any) -> Iterator[str]:
    columns = (
        "rows", "examples", "tokens", "longest", "unknown", "empty", "truncated", "repeated",
        "leaked", "dropped",
    )  # fmt: skip
    rows = []
    for split in reversed(SPLITS):
        counts = data.meta.splits[split]
        if counts.rows:
            rows.append([split, *(f"{getattr(counts, name):,}" for name in columns)])
    yield from _table(["split", *columns], rows)
    yield ""
    yield (
        "repeated: rows with the text of an earlier row; leaked: rows whose text is also in the "
        "test split, or training rows whose text is also in the validation split; dropped: leaked "
        "rows that were removed"
    )


def _labels(data: Any) -> Iterator[str]:
    if not data.meta.labels or not data.states_classes:
        return
    splits = [split for split in reversed(SPLITS) if data.meta.splits[split].rows]
    counts = np.array([data.meta.splits[split].labels for split in splits])
    order = np.argsort(-counts[0], kind="stable")
    rows = []
    for label in order[:30]:
        cells = []
        for split in range(len(splits)):
            total = max(1, counts[split].sum())
            cells.append(f"{counts[split, label]:,} ({counts[split, label] / total:.1%})")
        rows.append([data.meta.labels[label], *cells])
    yield ""
    yield from _table(["label", *splits], rows)
    if len(order) > 30:
        yield f"and {len(order) - 30} more labels"


def _lengths(data: Any) -> Iterator[str]:
    lengths = data.table("train").lengths()
    yield ""
    quantiles = np.quantile(lengths, [0.5, 0.9, 0.99])
    q50, q90, q99 = (f"{q:.0f}" for q in quantiles)
    yield (
        f"tokens in a training example: median {q50}, 90 % quantile {q90}, "
        f"99 % quantile {q99}, maximum {lengths.max()}"
    )
    edges = np.linspace(lengths.min() - 1, lengths.max(), BARS + 1).round().astype(int)
    counts, _ = np.histogram(lengths, bins=np.unique(edges))
    for low, high, count in zip(np.unique(edges)[:-1], np.unique(edges)[1:], counts, strict=True):
        bar = "█" * round(WIDTH * count / counts.max())
        yield f"  {low:>5}-{high:<5} {count:>8,} {bar}"


def _examples(data: Any, count: int) -> Iterator[str]:
    fields = data._fields("train")
    for number in range(min(count, len(next(iter(fields.values()))))):
        yield ""
        yield f"training example {number}"
        for name, lists in fields.items():
            ids = lists[number].tolist()
            if name in data.kinds.floats:
                yield f"  {name}: {truncate(' '.join(f'{each:g}' for each in ids))}"
            elif name in data.text_fields:
                yield f"  {name}: {truncate(data.tokenizer_.decode(ids))}"
            elif name == "label":
                yield f"  label: {data.meta.labels[ids[0]]}"
            elif name == "tags":
                tags = " ".join(data.meta.labels[tag] for tag in ids if tag != IGNORE)
                yield f"  tags: {truncate(tags)}"


def describe_text(data: Any) -> Iterator[str]:
    """Yields the lines that describe `data`, a prepared corpus (`TextData`)."""
    rows = []
    for name, meta in data.meta.splits.items():
        characters_per_token = f"{meta.characters / max(1, meta.tokens):.2f}"
        cells = [meta.documents, meta.characters, meta.tokens]
        rows.append(
            [name, *(f"{cell:,}" for cell in cells), characters_per_token, f"{meta.unknown:,}"]
        )
    columns = ["split", "documents", "characters", "tokens", "characters/token", "unknown"]
    yield from _table(columns, rows)
    yield ""
    vocabulary = f"{data.tokenizer_.vocab_size:,} tokens"
    yield f"vocabulary: {vocabulary}; windows of {data.sequence_length} tokens"
    if data.curriculum is not None:
        for name, step in data.curriculum.points():
            yield f"from step {step:,} on: {name} {getattr(data.curriculum, name)[step]}"


def describe_synthetic(data: Any) -> Iterator[str]:
    """Yields the lines that describe `data`, prepared synthetic data (`SyntheticData`)."""
    for split, meta in data.meta.splits.items():
        count, when = ("new", " at every step")
        if meta.examples is not None:
            count, when = f"{meta.examples:,}", ""
        unit = "tokens" if data.dimensions is None else "positions"
        yield f"{split}: {count} examples of {data.sequence_length} {unit}{when}"
    if data.dimensions is not None:
        yield f"numbers per position: {data.dimensions}"
        return
    total = f"; {data.size:,} distinct examples in all" if data.size is not None else ""
    yield f"vocabulary: {len(data.symbols):,} tokens{total}"


def truncate(text: str) -> str:
    """Returns the text on one line (⏎ for a newline), truncated to `WIDE` characters."""
    line = text.replace("\n", "⏎")
    return line if len(line) <= WIDE else line[: WIDE - 1] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (cell for cell in row)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
