"""What models write, and how it compares with the targets: translations and answers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.examples.encoding import warn_of_cut
from etude.data.loading import EVALUATION_POSITIONS
from etude.generation.words import whole
from etude.tasks.metrics import RowMetrics
from etude.tasks.options import Beams


class TextMetrics(RowMetrics):
    """`bleu`, `chrf` and `exact` of texts; see `translation_metrics`."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, str]] = {}

    def add(self, row: int, target: str, text: str) -> None:
        """Adds what was written for a row."""
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
        targets, found = zip(*pairs, strict=True)
        return translation_metrics(found, targets)

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
    """The targets that a `Seq2Seq` finds, in the order of the sources."""
    longest = beams.max_new_tokens or length
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    found: dict[int, str] = {}
    size = max(1, EVALUATION_POSITIONS // (longest * beams.beams))
    read = [cut_to(model.tokenizer, source, length - 1) for source in sources]
    warn_of_cut(sum(a != b for a, b in zip(read, sources, strict=True)), length)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        texts = model.generate(
            [read[place] for place in places],
            max_new_tokens=longest,
            batch_size=size * beams.beams,
            beams=beams.beams,
            greedy=beams.beams == 1,
            length_penalty=beams.length_penalty,
        )
        found |= dict(zip(places, [text.strip() for text in texts], strict=True))
    return [found[place] for place in range(len(sources))]


def cut_to(tokenizer: Any, text: str, longest: int) -> str:
    """The text, or as many whole characters of it as `longest` tokens spell."""
    ids = tokenizer.encode(text)
    return text if len(ids) <= longest else whole(tokenizer.decode(ids[:longest]))


def translation_metrics(found: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """`bleu` (Papineni et al. 2002) and `chrf` (Popovic 2015) of a corpus, from 0 to 100, by
    sacrebleu; Chinese and Japanese targets are cut as it does for these (`zh`, by characters for
    Japanese), and `exact`, the part of the targets met to the letter.
    """
    import sacrebleu

    cut = "zh" if _is_chinese(targets) else "13a"
    bleu = sacrebleu.corpus_bleu(list(found), [list(targets)], tokenize=cut)
    chrf = sacrebleu.corpus_chrf(list(found), [list(targets)])
    exact = float(np.mean([a == b for a, b in zip(found, targets, strict=True)]))
    return {"bleu": bleu.score, "chrf": chrf.score, "exact": exact}


def translation_score(found: str, target: str) -> float:
    """chrF of one text, from 0 to 1."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(found, [target]).score / 100)


def _is_chinese(texts: Sequence[str]) -> bool:
    some = "".join(texts[:1000])
    return sum("\u4e00" <= letter <= "\u9fff" for letter in some) > len(some) / 10
