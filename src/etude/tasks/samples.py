"""Samples of a trained model's answers, with sources and targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from etude.data.objective import IGNORE
from etude.models.wrappers import Writer


def answers(
    model: Writer, examples: Iterable[dict[str, Any]], count: int, longest: int, *, whole: bool
) -> list[str]:
    """Returns a text for each of the first `count` examples: `source: ...`, `target: ...` and
    `model: ...` on separate lines, with the example's source and target, and the model's answer.

    Args:
        model: model that generates the answer greedily.
        examples: dicts with the arrays of each example: `labels` (target ids), and `source` or
            `tokens` (input ids).
        count: number of examples to use; examples without a target are skipped.
        longest: largest number of tokens in an answer.
        whole: whether to generate as many tokens as the target has, but at most `longest`.
            Otherwise, the limit is `longest`. In both cases, generation stops early at one of the
            model's stop tokens, or at the target's last token if that is a special token.
    """
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.special_tokens().values())
    samples = []
    for source, target in islice(_sources_and_targets(examples), count):
        end = target[-1]
        ends = [end] if end in special else []
        most = min(longest, len(target)) if whole else longest
        answer = model.answer(source, max_new_tokens=most, stop_tokens=ends)
        trimmed = [ids[:-1] if ids[-1:] == [end] and ends else ids for ids in (source, target)]
        texts = [*(tokenizer.decode(ids) for ids in trimmed), answer]
        names = ("source", "target", "model")
        samples.append("\n".join(f"{n}: {t.strip()}" for n, t in zip(names, texts, strict=True)))
    return samples


def _sources_and_targets(
    examples: Iterable[dict[str, Any]],
) -> Iterator[tuple[list[int], list[int]]]:
    """Yields the token ids of the source and of the target of each example that has a target."""
    for arrays in examples:
        labels = arrays["labels"].tolist()
        targets = [label for label in labels if label != IGNORE]
        if not targets:  # the answer was cut off completely
            continue
        if "source" in arrays:
            yield arrays["source"].tolist(), targets
        else:  # a decoder's labels are the next tokens
            start = next(index for index, label in enumerate(labels) if label != IGNORE)
            yield arrays["tokens"][: start + 1].tolist(), targets
