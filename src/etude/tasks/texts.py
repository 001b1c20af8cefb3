"""Metrics of generated texts: translations and answers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.examples.encoding import warn_truncated
from etude.data.loading import EVALUATION_POSITIONS
from etude.generation.text_constraints import strip_incomplete_character
from etude.tasks.metrics import RowMetrics
from etude.tasks.options import Beams


class TextMetrics(RowMetrics):
    """Metrics of generated texts: `bleu`, `chrf` and `exact`; see `translation_metrics`."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, str]] = {}

    def add(self, row: int, target: str, text: str) -> None:
        """Adds a row to the metrics: its index in the data, its target and the generated text."""
        self._texts[row] = (target, text)

    def update(self, batch: Mapping[str, Any], outputs: Sequence[str]) -> None:
        for row, target, text in zip(batch["row"], batch["target"], outputs, strict=True):
            self.add(row, target, text)

    def merge(self, other: TextMetrics) -> None:
        self._texts |= other._texts

    def compute(self) -> dict[str, float]:
        return self.of()

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        pairs = [self._texts[row] for row in sorted(self._texts) if rows is None or row in rows]
        if not pairs:
            return {}
        targets, texts = zip(*pairs, strict=True)
        return translation_metrics(texts, targets)

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "label": target,
                "prediction": text,
                "right": text == target,
                "score": translation_score(text, target),
            }
            for row, (target, text) in sorted(self._texts.items())
        ]


def translations(model: Any, sources: Sequence[str], beams: Beams, length: int) -> list[str]:
    """Returns the target that a model generates for each source, in the order of the sources.

    Args:
        model: a `Seq2Seq`.
        sources: source texts.
        beams: options of the beam search.
        length: largest number of tokens of a source, including the end-of-text token, and by
            default of a target. The end of a longer source is cut off, with a warning.
    """
    longest = beams.max_new_tokens or length
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
    targets: dict[int, str] = {}
    size = max(1, EVALUATION_POSITIONS // (longest * beams.beams))
    inputs = [cut_to(model.tokenizer, source, length - 1) for source in sources]
    warn_truncated(sum(a != b for a, b in zip(inputs, sources, strict=True)), length)
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        texts = model.generate(
            [inputs[index] for index in batch],
            max_new_tokens=longest,
            batch_size=size * beams.beams,
            beams=beams.beams,
            greedy=beams.beams == 1,
            length_penalty=beams.length_penalty,
        )
        targets |= dict(zip(batch, [text.strip() for text in texts], strict=True))
    return [targets[index] for index in range(len(sources))]


def cut_to(tokenizer: Any, text: str, longest: int) -> str:
    """Returns the text, shortened to at most `longest` tokens and to whole characters."""
    ids = tokenizer.encode(text)
    return (
        text if len(ids) <= longest else strip_incomplete_character(tokenizer.decode(ids[:longest]))
    )


def translation_metrics(texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Returns the metrics of generated texts: `bleu` (Papineni et al. 2002) and `chrf` (Popovic
    2015), from 0 to 100, computed with sacrebleu, and `exact`, the fraction of exact matches.

    For BLEU, Chinese and Japanese targets are split with sacrebleu's tokenizer `zh`, which splits
    Japanese into characters.
    """
    import sacrebleu

    tokenizer = "zh" if _is_chinese(targets) else "13a"
    bleu = sacrebleu.corpus_bleu(list(texts), [list(targets)], tokenize=tokenizer)
    chrf = sacrebleu.corpus_chrf(list(texts), [list(targets)])
    exact = float(np.mean([a == b for a, b in zip(texts, targets, strict=True)]))
    return {"bleu": bleu.score, "chrf": chrf.score, "exact": exact}


def translation_score(text: str, target: str) -> float:
    """Returns the chrF of a generated text with respect to its target, from 0 to 1."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(text, [target]).score / 100)


def _is_chinese(texts: Sequence[str]) -> bool:
    sample = "".join(texts[:1000])
    return sum("\u4e00" <= letter <= "\u9fff" for letter in sample) > len(sample) / 10
