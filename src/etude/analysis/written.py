"""What models write, and how it compares with the targets: translations and answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from etude.data.examples.base import ExampleData
from etude.data.examples.encoding import encode, warn_of_cut
from etude.data.loading import EVALUATION_POSITIONS
from etude.errors import Problem, RequestError
from etude.generation.words import whole
from etude.tasks.instruction import AnswerObjective, Instruction
from etude.tasks.translation import Translation


@dataclass(frozen=True)
class Beams:
    """How targets are searched for.

    Attributes:
        beams: continuations kept; 1 takes the likeliest token each time.
        length_penalty: above 0 favours long targets.
        max_new_tokens: their length at most.
    """

    beams: int = 4
    length_penalty: float = 1.0
    max_new_tokens: int | None = None


def search_of(task: type, beams: int | None = None, length_penalty: float | None = None) -> Beams:
    """How a run's targets are searched for.

    Args:
        task: the run's.
        beams, length_penalty: None is the default of `Beams`.

    Raises:
        RequestError: one is given, and the task searches for no targets.
    """
    asked: dict[str, Any] = {"beams": beams, "length_penalty": length_penalty}
    given = {key: value for key, value in asked.items() if value is not None}
    if given and not issubclass(task, Translation):
        expected = f"none: {task.__name__} searches for no targets"
        raise RequestError([Problem(key, expected, value) for key, value in given.items()])
    problems = []
    if beams is not None and beams < 1:
        problems.append(Problem("beams", "a positive number", beams))
    if length_penalty is not None and not math.isfinite(length_penalty):
        problems.append(Problem("length_penalty", "a finite number", length_penalty))
    if problems:
        raise RequestError(problems)
    return Beams(**given)


def compared(
    numbers: Sequence[int], targets: Sequence[str], texts: Sequence[str]
) -> dict[str, Any]:
    """What was written beside the targets of the rows with these numbers: the parts of an
    `Evaluation`, and by `score` the metrics of some of them.
    """
    predictions = [
        {
            "row": number,
            "label": target,
            "prediction": text,
            "right": text == target,
            "score": translation_score(text, target),
        }
        for number, target, text in zip(numbers, targets, texts, strict=True)
    ]

    def score(some: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        if not some:
            return {}
        found, wanted = ([each[key] for each in some] for key in ("prediction", "label"))
        return translation_metrics(found, wanted)

    return {"metrics": score(predictions), "predictions": predictions, "score": score}


def bound_to(
    task: type[Instruction], options: Mapping[str, Any], data: ExampleData, model: Any
) -> AnswerObjective:
    """The template in a model's tokens."""
    known = SimpleNamespace(settings={"sequence_length": data.sequence_length})
    return task.objective(**options).bound(model.tokenizer, known)


def answers(
    model: Any, template: AnswerObjective, sources: Sequence[str], length: int
) -> list[str]:
    """What a `LanguageModel` answers to each source, the likeliest token after the other: up to
    what the template has after an answer, or `length` tokens.
    """
    tokenizer = model.tokenizer
    first, *more = template.after
    ends = [] if more or first not in tokenizer.special_tokens().values() else [first]
    tail = tokenizer.decode(list(template.after)) if not ends else ""
    found = []
    encoded = encode(list(sources), tokenizer, length, framed=False)
    warn_of_cut(sum(len(pieces) > 1 for pieces in encoded), length)
    for piece, *_ in encoded:
        read = [*template.before, *piece.ids, *template.between]
        text = model.answer(read, max_new_tokens=length, stop_tokens=ends)
        found.append((text.partition(tail)[0] if tail else text).strip())
    return found


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
