"""What a trained model writes, beside what it reads and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from etude.data.objective import IGNORE
from etude.models.textual import Writer


def answers(
    model: Writer, examples: Iterable[dict[str, Any]], count: int, longest: int, *, whole: bool
) -> list[str]:
    """Of some examples what the model reads, what it should write, and what it writes, the
    likeliest token after the other.

    Args:
        examples: the arrays of each: `labels`, and `source` or `tokens`.
        count: how many are wanted.
        longest: the most tokens to write.
        whole: as many tokens are written as there should be; else up to one that ends a text.
    """
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.special_tokens().values())
    found = []
    for read, target in islice(_asked(examples), count):
        end = target[-1]
        ends = [end] if end in special else []
        enough = min(longest, len(target)) if whole else longest
        written = model.answer(read, max_new_tokens=enough, stop_tokens=ends)
        kept = [ids[:-1] if ids[-1:] == [end] and ends else ids for ids in (read, target)]
        texts = [*(tokenizer.decode(ids) for ids in kept), written]
        names = ("source", "target", "model")
        found.append("\n".join(f"{n}: {t.strip()}" for n, t in zip(names, texts, strict=True)))
    return found


def _asked(examples: Iterable[dict[str, Any]]) -> Iterator[tuple[list[int], list[int]]]:
    """Of each example the ids that are read before the targets, and these."""
    for arrays in examples:
        labels = arrays["labels"].tolist()
        counted = [label for label in labels if label != IGNORE]
        if not counted:  # an answer of which nothing is left
            continue
        if "source" in arrays:
            yield arrays["source"].tolist(), counted
        else:  # a decoder's labels are the next tokens
            begins = next(place for place, label in enumerate(labels) if label != IGNORE)
            yield arrays["tokens"][: begins + 1].tolist(), counted
